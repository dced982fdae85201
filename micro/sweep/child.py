"""The sweep's side of a worker process: starts it, gives it jobs, ends it when it crashes or hangs."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from typing import IO, Any

import msgspec

from bytemlperf.child.offline import own_modules
from bytemlperf.errors import UserError
from micro.measure.messages import Hello, Job, Message, Outcome, Stage
from micro.peaks.machine import KEPT_BLOCKS

START_TIMEOUT_S = 180.0
END_TIMEOUT_S = 5.0
LAST_WORDS = 300


class WorkerChild:
    """A case runner: `run(job, limit_s)` always returns an outcome. Lazily started, restarted after it died."""

    def __init__(self, device: str, threads: int) -> None:
        self._device, self._threads = device, threads
        self._process: subprocess.Popen[bytes] | None = None
        self._selector: selectors.BaseSelector | None = None
        self._pipe = -1
        self._errors: IO[bytes] | None = None
        self._rest = b""
        self.stage = "starting"

    def refusal(self, _job: Job) -> str:
        """One device does every case; what a provider lacks, it says itself."""
        return ""

    def hello(self) -> Hello:
        """Start the worker where it isn't up. Raises UserError when it doesn't come up."""
        self.close()
        reading, writing = os.pipe()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed in close)
        command = [sys.executable, "-m", "micro.sweep.worker", str(writing), str(self._threads), self._device]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=self._errors,
            stderr=self._errors,
            pass_fds=(writing,),
            env=_environment(self._threads),
            start_new_session=True,  # an interrupt is the sweep's to handle
        )
        os.close(writing)
        self._pipe, self._rest, self.stage = reading, b"", "starting"
        self._selector = selectors.DefaultSelector()
        self._selector.register(reading, selectors.EVENT_READ)
        message = self._wait(time.monotonic() + START_TIMEOUT_S)
        if not isinstance(message, Hello):
            cause = message if isinstance(message, str) else "it spoke out of turn"
            self.close()
            raise UserError(f"the worker process did not start: {cause}", "check the installation with: bmp llm doctor")
        return message

    def run(self, job: Job, limit_s: float) -> Outcome:
        """Do one case within a time; a crash or a hang is an outcome too."""
        if self._process is None:
            self.hello()
        assert self._process is not None
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(msgspec.json.encode(job) + b"\n")
            self._process.stdin.flush()
        deadline = time.monotonic() + limit_s
        while True:
            message = self._wait(deadline)
            if isinstance(message, Outcome):
                return message
            if isinstance(message, Stage):
                self.stage = message.name
            elif isinstance(message, str):
                self.close()
                return Outcome(status="failed", reason=message)

    def _wait(self, deadline: float) -> Message | str:
        """The next message, or a sentence on how the worker ended."""
        assert self._selector is not None
        while b"\n" not in self._rest:
            left = deadline - time.monotonic()
            if left <= 0 or not self._selector.select(left):
                return f"time limit: still {self.stage} when it was over"
            part = os.read(self._pipe, 1 << 16)
            if not part:
                return self._death()
            self._rest += part
        line, _, self._rest = self._rest.partition(b"\n")
        message: Message = msgspec.json.decode(line, type=Message)
        return message

    def _death(self) -> str:
        assert self._process is not None
        try:
            status = self._process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return f"the worker closed its pipe while {self.stage}"
        how = f"exit status {status}" if status >= 0 else _signal_name(-status)
        words = self._last_words()
        return f"crashed while {self.stage}: {how}" + (f"; {words}" if words else "")

    def _last_words(self) -> str:
        if self._errors is None:
            return ""
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return " ".join(lines[-1].split())[-LAST_WORDS:] if lines else ""

    def close(self) -> None:
        """End the worker, whatever it is doing."""
        process, self._process = self._process, None
        if process is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if process.stdin is not None:
                with suppress(OSError):
                    process.stdin.close()
        if self._selector is not None:
            self._selector.close()
            self._selector = None
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1
        if self._errors is not None:
            self._errors.close()
            self._errors = None

    def __enter__(self) -> WorkerChild:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def _environment(threads: int) -> dict[str, str]:
    """As many threads in every library's own pool, so that a control runs on as many as what it controls; memory for all alike."""
    pools = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads)) if threads else {}
    return {**os.environ, **own_modules(), **KEPT_BLOCKS, **pools}


def _signal_name(number: int) -> str:
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    return f"killed by {name}" + (" (memory ran out?)" if number == signal.SIGKILL else "")
