"""A job's own process: started, watched, ended at its limits. A crash or a hang ends nothing but the job."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import msgspec

from bytemlperf.child.offline import OFFLINE, last_line, own_modules
from general_perf.failures import ErrorClass
from general_perf.job.job import Job
from general_perf.job.reporter import PARENT_ENV, STARTED_ENV
from general_perf.measure.memory import tree_bytes

POLL_S = 0.25
STDERR_TAIL_BYTES = 20_000


class Ended(NamedTuple):
    """How a process ended. `error_class` is empty where it ended by itself and well."""

    error_class: ErrorClass | Literal[""]
    reason: str
    fix: str
    peak_tree_bytes: int
    stage: str
    wall_s: float


Message = dict[str, Any]


def run_job(what: str, job: Job, time_limit_s: float, on_message: Callable[[Message], None], stderr: Path) -> Ended:
    """Run `python -m general_perf.job.worker what` on the job. `on_message` gets every record and progress message as it comes.

    Whatever happens the process and its children are gone afterwards, on KeyboardInterrupt too.
    """
    stderr.parent.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with stderr.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", "-m", "general_perf.job.worker", what],  # a crash leaves its stack in the log
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=_environment(job),
            start_new_session=True,
        )
        try:
            return _watched(process, job, time_limit_s, on_message, stderr, began)
        finally:
            _kill(process)


def _watched(
    process: subprocess.Popen[bytes], job: Job, time_limit_s: float, on_message: Callable[[Message], None], stderr: Path, began: float
) -> Ended:
    assert process.stdin is not None
    assert process.stdout is not None
    with suppress(BrokenPipeError):
        process.stdin.write(msgspec.json.encode(job))
        process.stdin.close()
    lines: queue.Queue[bytes | None] = queue.Queue()
    reader = threading.Thread(target=_read, args=(process.stdout, lines), daemon=True)
    reader.start()
    stage, peak = "start", 0
    while True:
        try:
            line = lines.get(timeout=POLL_S)
        except queue.Empty:
            line = b""
        if line is None:
            break
        if line:
            message = msgspec.json.decode(line)
            if message.get("stage") == "begin":
                stage = str(message["name"])
            else:
                on_message(message)
        used, wall_s = tree_bytes(process.pid), time.monotonic() - began
        peak = max(peak, used)
        if used > job.memory_limit_bytes:
            cause = f"in {stage} it took {used / 2**30:.1f} GiB, over the limit of {job.memory_limit_bytes / 2**30:.1f} GiB"
            return Ended("out_of_memory", cause, "take a smaller batch or --size small, or raise --memory-limit-gib", peak, stage, wall_s)
        if wall_s > time_limit_s:
            return Ended(
                "time_limit", f"in {stage} after {time_limit_s:g} s", "raise --time-limit, or take --size small", peak, stage, wall_s
            )
    status = process.wait()
    wall_s = time.monotonic() - began
    if status == 0:
        return Ended("", "", "", peak, stage, wall_s)
    cause, fix = _death(status, stderr)
    return Ended("crashed", f"in {stage}: {cause}", fix, peak, stage, wall_s)


def _read(stream: IO[bytes], lines: queue.Queue[bytes | None]) -> None:
    with suppress(ValueError):  # closed under this thread's hands, when the process was killed
        for line in stream:
            lines.put(line)
    lines.put(None)


def _environment(job: Job) -> dict[str, str]:
    threads = str(job.threads)
    return {
        **os.environ,
        **OFFLINE,
        **own_modules(),
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "TOKENIZERS_PARALLELISM": "false",
        "DO_NOT_TRACK": "1",
        PARENT_ENV: str(os.getpid()),
        STARTED_ENV: str(time.monotonic_ns()),
    }


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End the whole session of the process; it has one of its own."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _death(status: int, stderr: Path) -> tuple[str, str]:
    """What ended the process, and the fix. Only a process that printed something leaves a log."""
    tail = stderr.read_bytes()[-STDERR_TAIL_BYTES:].decode("utf-8", "replace")
    if -status == signal.SIGKILL:
        fix = "if memory ran out, take a smaller batch or --size small; if somebody killed it, run it again"
        return "killed by SIGKILL (the kernel does so when memory runs out)", fix
    fix = "see the run folder's log of this job" if tail.strip() else "take another backend or precision, or run it again"
    return f"killed by {_signal_name(-status)}" if status < 0 else last_line(tail), fix


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"
