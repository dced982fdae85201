"""Several workers as one: start together, sum what they see, end together.

A fleet doesn't know what its members are: `WorkerHandle` is a member somewhere (a process of this machine,
`processes.py`; an actor of a Ray cluster, `ray_fleet.py`). It has the methods of `replay.Replay`, so the command's measured
part is the same with one worker and with many.

A member that dies takes its own requests along, and no one else's: the others go on, its requests
without a record count as dropped, and the run is invalid with the reason.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from bytemlperf.runs.files import lines_of
from bytemlperf_llm.live.metrics import LlmMetrics, MetricsDelta
from bytemlperf_llm.loadgen.messages import Ended, FromMember, MemberLost, Note, Refused, Seen
from bytemlperf_llm.loadgen.replay import too_many_failures
from bytemlperf_llm.metrics.recount import Counted


class WorkerHandle(Protocol):
    """A member somewhere."""

    worker: int

    async def start(self) -> None:
        """Start it; returns when it is ready. Raises UserError."""

    async def go(self, origin_ns: int) -> None:
        """Let it begin; `origin_ns` is of this machine's clock."""

    def stop(self) -> None:
        """Let it drain."""

    def messages(self) -> AsyncIterator[FromMember]:
        """What it says after `go`, up to `Ended` or `Refused`. Raises MemberLost."""

    def described(self) -> dict[str, Any]:
        """For run.json: where it was, its log."""

    async def close(self) -> None:
        """End it."""


class _Tally:
    """What is known of one member."""

    def __init__(self) -> None:
        self.issued = 0
        self.ended: Ended | None = None


class Fleet:
    """A load source of several members. Logs are in `folder`: see `log_name`."""

    def __init__(
        self,
        handles: Sequence[WorkerHandle],
        folder: Path,
        metrics: LlmMetrics,
        *,
        start_delay_ns: int,
        max_error_rate: float | None,
        note: Callable[[str], None],
    ) -> None:
        self._handles, self._folder, self._metrics = handles, folder, metrics
        self._max_error_rate, self._note = max_error_rate, note
        self._tallies = {handle.worker: _Tally() for handle in handles}
        self.start_delay_ns = start_delay_ns
        self.stopped = False
        self.failure = ""

    async def start(self) -> None:
        """Every handle is done with starting before one of them ends the run."""
        for error in await asyncio.gather(*(handle.start() for handle in self._handles), return_exceptions=True):
            if error is not None:
                raise error

    async def replay(self, origin_ns: int) -> None:
        async with asyncio.TaskGroup() as group:
            for handle in self._handles:
                group.create_task(self._follow(handle, origin_ns))

    async def _follow(self, handle: WorkerHandle, origin_ns: int) -> None:
        """One member from "go" to its end."""
        tally = self._tallies[handle.worker]
        try:
            await handle.go(origin_ns)
            async for message in handle.messages():
                self._hear(handle.worker, tally, message)
        except MemberLost as lost:
            self._metrics.absorb(MetricsDelta(), handle.worker)
            tally.issued = max(tally.issued, _lines(self._folder / handle.described()["log"]))
            self._note(f"{lost}; the others continue")
            self._fail(f"{lost}: its requests without a record count as dropped", stop=False)

    def _hear(self, worker: int, tally: _Tally, message: FromMember) -> None:
        match message:
            case Seen(issued, delta):
                tally.issued = issued
                self._metrics.absorb(delta, worker)
                if self._max_error_rate is not None and (reason := too_many_failures(self._metrics, self._max_error_rate)):
                    self._fail(reason)
            case Ended():
                tally.issued, tally.ended = message.issued, message
                if message.failure:
                    self._fail(f"worker {worker}: {message.failure}")
                elif message.stopped and not self.stopped:
                    self._fail(f"worker {worker} was stopped by a signal from outside")
            case Note(text):
                self._note(text)
            case Refused(cause, _):
                self._fail(f"worker {worker}: {cause}")

    def _fail(self, reason: str, *, stop: bool = True) -> None:
        self.failure = self.failure or reason
        if stop:
            self.stop()

    def stop(self) -> None:
        self.stopped = True
        for handle in self._handles:
            handle.stop()

    def finish(self) -> None:
        """Nobody looks at what several workers send."""
        self.stop()

    @property
    def issued(self) -> int:
        return sum(tally.issued for tally in self._tallies.values())

    @property
    def loop_utilisation(self) -> float:
        return max((tally.ended.loop_utilisation for tally in self._tallies.values() if tally.ended), default=0.0)

    @property
    def counted(self) -> list[Counted]:
        return [counted for tally in self._tallies.values() if tally.ended for counted in tally.ended.counted]

    def described(self) -> list[dict[str, Any]]:
        described = []
        for handle in self._handles:
            tally = self._tallies[handle.worker]
            busy = None if tally.ended is None else round(tally.ended.loop_utilisation, 4)
            described.append({"worker": handle.worker, "issued_requests": tally.issued, "loop_utilisation": busy, **handle.described()})
        return described

    async def close(self) -> None:
        await asyncio.gather(*(handle.close() for handle in self._handles))


def log_name(number: int) -> str:
    """Of a member's record log; in a run's first part its number is the worker's."""
    return f"records-{number}.jsonl"


def _lines(path: Path) -> int:
    with suppress(OSError):
        return sum(line.endswith(b"\n") for line in lines_of(path))
    return 0
