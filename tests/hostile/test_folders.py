"""Hostile run folders against every command that reads one: a line or a result, in bounded time and memory, and the others go on.

Each folder has a process of its own, in which the commands run one after the other: a fifo or a plan without end would hold it
for ever, and a log of gigabytes fill it, so that it has a time limit and a memory limit. These fail only what hangs or explodes.
"""

from __future__ import annotations

import io
import json
import os
import resource
import shutil
import signal
import sys
import tarfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch

import msgspec
import pytest

from bytemlperf import app as bmp
from bytemlperf.command.exits import exit_cleanly
from bytemlperf.errors import UserError
from bytemlperf.report.watch import WatchPage
from bytemlperf.runs.suite import SuiteRun
from tests.hostile import folders
from tests.micro.made import run_and_records
from tests.runs.made_run import made_run
from tests.submit.made import DECLARATION, general_run, submission
from training.plan.flags import Flags
from training.plan.layout import Layout
from training.plan.plan import PLAN_NAME, make_plan
from training.workload import workload

LIMIT_S = 120
"""For all commands on one folder, on a busy machine; a quiet one takes two seconds."""

MORE_BYTES = 3 << 30
"""Of address space, beside what the test itself has: threads reserve some."""

READING = (
    ("verify", "RUN"),
    ("report", "RUN", "--out", "OUT.html"),
    ("report", "RUN", "--format", "md", "--out", "OUT.md"),
    ("report", "RUN", "--format", "json", "--out", "OUT.json"),
    ("compare", "RUN", "WHOLE"),
    ("runs", "tag", "RUN", "seen"),
    ("micro", "export", "RUN", "--out", "OUT.csv"),
    ("general", "report", "RUN"),
    ("train", "keep-reference", "RUN", "OUT.ref"),
    ("submit", "check", "SUBMISSION"),
    ("submit", "pack", "SUBMISSION", "--out", "OUT.tgz"),
    ("watch", "RUN"),
    ("llm", "verify", "RUN"),
)
CHANGING = (
    ("llm", "resume", "RUN"),
    ("micro", "resume", "RUN", "--budget", "0", "-q"),
    ("general", "resume", "RUN"),
    ("train", "finish", "RUN"),
    ("summarize", "RUN"),
)
OF_ALL = (
    ("runs", "--runs-dir", "ALL"),
    ("runs", "export", "OUT.csv", "--runs-dir", "ALL", "--figures"),
    ("site", "build", "ALL", "--out", "OUT.site"),
)
FEW = (
    *("run.json is a fifo", "summary.json is a fifo", "records.jsonl is a link to a device", "run.json is nested deep", "end is a number"),
    *("environment is null", "summary.json is of nulls", "records of nulls", "records of texts", "records of huge numbers"),
)
"""Of those for any kind, enough where the code is the suites' common one."""

MOST = (
    *FEW,
    *("records.jsonl is a folder", "run.json is 8 GiB", "records.jsonl is a line of 8 GiB", "checksums.json is objects nested deep"),
    *("tags.json is a fifo", "gauges.jsonl is a fifo", "environment.hardware.gpus is of nulls", "label is an escape sequence"),
)


@pytest.fixture(scope="module")
def app() -> Any:
    """`bmp`, with all its commands imported."""
    for point in (bmp.SUITES, bmp.COMMANDS):
        for extension in point.all().values():
            extension.load()
    return bmp.app


def llm(place: Path) -> Path:
    place.mkdir()
    return made_run(place / "run", 12)


def micro(place: Path) -> Path:
    made, records = run_and_records()
    with SuiteRun.begin(place, "micro", "made", made["config"], command=["bmp"], seed=0, more={"peaks": made["peaks"]}) as run:
        for record in records:
            run.append(record)
    return run.folder


def training(place: Path) -> Path:
    plan = make_plan(Flags(workload="resnet-tiny"), workload.load("resnet-tiny"), Layout(world=1), None, place, "cpu")
    beside = {"memory_estimate": {"total_bytes": 1}, "reference": None, "rerun_of": None, "micro_collectives": None, "cores": 1}
    with SuiteRun.begin(place, "training", "made", msgspec.to_builtins(plan), command=["bmp"], seed=0, more={"beside": beside}) as run:
        (run.folder / PLAN_NAME).write_bytes(msgspec.json.encode(plan))
        run.append({"record": "end", "attempt": 0, "why": "stopped", "next_step": 0, "state_sha256": "", "at_ns": 1})
    return run.folder


def campaign(place: Path) -> Path:
    jobs = [[engine, "chat", "2 requests/s", 1] for engine in ("a", "b")]
    kept = {"campaign": {"name": "made"}, "fail_if": ["ttft p50 > 5%"], "jobs": jobs}
    figure = {"key": "chat", "metric": "ttft p50", "unit": "ms", "value": 1.0, "better": "lower", "low": 0.9, "high": 1.1}
    with SuiteRun.begin(place, "campaign", "made", kept, command=["bmp"], seed=0) as run:
        for engine, scenario, load, repeat in jobs:
            about = {"engine": engine, "scenario": scenario, "load": load, "repeat": repeat, "verdict": "valid", "level": {"rate_rps": 2.0}}
            run.append(about | {"figures": [figure]})
    return run.folder


KINDS: dict[str, tuple[Callable[[Path], Path], dict[str, folders.Change]]] = {
    "llm": (llm, {name: folders.ANY_KIND[name] for name in MOST} | folders.LLM),
    "llm, the rest": (llm, {name: change for name, change in folders.ANY_KIND.items() if name not in MOST}),
    "micro": (micro, {name: folders.ANY_KIND[name] for name in FEW} | folders.MICRO),
    "general": (lambda place: general_run(place, ("bert", "swin")), {name: folders.ANY_KIND[name] for name in FEW} | folders.GENERAL),
    "campaign": (campaign, {name: folders.ANY_KIND[name] for name in FEW} | folders.CAMPAIGN),
    "training": (training, {name: folders.ANY_KIND[name] for name in FEW} | folders.TRAINING),
}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of address space")
@pytest.mark.parametrize("kind", ["llm", *(pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS if kind != "llm")])
def test_every_command_ends_in_a_line_or_a_result(kind: str, app: Any, tmp_path: Path) -> None:
    make, changes = KINDS[kind]
    whole = make(tmp_path / "whole")
    everything = tmp_path / "all"
    shutil.copytree(whole, everything / "0-whole")
    problems = []
    for number, (name, change) in enumerate(changes.items(), 1):
        place = tmp_path / f"{number}"
        shutil.copytree(whole, place / "submission" / "runs" / "run")
        (place / "submission" / "submission.yaml").write_text(DECLARATION)
        change(run := place / "submission" / "runs" / "run")
        words = {"RUN": str(run), "WHOLE": str(whole), "SUBMISSION": str(place / "submission"), "OUT": str(place / "out")}
        problems += [f"{name}: {problem}" for problem in apart(lambda words=words: outcomes(app, (*READING, *CHANGING), words))]
        shutil.copytree(whole, everything / f"{number}")
        change(everything / f"{number}")
    words = {"ALL": str(everything), "OUT": str(tmp_path / "out")}
    problems += apart(lambda: outcomes(app, OF_ALL, words, must_go_on=True))
    assert problems == []
    assert (tmp_path / "out.site" / "runs" / "0-whole" / "report.html").exists()


def apart(work: Callable[[], Iterator[str]]) -> list[str]:
    """What `work` says in a process of its own with limits; that it didn't end, too."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        signal.alarm(LIMIT_S)
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MORE_BYTES,) * 2)
        for text in work():
            os.write(writing, json.dumps(text).encode() + b"\n")
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as said:
        texts = [json.loads(line) for line in said]
    _, status = os.waitpid(child, 0)
    last = texts[-1].removeprefix("at ") if texts else ""
    problems = [text for text in texts if not text.startswith("at ")]
    return problems if status == 0 else [*problems, f"{last}: ended by {os.waitstatus_to_exitcode(status)}, time or memory ran out"]


def outcomes(app: Any, commands: Any, words: dict[str, str], *, must_go_on: bool = False) -> Iterator[str]:
    """ "at COMMAND" before each; then what was wrong with it, if anything."""
    for command in commands:
        yield f"at {' '.join(command)}"
        given = [
            next((word.replace(key, value) for key, value in words.items() if word.partition(".")[0] == key), word) for word in command
        ]
        try:
            with quiet() as (out, err):
                status = looked(given[1]) if command[0] == "watch" else ran(app, given)
        except Exception:
            yield f"{' '.join(command)}: {traceback.format_exc()[-1500:]}"
            continue
        lines = [line for line in err.getvalue().splitlines() if line.startswith("error: ")]
        if "\x1b" in out.getvalue() + err.getvalue():
            yield f"{' '.join(command)}: an escape sequence"
        if status not in (0, 1, 2, *range(3, 8)) or (status == 2 and len(lines) != 1) or "Traceback" in err.getvalue():
            yield f"{' '.join(command)}: status {status}: {err.getvalue()[-500:]}"
        if must_go_on and status != 0:
            yield f"{' '.join(command)}: one folder ended it: {err.getvalue()[-500:]}"


@contextmanager
def quiet() -> Iterator[tuple[io.StringIO, io.StringIO]]:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        yield out, err


def ran(app: Any, words: list[str]) -> int:
    with patch.object(sys, "argv", ["bmp", *words]):
        try:
            exit_cleanly(app)
        except SystemExit as ended:
            return ended.code if isinstance(ended.code, int) else 0


def looked(folder: str) -> int:
    """`bmp watch`, without its waiting."""
    try:
        page = WatchPage(Path(folder))
        page.look()
        page.look()
    except UserError as error:
        print(f"error: {error.cause}", file=sys.stderr)
        return 2
    return 0


@pytest.mark.parametrize("stray", ["link", "folder", "run", "fifo", "declared", "stranger"])
def test_a_submission_holds_plain_files_of_its_runs_alone(stray: str, app: Any, tmp_path: Path) -> None:
    mine, secret = submission(tmp_path / "mine"), tmp_path / "elsewhere"
    (run,) = mine.glob("runs/*")
    shutil.copytree(run, secret)
    {
        "link": lambda: (run / "report.md").symlink_to("/etc/hostname"),
        "folder": lambda: (run / "ranks").symlink_to("/etc"),
        "run": lambda: (mine / "runs" / "other").symlink_to(secret),
        "fifo": lambda: os.mkfifo(run / "report.md"),
        "declared": lambda: ((mine / "install.sh").unlink(), (mine / "install.sh").symlink_to("/etc/hostname")),
        "stranger": lambda: (run / "id_rsa").write_text("secret"),
    }[stray]()
    with quiet() as (out, _):
        status = ran(app, ["submit", "pack", str(mine), "--out", str(tmp_path / "out.tgz")])
    if stray == "stranger":
        with tarfile.open(tmp_path / "out.tgz") as tar:
            assert not [name for name in tar.getnames() if "id_rsa" in name]
        assert "id_rsa: not a file of a run" in out.getvalue()
    else:
        assert status in (1, 2)
        assert not (tmp_path / "out.tgz").exists()
