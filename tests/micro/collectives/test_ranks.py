"""Real ranks under a real torchrun: results, deaths, hangs and refusals are rows, and the sweep goes on."""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

MODULE = """
import os, signal, time
from micro.providers.contract import Kernel, Provider, Refused

def build(operator, args, device):
    right, rank, case = operator.kernel(args), int(os.environ["RANK"]), args["batch_size"]
    if case == 7 and rank == 1:
        raise Refused("rank 1 would rather not")
    calls = []
    def hostile(*inputs):
        calls.append(0)
        if case == 9 and len(calls) > 1:
            return inputs[0]
        if rank == 1:
            match case:
                case 1: os.abort()
                case 2: time.sleep(3600)
                case 3: return right(*inputs) * 1.01
                case 4: raise RuntimeError("no such kernel")
                case 6: os.kill(os.getpid(), signal.SIGSTOP)
        return right(*inputs)
    return Kernel(hostile)

PROVIDER = Provider("misbehaves on rank 1", build, ())
"""
QUICK = ["--seconds", "0.05", "--threads", "1", "--hot", "-q"]


@pytest.fixture
def hostile_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A provider's name; this process's children find it."""
    place = tmp_path / "site"
    (place / "hostile_ranks-1.0.dist-info").mkdir(parents=True)
    (place / "hostile_ranks.py").write_text(MODULE)
    (place / "hostile_ranks-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: hostile-ranks\nVersion: 1.0\n")
    (place / "hostile_ranks-1.0.dist-info" / "entry_points.txt").write_text(
        "[bytemlperf.micro_providers]\nhostile_ranks = hostile_ranks:PROVIDER\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{place}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    return "hostile_ranks"


def bmp(*args: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-c", "from bytemlperf.app import main; main()", *args],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == expect, done.stdout + done.stderr
    return done


def rows(folder: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(folder) / "records.jsonl").read_text().splitlines()]


def test_bystanders_of_p2p_are_left_out_of_its_skew() -> None:
    from micro.collectives.runner import skew_of, taking_part
    from micro.measure.messages import Job
    from micro.measure.timing import Rules

    args = {"world_size": 4, "src_device": 1, "dst_device": 3}
    by_rank = [[1, 90, 1, 100]] * 5
    for op, expected in (("p2p", (0.1, 3, 1.0)), ("all_reduce", (0.99, 3, 1.0))):
        job = Job(op=op, provider="torch", args=args, device="cpu", seed=0, rules=Rules(), cache_bytes=0)
        assert skew_of(by_rank, taking_part(job)) == pytest.approx(expected)


@pytest.mark.parametrize(("threads_from", "threads"), [("--threads", 3), ("OMP_NUM_THREADS", 3), ("physical cores", 0)])
def test_ranks_take_the_threads_that_were_asked_for(threads_from: str, threads: int) -> None:
    from micro.sweep.sweep import RUNNERS, Settings

    assert RUNNERS["ranks"](Settings(threads=3, threads_from=threads_from))._threads == threads  # type: ignore[attr-defined]


@pytest.mark.slow
def test_whatever_a_rank_does_is_a_row_that_names_it(hostile_ranks: str, tmp_path: Path) -> None:
    case = ["-a", "batch_size=1,2,3,4,6,7,8,9", "-a", "dim_size=16", "-a", "dtype=float32", "-p", hostile_ranks]
    done = bmp("micro", "all_reduce", *case, *QUICK, "--time-limit", "2", "--runs-dir", str(tmp_path), expect=1)
    found = {row["args"]["batch_size"]: (row["status"], row["reason"]) for row in rows(done.stdout.strip())}
    assert found[1] == ("failed", "rank 1 crashed while running: killed by SIGABRT; the others were ended")
    assert re.fullmatch(r"timeout: rank 1 hangs in hostile_ranks.py:\d+ \(hostile\) while running; rank 0 waited", found[2][1]), found[2]
    assert found[3][0] == "failed"
    assert found[3][1].startswith("rank 1: wrong result: ")
    assert found[4] == ("failed", "rank 1: RuntimeError: no such kernel")
    assert found[6] == ("failed", "timeout: rank 1 is stopped (SIGSTOP) while running; rank 0 waited")
    assert found[7] == ("refused", "rank 1: rank 1 would rather not")
    assert found[8] == ("ok", "")
    assert found[9][0] == "failed"
    assert "wrong result of the last timed call" in found[9][1], "no rank does anything after the first call"
    assert _soon(lambda: not _ranks()), "no rank is left behind"


@pytest.mark.slow
def test_a_killed_sweep_leaves_no_rank_and_keeps_its_rows(hostile_ranks: str, tmp_path: Path) -> None:
    case = ["-a", "batch_size=8,2", "-a", "dim_size=16", "-a", "dtype=float32", "-p", hostile_ranks]
    command = [sys.executable, "-c", "from bytemlperf.app import main; main()", "micro", "all_reduce", *case, *QUICK]
    sweep = subprocess.Popen([*command, "--runs-dir", str(tmp_path / "runs")])
    try:
        assert _soon(lambda: any(log.read_text().count("\n") == 1 for log in (tmp_path / "runs").glob("*/records.jsonl")))
        assert len(_ranks()) >= 2
    finally:
        sweep.kill()
        sweep.wait()
    assert _soon(lambda: not _ranks())


@pytest.mark.slow
def test_collectives_are_right_and_measured_on_every_rank(tmp_path: Path) -> None:
    small = {"world_size": [1, 2, 4096], "dtype": ["bfloat16"], "num_tokens": [3, 64], "hidden_size": [32]}
    names = ["all_reduce", "reduce_scatter", "all_gather", "all_to_all", "broadcast", "p2p"]
    workload = tmp_path / "collectives.json"
    workload.write_text(json.dumps({**{name: [small] for name in names}, "host2device": [{**small, "world_size": 1}]}))
    folder = bmp("micro", "run", str(workload), *QUICK, "--runs-dir", str(tmp_path / "runs")).stdout.strip()
    for row in rows(folder):
        args = row["args"]
        if row["op"] == "host2device":
            assert (row["status"], row["reason"]) == ("refused", "host2device is a link between host and device memory; the device is cpu")
        elif "num_tokens" in args:  # kept as it was given: it can't even be tried
            assert row["status"] == "refused"
            assert "world_size=1 is out of range" in row["reason"] or "can't be dealt" in row["reason"]
        elif args["world_size"] == 4096:
            assert row["status"] == "refused"
            assert re.match(r"4096 ranks on \d+ cores; at most \d+", row["reason"])
        else:
            _check_measured(row)
    bmp("verify", folder)


def _check_measured(row: dict[str, Any]) -> None:
    assert row["status"] == "ok", row["reason"]
    first, second = (rank["samples_ns"] for rank in row["ranks"])
    assert [max(pair) for pair in zip(first, second, strict=True)] == row["timed"]["samples_ns"], "a sample is its slowest rank's"
    assert row["skew"] == pytest.approx(statistics.median((max(a, b) - min(a, b)) / max(a, b) for a, b in zip(first, second, strict=True)))
    full = row["args"]["batch_size"] * row["args"]["dim_size"] * 2
    assert row["alg_bw_gbs"] == pytest.approx(full / row["latency_us"]["p50"] / 1000)
    factor = {"all_reduce": 1.0, "broadcast": 1.0, "p2p": 1.0}.get(row["op"], 0.5)  # 2(n−1)/n, 1, 1, (n−1)/n of two ranks
    assert row["bus_bw_gbs"] == pytest.approx(row["alg_bw_gbs"] * factor)


def test_memory_counts_all_ranks() -> None:
    from micro.cases.case import validate
    from micro.collectives.operators import COLLECTIVES
    from micro.measure.estimate import Rates, estimate

    operator = COLLECTIVES["all_gather"]
    needs = {}
    for ranks in (2, 4):
        args = validate(operator, {"world_size": ranks, "batch_size": 1024, "dim_size": 1024})
        needs[ranks] = estimate(operator, args, "torch", Rates(), cache_bytes=0).memory_bytes
    assert needs[2] > 2 * (4 << 20), "every rank holds the whole result"
    assert needs[4] > 1.6 * needs[2], "the results double, the parts given stay"


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["-a", "world_size=1"], "error: all_reduce: world_size=1 is out of range, 2 to 4096"),
        (["-a", "dtype=int8"], "error: all_reduce: dtype='int8' is not one of float32"),
    ],
)
def test_bad_input_is_one_line(args: list[str], sentence: str) -> None:
    done = bmp("micro", "all_reduce", *args, expect=2)
    assert done.stderr.startswith(sentence)
    assert len(done.stderr.splitlines()) == 1


def test_a_backend_that_isnt_there_is_refused(tmp_path: Path) -> None:
    done = bmp(
        "micro", "all_reduce", "-a", "backend=warp,nccl", "-a", "batch_size=1", "-a", "dtype=float32", *QUICK, "--runs-dir", str(tmp_path),
        expect=1,
    )  # fmt: skip
    reasons = [(row["status"], row["reason"]) for row in rows(done.stdout.strip())]
    assert reasons[0][1].startswith("torch.distributed has no backend 'warp'; it knows gloo")
    assert {status for status, _ in reasons} == {"refused"}


def _soon(done: Callable[[], bool]) -> bool:
    until = time.monotonic() + 60
    while not done():
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True


def _ranks() -> list[int]:
    """Ranks and agents of this test's own sweeps: their environment names its package's folder."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            is_ours = os.environ["PYTHONPATH"].split(os.pathsep)[0].encode() in (folder / "environ").read_bytes()
            if is_ours and b"micro.collectives." in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found
