"""The machine description: parsed texts, absent files, JSON-ready."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bytemlperf.hardware import machine as module
from bytemlperf.hardware.machine import cpu, discover, git_state, memory, package_versions, parse_gpus

FLAGS = "fpu avx2 avx512f avx512_bf16 amx_tile"
TWO_SOCKETS = "\n\n".join(
    f"processor\t: {index}\nmodel name\t: Test CPU\nphysical id\t: {index // 4}\ncore id\t: {index % 4 // 2}\nflags\t: {FLAGS}"
    for index in range(8)
)


def test_is_json_and_knows_this_machine():
    found = json.loads(json.dumps(discover()))
    assert found["cpu"]["logical_cores"] >= found["cpu"]["usable_cores"] >= 1
    assert found["memory"]["total_bytes"] > 1 << 20
    assert found["os"]["name"] == "Linux"
    assert found["python"]["version"] == ".".join(map(str, sys.version_info[:3]))


def test_cores_sockets_and_flags_come_from_cpuinfo():
    found = cpu(TWO_SOCKETS)
    assert found["model"] == "Test CPU"
    assert (found["sockets"], found["physical_cores"]) == (2, 4)
    assert found["isa"] == ["amx", "avx2", "avx512f", "bf16"]


def test_arm_flags_are_called_features():
    assert cpu("processor : 0\nFeatures : fp asimd bf16 sve2\n")["isa"] == ["bf16", "neon", "sve2"]


def test_hidden_files_are_none_not_errors(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "text_of", lambda path: "")
    assert cpu()["physical_cores"] is None
    assert memory() == {"total_bytes": None, "swap_bytes": None, "limit_bytes": None}


@pytest.mark.parametrize(("quota", "cores"), [("150000 100000", 1.5), ("max 100000", None), ("", None), ("5 0", None)])
def test_a_containers_cpu_quota_is_told(monkeypatch: pytest.MonkeyPatch, quota: str, cores: float | None):
    monkeypatch.setattr(module, "text_of", lambda path: quota if str(path).endswith("cpu.max") else "")
    assert cpu()["quota_cores"] == cores


def test_gpus_are_parsed_and_error_texts_are_not():
    line = "0, NVIDIA H100 80GB HBM3, GPU-1, 81559 MiB, 570.1, 9.0, 700.00 W"
    gpus = parse_gpus(f"{line}\nNo devices were found\n")
    assert [gpu["name"] for gpu in gpus] == ["NVIDIA H100 80GB HBM3"]
    assert gpus[0]["memory.total"] == "81559 MiB"


def test_a_failing_nvidia_smi_means_no_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'Failed to initialize NVML'; exit 9\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert module.has_nvidia_driver()
    assert discover()["gpus"] == []


def test_versions_of_what_is_installed_only():
    versions = package_versions(["pytest", "no-such-distribution"])
    assert versions == {"pytest": pytest.__version__}


def test_git_state(tmp_path: Path):
    assert git_state(tmp_path) is None

    def git(*arguments: str) -> None:
        subprocess.run(["git", "-C", tmp_path, "-c", "user.name=t", "-c", "user.email=t@t", *arguments], check=True, capture_output=True)

    git("init")
    assert git_state(tmp_path) is None
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-m", "first")
    state = git_state(tmp_path)
    assert state is not None
    assert len(state["commit"]) == 40
    assert state["dirty"] is False
    (tmp_path / "file").write_text("2")
    assert git_state(tmp_path) == {"commit": state["commit"], "dirty": True}


def test_an_environment_inside_someones_repository_is_not_that_repository(tmp_path: Path):
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    (tmp_path / "tracked").write_text("1")
    subprocess.run(["git", "-C", tmp_path, "add", "tracked"], check=True)
    subprocess.run(["git", "-C", tmp_path, "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "x"], check=True)
    inside = tmp_path / ".venv"
    inside.mkdir()
    assert git_state(inside) is None
