"""Waiting until a planned instant, as exactly as the machine allows: see `engines.timers`."""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress

from bytemlperf_llm.loadgen.recorder import ClockNs, monotonic_ns
from engines.timers import FdTimer, LoopTimer


class Pacer:
    """Absolute waiting on the clock that the recorder stamps with; by the event loop's own timer where it has no other `timer`."""

    def __init__(self, now: ClockNs) -> None:
        self._now = now
        self.timer: LoopTimer | FdTimer | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._interrupted = self._woken = False

    async def until(self, due_ns: int) -> None:
        """Return at `due_ns` or as soon after as possible; at once when it has passed."""
        loop = asyncio.get_running_loop()
        timer = self.timer = self.timer or LoopTimer(loop, self.fired)
        self._woken = False
        while due_ns > self._now() and not (self._interrupted or self._woken):
            self._waiter = loop.create_future()
            timer.arm(due_ns)
            try:
                await self._waiter
            except asyncio.CancelledError:
                timer.arm(None)
                raise
        if self._interrupted or self._woken:
            timer.arm(None)

    def fired(self) -> None:
        """The timer's callback, again and again until it is armed anew: whoever waits looks at the clock; nobody needs it else."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        elif self.timer is not None:
            self.timer.arm(None)

    def wake(self) -> None:
        """End the wait under way early; later ones wait again."""
        self._woken = True
        self.fired()

    def interrupt(self) -> None:
        """End the wait under way and every later one at once."""
        self._interrupted = True
        self.fired()

    def close(self) -> None:
        """Give the timer back."""
        if self.timer is not None:
            self.timer.close()


def real_pacer() -> Pacer:
    """The best pacer for this machine; call it inside the running loop."""
    pacer = Pacer(monotonic_ns)
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            pacer.timer = FdTimer(asyncio.get_running_loop(), pacer.fired)
    return pacer
