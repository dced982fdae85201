"""Extensions: what is built in loads and keeps its contract; what another package brings is found, named and checked."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bytemlperf.app import COMMANDS, OWN, SUITES
from bytemlperf.errors import UserError
from bytemlperf.extensions import BACKENDS, ENGINES, POINTS, PROVIDERS, RUN_KINDS, TRAINERS, Point

ALL = (*POINTS, SUITES, COMMANDS)
ACME = """
import typer
class Half:
    weights = "none"
    def start(self): ...
class Trainer:
    needs = ("torch", "acme_runtime")
    def step(self): ...
    def parameters(self): ...
    def state(self): ...
    def restore(self): ...
def greet() -> None:
    print("hello from acme")
"""
ENTRIES = """
[bytemlperf.engines]
half = acme:Half
broken = acme_broken:Engine
astray = acme:Nobody
vllm = acme:Half
[bytemlperf.trainers]
acme = acme:Trainer
[bytemlperf.commands]
greet = acme:greet
"""


@pytest.fixture
def acme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A vendor's package on the module path, of this process and of its children."""
    info = tmp_path / "acme_plugins-1.5.dist-info"
    info.mkdir()
    (tmp_path / "acme.py").write_text(ACME)
    (tmp_path / "acme_broken.py").write_text("raise OSError('libacme.so.3\\nis not there')\n")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-plugins\nVersion: 1.5\n")
    (info / "entry_points.txt").write_text(ENTRIES)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(("point", "name"), [(point, name) for point in ALL for name in point.built_in])
def test_every_built_in_one_loads_and_keeps_its_contract(point: Point, name: str) -> None:
    assert point.load(name) is not None


def test_every_mounted_command_has_its_line_of_help() -> None:
    assert set(OWN) == {*SUITES.built_in, *COMMANDS.built_in}
    assert max(len(line) for _, line in OWN.values()) <= 64, "a line of the help in 80 columns"


@pytest.mark.parametrize(
    ("point", "name", "cause", "fix"),
    [
        (ENGINES, "hal", "unknown engine 'hal'", "did you mean 'half'? (see bmp-llm engines)"),
        (PROVIDERS, "onedn", "unknown provider 'onedn'", "did you mean 'onednn'?"),
        (BACKENDS, "torch_eager", "unknown backend 'torch_eager'", "did you mean 'torch-eager'?"),
        (TRAINERS, "zzz", "unknown trainer 'zzz'", "valid: acme, megatron, torch"),
        (RUN_KINDS, "lmm", "unknown kind of run 'lmm'", "did you mean 'llm'?"),
        (ENGINES, "half", "engine 'half', acme:Half, lacks options_type, generate, decode, close", "reinstall acme-plugins"),
        (ENGINES, "broken", "engine 'broken' can't be loaded from acme_broken:Engine: OSError: libacme.so.3", "reinstall acme-plugins"),
        (ENGINES, "astray", "engine 'astray' can't be loaded from acme:Nobody: AttributeError", "reinstall acme-plugins"),
    ],
)
@pytest.mark.usefixtures("acme")
def test_what_is_wrong_with_one_is_said_with_what_to_do(point: Point, name: str, cause: str, fix: str) -> None:
    with pytest.raises(UserError) as refused:
        point.load(name)
    assert cause in refused.value.cause
    assert fix in refused.value.fix


@pytest.mark.usefixtures("acme")
def test_another_package_adds_and_takes_over_no_built_in_name() -> None:
    assert ENGINES.load("vllm").__module__ == "engines.vllm.engine"
    assert ENGINES.all()["vllm"].package == ""
    acme = TRAINERS.find("acme")
    assert (acme.package, acme.missing()) == ("acme-plugins 1.5", "acme_runtime not installed")


@pytest.mark.usefixtures("acme")
def test_the_commands_list_and_run_what_another_package_brings() -> None:
    listed = {(row["point"], row["name"]): row for row in json.loads(bmp("extensions", "--json"))}
    assert listed["engine", "reference"]["from"].startswith("bytemlperf-llm ")
    assert listed["engine", "reference"]["starts_here"]
    assert listed["engine", "broken"]["from"] == "acme-plugins 1.5"
    assert not listed["engine", "broken"]["starts_here"]
    assert {point for point, _ in listed} == {point.what for point in ALL}
    assert "From acme-plugins 1.5." in bmp("--help")
    assert bmp("greet") == "hello from acme\n"


def test_help_imports_no_suite() -> None:
    code = (
        "import sys; from bytemlperf.app import main; sys.argv = ['bmp', '--help']\n"
        "try: main()\nexcept SystemExit: pass\n"
        "ours = ('bytemlperf_llm', 'micro', 'general_perf', 'training', 'engines', 'rich', 'msgspec', 'yaml', 'torch')\n"
        "print('imported:', sorted({name.partition('.')[0] for name in sys.modules} & set(ours)))"
    )
    assert run([sys.executable, "-c", code]).splitlines()[-1] == "imported: []"


def bmp(*words: str) -> str:
    return run([sys.executable, "-c", "from bytemlperf.app import main; main()", *words])


def run(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
