"""Runs by name wherever a folder is taken."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bytemlperf.errors import UserError
from bytemlperf.runs.names import run_named
from tests.report.inside import bmp
from tests.report.made import llm_run

OLD = "20261101T120000Z-llm-base-aa11bb"
NEW = "20261102T120000Z-llm-new-kernel-aa22cc"
NEWEST = "20261103T120000Z-micro-base-dd33ee"


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in (OLD, NEW, NEWEST):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "run.json").write_text("{}")
    (tmp_path / "runs/20261104T120000Z-llm-not-a-run-ff00ff").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("latest", NEWEST),
        ("latest~1", NEW),
        ("latest~2", OLD),
        ("dd33ee", NEWEST),
        ("dd", NEWEST),
        ("aa1", OLD),
        ("new kernel", NEW),
        (OLD, OLD),
    ],
)
def test_a_run_has_names(runs: Path, name: str, folder: str):
    assert run_named(Path(name)) == Path("runs") / folder


@pytest.mark.parametrize(("name", "says"), [("base", "2 runs are called"), ("aa", "2 runs are called"), ("latest~3", "holds 3 runs")])
def test_a_name_of_several_runs_or_of_none_is_told(runs: Path, name: str, says: str):
    with pytest.raises(UserError, match=says) as told:
        run_named(Path(name))
    assert "aa11bb" in told.value.fix or "bmp runs" in told.value.fix


def test_paths_go_before_names_and_what_has_no_name_stays(runs: Path):
    Path("latest").mkdir()
    for path in ("latest", f"runs/{OLD}", "elsewhere/latest", "a", "nothing-called-so"):
        assert run_named(Path(path)) == Path(path)


def test_commands_take_names_and_the_list_shows_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name, label in ((OLD, "base"), (NEW, "new-kernel")):
        llm_run(tmp_path / "runs" / name, 60, label=label)
    monkeypatch.chdir(tmp_path)
    listed = bmp("runs").stdout
    assert "aa11bb" in listed
    assert "aa22cc" in listed
    compared = bmp("compare", "base", "latest", "--baseline", "aa22", "--format", "json")
    assert json.loads(compared.stdout)["comparisons"][0]["baseline"] == "new-kernel"
    assert bmp("verify", "aa11").returncode == bmp("verify", f"runs/{OLD}").returncode
    missing = bmp("compare", "base", "no-such-run")
    assert "no-such-run is not a run folder" in missing.stdout
