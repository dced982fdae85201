"""Runs that go wrong: a rank killed, a rank that hangs, a loss that is no number, a starter that is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bytemlperf.runs.suite import summarise_suite, verify_suite
from bytemlperf.runs.verdicts import SOUND
from tests.training.conftest import BMP, STEPS, Ran

pytestmark = pytest.mark.slow


def test_a_killed_rank_costs_the_steps_since_the_checkpoint_and_no_bit_of_the_result(ddp_run: Ran, killed_run: Ran) -> None:
    assert killed_run.status == 0, killed_run.out + killed_run.err
    assert [step["step"] for step in killed_run.steps] == [*range(33), *range(20, STEPS)]
    assert killed_run.only("end")[0]["state_sha256"] == ddp_run.only("end")[0]["state_sha256"]
    (recovery,) = killed_run.summary["recovery"]
    assert (recovery["resumed_from_step"], recovery["last_step_before"], recovery["lost_steps"]) == (20, 32, 13)
    assert recovery["to_same_step_ns"] > recovery["to_next_step_ns"] > recovery["lost_ns"] > 0
    assert [event["event"] for event in killed_run.only("event")] == ["failure", "restart"]
    assert killed_run.only("event")[0]["detail"] == "rank 1 was killed by SIGKILL"
    assert killed_run.check("repeated steps")["value"] == 0.0
    assert (killed_run.check("repeated run")["status"], killed_run.check("repeated run")["value"]) == ("passed", 0)
    assert "13 steps lost" in killed_run.out


def test_a_hanging_rank_leaves_the_stacks_of_all(train: Callable[..., Ran]) -> None:
    flags = ("--steps", "20", "--step-timeout", "4", "--fault", "hang:1:8", "--no-operator-check")
    run = train("gpt-tiny", "--nproc", "2", *flags)
    assert run.status == 1
    assert run.summary["verdict"] == "invalid"
    assert "rank 1 in rank/loop.py" in run.summary["reasons"][0]
    assert "(_break)" in run.summary["reasons"][0]
    assert [step["step"] for step in run.steps] == list(range(8))
    assert "backward" in (run.folder / "ranks" / "stacks-0.txt").read_text()
    assert [event["event"] for event in run.only("event")] == ["hang"]
    assert verify_suite(run.folder)[0] == []


def test_a_loss_that_is_no_number_ends_the_run(train: Callable[..., Ran]) -> None:
    run = train("resnet", "--nproc", "2", "--steps", "20", "--fault", "nan:0:9")
    assert run.status == 1
    assert run.only("end")[0]["why"] == "diverged"
    assert [step["status"] for step in run.steps] == ["ok"] * 9 + ["diverged"]
    assert run.steps[-1]["loss"] is None
    assert "not finite from step 9" in run.summary["reasons"][0]
    assert run.only("start")[0]["model_flops"] > 0


def test_a_killed_starter_loses_no_step_and_leaves_nothing_running(tmp_path: Path) -> None:
    command = [str(BMP), "train", "gpt-tiny", "--steps", "100000", "--no-operator-check", "--runs-dir", str(tmp_path)]
    starter = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        log = _wait_for_steps(tmp_path, 10)
    finally:
        starter.send_signal(signal.SIGKILL)
        starter.wait()
    counted = log.read_bytes().count(b"\n")
    folder = log.parent
    _wait_until(lambda: not _running(str(folder)))
    summary = summarise_suite(folder)
    assert sum(summary["counts"][name] for name in ("warmup", "traced", "measured")) >= counted - 4
    assert summary["verdict"] == "invalid"
    assert any("killed" in warning for warning in summary["warnings"])


def test_the_first_signal_ends_after_the_step(tmp_path: Path) -> None:
    command = [
        str(BMP),
        "train",
        "gpt-tiny",
        "--steps",
        "100000",
        "--no-operator-check",
        "--prometheus-port",
        "0",
        "--runs-dir",
        str(tmp_path),
    ]
    starter = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert starter.stderr is not None
        log = _wait_for_steps(tmp_path, 10)
        metrics = _scrape(next(line for line in starter.stderr if "metrics" in line))
        starter.send_signal(signal.SIGINT)
        out, _ = starter.communicate(timeout=60)
    finally:
        starter.kill()
    assert starter.returncode == 0, out
    summary = summarise_suite(log.parent)
    assert summary["end"]["why"] == "stopped"
    assert summary["verdict"] in SOUND
    assert any("stopped by the user" in warning for warning in summary["warnings"])
    assert 'bmp_training_steps_total{role="measured"}' in metrics
    assert "bmp_training_step_seconds_bucket" in metrics


def _scrape(line: str) -> str:
    import re
    from urllib.request import urlopen

    address = re.search(r"http://127\.0\.0\.1:\d+/metrics", line)
    assert address is not None
    with urlopen(address[0], timeout=10) as answer:
        content: str = answer.read().decode()
    return content


def _wait_for_steps(runs: Path, steps: int) -> Path:
    found: list[Path] = []

    def enough() -> bool:
        found[:] = list(runs.glob("*/records-rank0.jsonl"))
        return bool(found) and found[0].read_bytes().count(b'"record":"step"') >= steps

    _wait_until(enough)
    return found[0]


def _wait_until(condition: Callable[[], bool], patience_s: float = 90.0) -> None:
    end = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.1)


def _running(word: str) -> bool:
    """Whether some process has `word` on its command line."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if word.encode() in (entry / "cmdline").read_bytes():
                    return True
            except OSError:
                continue
    return False
