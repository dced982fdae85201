"""Real worker processes: crashes, hangs and wrong results are rows, and the sweep goes on."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

pytest.importorskip("torch")

QUICK = ["--seconds", "0.05", "--threads", "1", "--hot", "--peaks", "off"]


def bmp(*args: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-c", "from bytemlperf.app import main; main()", *args],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == expect, done.stdout + done.stderr
    return done


def rows(folder: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(folder) / "records.jsonl").read_text().splitlines()]


def test_whatever_a_kernel_does_is_a_row(hostile_provider: str, tmp_path: Path) -> None:
    case = ["-a", "M=1,2,3,4,5,6,7,8", "-a", "K=16", "-a", "N=16", "-a", "dtype=float32", "-p", hostile_provider]
    done = bmp("micro", "gemm", *case, *QUICK, "--time-limit", "3", "--runs-dir", str(tmp_path), "-q", expect=1)
    found = {row["args"]["M"]: (row["status"], row["reason"]) for row in rows(done.stdout.strip())}
    assert found[1] == ("failed", "crashed while running: killed by SIGABRT")
    assert found[2] == ("failed", "timeout while running")
    assert found[3][0] == "failed"
    assert found[3][1].startswith("wrong result: ")
    assert found[4] == ("failed", "RuntimeError: no such kernel")
    assert found[5] == ("failed", "crashed while running: exit status 3")
    assert found[6] == found[8] == ("ok", "")
    assert found[7] == ("refused", "M must not be 7")


def test_a_workload_runs_resumes_and_verifies(tmp_path: Path) -> None:
    content = {"gemm": [{"arg_type": "default", "dtype": "bf16", "K.N": [[16, 16]], "M": [1, 2]}], "warp_drive": [{"M": 1}]}
    workload = tmp_path / "ops.json"
    workload.write_text(json.dumps(content))
    done = bmp("micro", "run", str(workload), *QUICK, "--budget", "0", "--runs-dir", str(tmp_path / "runs"), "-q", expect=1)
    folder = done.stdout.strip()
    assert [row["status"] for row in rows(folder)] == ["skipped", "skipped", "refused"]
    done = bmp("micro", "resume", folder)
    assert "2 ok, 1 refused" in done.stdout
    assert "there is no operator 'warp_drive'" in done.stdout
    summary = json.loads((Path(folder) / "summary.json").read_text())
    assert summary["counts"] == {"ok": 2, "failed": 0, "refused": 1, "skipped": 0, "missing": 0}
    assert next(iter(summary["metrics"].values()))["percentiles"]["50"] > 0
    bmp("verify", folder)
    log = Path(folder) / "records.jsonl"
    log.write_text(log.read_text().replace('"samples_ns":[', '"samples_ns":[9'))
    bmp("verify", folder, expect=1)


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["micro", "sofmax"], "error: there is no operator 'sofmax'; did you mean softmax"),
        (["micro", "gemm", "-a", "Q=1"], "error: gemm has no argument 'Q'"),
        (["micro", "gemm", "-a", "M"], "error: 'M' is not NAME=VALUE"),
        (["micro", "gemm", "-p", "nobody"], "error: unknown provider 'nobody'"),
        (["micro", "gemm", "--device", "tpu"], "error: there is no device 'tpu'"),
        (["micro", "gemm", "--memory-limit", "lots"], "error: --memory-limit 'lots' is not a size"),
        (["micro", "run", "/nowhere.json"], "error: workload /nowhere.json can't be read"),
        (["micro", "all", "--suite", "huge"], "error: there is no suite 'huge'"),
        (["micro", "resume", "/nowhere"], "error: /nowhere is not a run folder"),
        (["micro", "gemm", "--peaks", "guessed"], "error: --peaks 'guessed' is unknown; valid: auto, fresh, off"),
        (["micro", "gemm", "--card", "h1000"], "error: there is no card 'h1000'; did you mean"),
        (["micro", "gemm", "-a", "M=0"], "error: gemm: M=0 is out of range, 1 to"),
        (["micro", "gemm", "-a", "dtype=fp5"], "error: gemm: dtype='fp5' is not one of float32"),
        (["micro", "gemm", "--device", "cuda:9"], "error: there is no device cuda:9: torch sees 0 GPUs; give --device cpu"),
        (["micro", "gemm", "-a", "M.K=[[1]]"], "error: 'M.K' needs lists of 2 values"),
        (["micro", "all_reduce", "-a", "world_size=1"], "error: all_reduce: world_size=1 is out of range, 2 to"),
        (["micro", "check", "nobody"], "error: unknown provider 'nobody'"),
        (["micro", "check", "torch", "-o", "sofmax"], "error: there is no operator 'sofmax'; did you mean softmax"),
        (["micro", "check", "torch", "--out", "/nowhere/x.jsonl"], "error: can't write /nowhere/x.jsonl"),
        (["micro", "export", "/nowhere", "--out", "x.csv"], "error: /nowhere is not a run folder"),
        (
            ["micro", "export", "/nowhere", "--out", "x.txt"],
            "error: --out x.txt has no known ending; name a file that",
        ),
        (["micro", "--list"], "error: No such option: --list; use: bmp micro list"),
        (["micro", "gemm", "--precision", "0.1"], "error: No such option: --precision; use --ci-width"),
        (["micro", "gemm", "--seconds", "0"], "error: --seconds 0 is below 0.01; give 0.01 or more"),
    ],
)
def test_bad_input_is_one_line(
    args: list[str], sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from bytemlperf.app import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["bmp", *args])
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as ended:
            main()
    finally:
        signal.signal(signal.SIGTERM, before)
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert said.startswith(sentence)
    assert len(said.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_the_list_names_every_operator() -> None:
    from micro.registry import OPERATORS

    shown = bmp("micro", "list").stdout
    assert all(name in shown for name in OPERATORS)


def test_a_killed_sweep_leaves_no_worker_and_keeps_its_rows(hostile_provider: str, tmp_path: Path) -> None:
    case = ["-a", "M=8,2", "-a", "K=16", "-a", "N=16", "-a", "dtype=float32", "-p", hostile_provider]
    command = [sys.executable, "-c", "from bytemlperf.app import main; main()", "micro", "gemm", *case, *QUICK]
    sweep = subprocess.Popen([*command, "--runs-dir", str(tmp_path / "runs"), "-q"])
    try:
        assert _soon(lambda: any(len(rows(str(log.parent))) == 1 for log in (tmp_path / "runs").glob("*/records.jsonl")))
        assert _soon(lambda: bool(_children(sweep.pid)))
        (worker,) = _children(sweep.pid)
    finally:
        sweep.kill()
        sweep.wait()
    assert _soon(lambda: _is_gone(worker))
    (folder,) = (tmp_path / "runs").glob("*")
    assert [row["status"] for row in rows(str(folder))] == ["ok"]


def test_a_port_in_use_is_told_before_anything_is_measured(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = bmp("micro", "gemm", *QUICK, "--prometheus-port", port, "--runs-dir", str(tmp_path / "runs"), expect=2)
    assert done.stderr.startswith(f"error: can't serve metrics on 127.0.0.1:{port}")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_ends_the_case_keeps_the_rest_and_resume_goes_on(
    number: signal.Signals, status: int, hostile_provider: str, tmp_path: Path
) -> None:
    case = ["-a", "M=8,2,9", "-a", "K=16", "-a", "N=16", "-a", "dtype=float32", "-p", hostile_provider]
    command = [sys.executable, "-c", "from bytemlperf.app import main; main()", "micro", "gemm", *case, *QUICK]
    runs = tmp_path / "runs"
    limits = ["--time-limit", "3"] if number == signal.SIGINT else []  # M=2 hangs: the resumed run ends it
    command += [*limits, "--runs-dir", str(runs), "--prometheus-port", "0"]
    sweep = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert sweep.stderr is not None
    where = sweep.stderr.readline()
    assert where.startswith("metrics at http://127.0.0.1:")
    assert _soon(lambda: any(len(rows(str(log.parent))) == 1 for log in runs.glob("*/records.jsonl")))
    assert _soon(lambda: b'bmp_micro_cases_total{status="ok"} 1.0' in urlopen(where.split()[2], timeout=10).read())  # counted once kept
    sweep.send_signal(number)
    out, err = sweep.communicate(timeout=60)
    assert sweep.returncode == status, out + err
    (folder,) = runs.glob("*")
    assert f"interrupted: resume with: bmp micro resume {folder}" in err
    assert "1 ok, 2 missing" in out
    summary = json.loads((folder / "summary.json").read_text())
    assert "stopped by the user: the rest was not measured" in summary["warnings"]
    assert (summary["verdict"], summary["reasons"][0]) == ("invalid", "2 of 3 cases have no row")  # and maybe that the one is noisy
    assert not _children(os.getpid()) or sweep.pid not in _children(os.getpid())
    if number == signal.SIGINT:
        done = bmp("micro", "resume", str(folder), "-q", expect=1)
        assert done.stdout.strip() == str(folder)
        assert [(row["args"]["M"], row["status"]) for row in rows(str(folder))] == [(8, "ok"), (2, "failed"), (9, "ok")]
        bmp("verify", str(folder))


def test_a_vendor_checks_a_package(acme_provider: str, tmp_path: Path) -> None:
    out = tmp_path / "cases.jsonl"
    done = bmp("micro", "check", acme_provider, "-o", "gemm", "-o", "softmax", "--out", str(out), expect=1)
    assert "N=129 dtype=float32) [acme]: wrong result:" in done.stdout.replace("K=256 M=256 ", "")
    assert "crashed while running: killed by SIGABRT" in done.stdout
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert "acme computes gemm, not softmax" in {row["reason"] for row in found if row["op"] == "softmax"}
    wrong = [row for row in found if row["status"] == "failed"]
    assert {row["args"]["N"] for row in wrong if "wrong result" in row["reason"]} == {3, 17, 129}
    assert {row["args"]["M"] for row in found if row["status"] == "ok"} >= {1, 3, 129}


def test_the_check_is_checked_and_needs_one_thing_to_check() -> None:
    done = bmp("micro", "check", "--cheats", "-o", "add")
    assert "right: torch on add" in done.stdout
    assert done.stdout.count("\ncaught: ") == 11
    assert "13 of 13 as they should be" in done.stdout
    assert bmp("micro", "check", expect=2).stderr.startswith("error: give either a provider or --cheats")
    assert bmp("micro", "check", "torch", "--cheats", expect=2).stderr.startswith("error: give either")
    assert bmp("micro", "check", "--cheats", "-o", "sort", expect=2).stderr.startswith("error: no cheat is tried on 'sort'")


def test_a_right_provider_passes_and_one_that_computes_nothing_does_not() -> None:
    right = bmp("micro", "check", "numpy", "-o", "gemm")
    assert "0 wrong" in right.stdout
    nothing = bmp("micro", "check", "numpy", "-o", "softmax", expect=1)
    assert "0 right, 0 wrong" in nothing.stdout


def _soon(done: Callable[[], bool]) -> bool:
    until = time.monotonic() + 60
    while not done():
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


def _is_gone(pid: int) -> bool:
    """Ended, or a zombie that nobody has waited for: that one has no command line."""
    try:
        return not Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return True


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
