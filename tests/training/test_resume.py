"""`bmp train resume`: an interrupted run goes on in its folder, to the same bits; what a folder can't decide is asked for."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bytemlperf.errors import UserError
from bytemlperf.runs.folder import write_json
from bytemlperf.runs.records import RunRecords
from bytemlperf.runs.suite import SuiteRun, verify_suite
from tests.training.conftest import BMP, STEPS, Ran, bmp
from tests.training.test_faults import _running, _wait_for_steps, _wait_until
from training.command.resume import resume_train
from training.plan.flags import Flags, Output
from training.plan.layout import Layout
from training.plan.plan import PLAN_NAME, make_plan
from training.results.records import History, Record
from training.workload import workload
from training.workload.corpus import prepare_corpus

QUICK = ("--nproc", "2", "--dp", "2", "--steps", str(STEPS), "--deterministic")


def stopped_run(place: Path, number: int, steps: int, *flags: str) -> Path:
    """A run whose starter got a signal after so many steps; its last step is a second away, so that it comes in time."""
    command = [str(BMP), "train", "gpt-tiny", *QUICK, *flags, "--runs-dir", str(place)]
    starter = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        folder = _wait_for_steps(place, steps).parent
    finally:
        starter.send_signal(number)
        starter.wait()
    _wait_until(lambda: not _running(str(folder)))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("number", "every", "first"), [(signal.SIGKILL, "10", 30), (signal.SIGKILL, "0", 0)])
def test_a_killed_run_goes_on_to_the_same_bits(tmp_path: Path, ddp_run: Ran, number: int, every: str, first: int) -> None:
    folder = stopped_run(tmp_path, number, 33, "--checkpoint-every", every, "--fault", "hang:1:37")
    ended = bmp("train", "resume", str(folder))
    assert (ended.status, ended.folder) == (0, folder), ended.out + ended.err
    history = History(RunRecords(folder, Record))
    assert [start.first_step for start in history.starts] == [0, first]
    assert [start.attempt for start in history.starts] == [0, 1]
    assert [step.step for step in history.curve] == list(range(STEPS))
    assert history.end is not None
    assert history.end.state_sha256 == ddp_run.only("end")[0]["state_sha256"]
    assert ended.check("repeated steps")["value"] == 0.0
    assert ended.summary["recovery"] == []
    assert f"resumed from step {first}: the pause before is excluded" in ended.summary["warnings"]
    assert verify_suite(folder).findings == []
    again = bmp("train", "resume", str(folder))
    assert (again.status, "is complete: steps done" in again.err) == (2, True), again.err


def made_run(place: Path, **flags: Any) -> Path:
    """A run of gpt-tiny that was stopped before its first step."""
    tiny = workload.load("gpt-tiny")
    plan = make_plan(Flags(workload="gpt-tiny", **flags), tiny, Layout(world=1), prepare_corpus(tiny.data), place, "cpu")
    with SuiteRun.begin(place, "training", "made", msgspec.to_builtins(plan), command=["bmp"], seed=0, more={"beside": {}}) as run:
        (run.folder / PLAN_NAME).write_bytes(msgspec.json.encode(plan))
    return run.folder


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_run(tmp_path_factory.mktemp("left"))


def changed(left: Path, place: Path, **changes: Any) -> Path:
    folder = place / "run"
    shutil.copytree(left, folder)
    run = json.loads((folder / "run.json").read_text())
    run["config"].update(changes)
    write_json(folder / "run.json", run)
    return folder


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"nnodes": 2}, "the run is over 2 machines"),
        ({"steps": "many"}, "its plan is of another version"),
        ({"workload": {"name": "x"}}, "its plan is of another version"),
        ({"study": "scale"}, "is a study"),
        ({"resume_from": "/elsewhere/step-1"}, "run.json wants --resume-from /elsewhere/step-1, which needs your confirmation"),
        (
            {
                "tokens": {
                    "path": "/etc/passwd",
                    "tokens": 1,
                    "tokenizer": "bytes",
                    "vocabulary": 256,
                    "text_sha256": "0",
                    "source": "texts",
                }
            },
            "the run learned texts, and here they are others",
        ),
    ],
)
def test_what_cannot_go_on_is_refused_and_left_as_it_is(left: Path, tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    folder = changed(left, tmp_path, **changes)
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    with pytest.raises(UserError, match=said):
        resume_train(folder, Output(runs_dir=tmp_path), ["bmp"], trust=False)
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


def test_one_process_at_a_time(left: Path, tmp_path: Path) -> None:
    folder = changed(left, tmp_path)
    held = SuiteRun.open(folder, "training")
    with pytest.raises(UserError, match="still being written"):
        resume_train(folder, Output(runs_dir=tmp_path), ["bmp"], trust=False)
    assert held.folder == folder
