"""The sweep's side of a worker process: starts it, gives it jobs, ends it when it crashes or hangs."""

from __future__ import annotations

import signal
import tempfile
import time
from typing import IO

import msgspec

from bytemlperf.child.process import Child, environment, signal_name
from bytemlperf.errors import UserError
from micro.measure.messages import Hello, Job, Message, Outcome, Stage
from micro.peaks.machine import KEPT_BLOCKS

START_TIMEOUT_S = 180.0


class WorkerChild:
    """A case runner: `run(job, limit_s)` always returns an outcome. Lazily started, restarted after it died."""

    def __init__(self, device: str, threads: int) -> None:
        self._device, self._threads = device, threads
        self._child: Child | None = None
        self._log: IO[bytes] | None = None
        self.stage = "starting"

    def refusal(self, _job: Job) -> str:
        """One device does every case; what a provider lacks, it says itself."""
        return ""

    def hello(self) -> Hello:
        """Start the worker where it isn't up. Raises UserError when it doesn't come up."""
        self.close()
        self._log, self.stage = tempfile.TemporaryFile(), "starting"  # noqa: SIM115 (closed in close)
        # In every library's pool as many threads, so that a control runs on as many as what it controls; memory for all alike.
        variables = environment(KEPT_BLOCKS, self._threads)
        self._child = Child(["-m", "micro.sweep.worker", str(self._threads), self._device], variables, self._log)
        message = self._wait(time.monotonic() + START_TIMEOUT_S)
        if not isinstance(message, Hello):
            cause = message if isinstance(message, str) else "it sent an unexpected message"
            self.close()
            raise UserError(f"the worker process did not start: {cause}", "check the installation with: bmp llm doctor")
        return message

    def run(self, job: Job, limit_s: float) -> Outcome:
        """Do one case within a time; a crash or a hang is an outcome too."""
        if self._child is None:
            self.hello()
        assert self._child is not None
        self._child.send(msgspec.json.encode(job))
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
        assert self._child is not None
        try:
            line = self._child.line(deadline)
        except TimeoutError:
            return f"timeout while {self.stage}"
        return self._death(self._child) if line is None else msgspec.json.decode(line, type=Message)

    def _death(self, child: Child) -> str:
        status = child.status()
        if status is None:
            return f"the worker closed its pipe while {self.stage}"
        words = child.last_words()
        return f"crashed while {self.stage}: {how_it_ended(status)}" + (f"; {words}" if words else "")

    def close(self) -> None:
        """End the worker, whatever it is doing."""
        for resource in (self._child, self._log):
            if resource is not None:
                resource.close()
        self._child = self._log = None


def how_it_ended(status: int) -> str:
    """An exit status in words."""
    if status >= 0:
        return f"exit status {status}"
    return f"killed by {signal_name(-status)}" + (" (memory ran out?)" if status == -signal.SIGKILL else "")
