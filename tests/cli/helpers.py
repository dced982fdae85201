"""Running the command line as a user does: a process, its two streams, its status."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

COMMAND = [sys.executable, "-c", "from bytemlperf_llm.cli import main; main()"]


def bmp(
    *words: str, cwd: Path, env: dict[str, str] | None = None, timeout_s: float = 120, preexec_fn: Callable[[], None] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run to its end."""
    environment = os.environ | {"NO_COLOR": "1"} | (env or {})
    return subprocess.run(
        [*COMMAND, *words], capture_output=True, text=True, cwd=cwd, env=environment, timeout=timeout_s, check=False, preexec_fn=preexec_fn
    )


def start(*words: str, cwd: Path, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """Start; the caller ends it."""
    environment = os.environ | {"NO_COLOR": "1"} | (env or {})
    return subprocess.Popen(
        [*COMMAND, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env=environment,
        preexec_fn=_hear_interrupts,
    )


@contextmanager
def started_server(option: str) -> Iterator[str]:
    """The address of a reference server with this engine option."""
    process = start("reference-server", "--port", "0", "--engine-option", option, cwd=Path())
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.communicate()


def _hear_interrupts() -> None:
    """As in a terminal, also where the tests run in the background of a script."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def run_folder(stdout: str, cwd: Path) -> Path:
    """The last line on standard output."""
    return cwd / stdout.strip().splitlines()[-1]


def wait_for_records(place: Path, count: int, process: subprocess.Popen[str], timeout_s: float = 60) -> Path:
    """The run folder, once its logs hold so many records together."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and process.poll() is None:
        logs = sorted(place.glob("runs/*/records*.jsonl"))
        if logs and sum(path.read_bytes().count(b"\n") for path in logs) >= count:
            return logs[0].parent
        time.sleep(0.05)
    raise AssertionError(f"no {count} records; exit status {process.poll()}")


QUICK = (
    "serve-bench",
    "--engine",
    "reference",
    "--scenario",
    "smoke",
    "--num-warmups",
    "0",
    "--engine-option",
    "ttft_ms=5",
    "--engine-option",
    "itl_ms=1",
)
CLOSED_SCENARIO = str(Path(__file__).parents[2] / "benchmarks" / "closed.yaml")
CLOSED = tuple(CLOSED_SCENARIO if word == "smoke" else word for word in QUICK)
"""The same in a closed loop: `--max-concurrency` says how many."""
