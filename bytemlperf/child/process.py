"""Child processes: started where no file of the user's folder shadows a module, heard line by line, ended with all that they started.

A child has a session of its own: a terminal's interrupt reaches the parent alone, which then ends the child.
The child's own side is `bytemlperf.child.inside`.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NamedTuple, Self

from bytemlperf.child.inside import PARENT
from bytemlperf.redaction import Redactor

ROOT = Path(__file__).resolve().parents[2]
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
POOLS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
MAX_LINE_BYTES = 1 << 28
LAST_WORDS_CHARS = 300
LOG_TAIL_BYTES = 20_000
END_TIMEOUT_S = 5.0
_LOOK_S = 0.5


class Outcome(NamedTuple):
    """How a child went that ran to its end: why it failed in one line (empty: it didn't), and what it printed."""

    error: str
    output: str


def environment(more: Mapping[str, str] | None = None, threads: int = 0) -> dict[str, str]:
    """This process's environment, with which a child finds this very copy of the packages, installed or not, and nothing of
    the current folder; with so many threads in each library's own pool (0: as it is)."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    pools = dict.fromkeys(POOLS, str(threads)) if threads else {}
    return {**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1", PARENT: str(os.getpid()), **pools, **(more or {})}


def spawn(arguments: Sequence[str], environment: Mapping[str, str], **streams: Any) -> subprocess.Popen[bytes]:
    """This Python with these arguments, in a session of its own. `streams` are Popen's stdin, stdout and stderr."""
    return subprocess.Popen([sys.executable, *arguments], env=environment, start_new_session=True, **streams)


def stop(process: subprocess.Popen[bytes], patience_s: float = END_TIMEOUT_S) -> None:
    """Ask it to end, then end it and its session."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(patience_s)
        return
    kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    """End it and its session, whatever they are doing, and close its pipes."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with suppress(OSError):
                stream.close()


def run(arguments: Sequence[str], timeout_s: float | None = None) -> Outcome:
    """This Python with these arguments, offline, to its end."""
    try:
        done = subprocess.run(
            [sys.executable, *arguments], capture_output=True, text=True, timeout=timeout_s, env=environment(OFFLINE), check=False
        )
    except subprocess.TimeoutExpired:
        return Outcome(f"no answer within {timeout_s} s", "")
    return Outcome(death(done.returncode, done.stderr) if done.returncode else "", done.stdout)


def signal_name(number: int) -> str:
    """ "SIGKILL", or "signal 42" for one without a name."""
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"


def death(returncode: int, stderr: str) -> str:
    """Why a child ended badly, in one line."""
    if returncode < 0:
        meaning = " (this CPU lacks an instruction that the library was built for)" if -returncode == signal.SIGILL else ""
        return f"killed by {signal_name(-returncode)}{meaning}"
    return last_line(stderr) or "no message"


def last_line(text: str) -> str:
    """The last line of `text` that says something, fit to be shown; empty where none does."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")]
    return Redactor().clean((errors or lines or [""])[-1].removeprefix("ERROR: "), LAST_WORDS_CHARS)


def last_words(log: IO[bytes]) -> str:
    """The last line of a log that is open for reading too."""
    size = os.fstat(log.fileno()).st_size
    return last_line(os.pread(log.fileno(), LOG_TAIL_BYTES, max(0, size - LOG_TAIL_BYTES)).decode("utf-8", "replace"))


class Child:
    """A child that takes lines on its standard input and says its messages in lines (`inside.messages`); the rest goes to `log`.
    `pipe` is what its messages come through, for whoever waits for several children."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str], log: IO[bytes]) -> None:
        pipe = subprocess.PIPE
        self._process, self._log = spawn(arguments, environment, stdin=pipe, stdout=pipe, stderr=log), log
        self._buffer, self._searched = bytearray(), 0
        assert self._process.stdout is not None
        self.pipe = self._process.stdout.fileno()
        self._poll = select.poll()
        self._poll.register(self.pipe, select.POLLIN)

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, line: bytes, *, last: bool = False) -> None:
        """Give it a line. After the `last` one its standard input is shut. One that is gone doesn't hear it."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(line + b"\n")
            self._process.stdin.flush()
        if last:
            with suppress(BrokenPipeError):
                self._process.stdin.close()

    def line(self, deadline_s: float) -> bytes | None:
        """Its next message; None at its end, and once it says more than `MAX_LINE_BYTES` in one line.

        Raises TimeoutError at the deadline, by `time.monotonic`.
        """
        while True:
            while (end := self._buffer.find(b"\n", self._searched)) < 0:
                self._searched = len(self._buffer)
                part = self._read(deadline_s)
                if not part or len(self._buffer) > MAX_LINE_BYTES:
                    return None
                self._buffer += part
            line = bytes(self._buffer[:end])
            del self._buffer[: end + 1]
            self._searched = 0
            if line.startswith(b"{"):  # else printed by a library before the channel was the messages' alone
                return line

    def _read(self, deadline_s: float) -> bytes:
        while True:
            left_s = deadline_s - time.monotonic()
            if self._poll.poll(1000 * max(0.0, min(left_s, _LOOK_S))):
                return os.read(self.pipe, 1 << 20)
            if self._process.poll() is not None and not self._poll.poll(0):
                return b""  # what it has started may hold the pipe for longer
            if left_s <= 0:
                raise TimeoutError

    def status(self) -> int | None:
        """Its exit status, once its output has ended; None where it goes on all the same."""
        with suppress(subprocess.TimeoutExpired):
            return self._process.wait(END_TIMEOUT_S)
        return None

    def last_words(self) -> str:
        """The last line of its log, fit to be shown; empty where it left none."""
        return last_words(self._log)

    def close(self) -> None:
        """End it and its session, whatever they are doing."""
        kill(self._process)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
