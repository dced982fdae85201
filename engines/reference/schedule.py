"""When the reference engine's tokens are due, and the one timer that waits for them.

The plan is arithmetic: token k of a request is due at `scheduled + TTFT + k x ITL`, absolute, so a late
token never delays the next one. Tokens that leave together (k a chunk) are due with the first of them.

One heap holds the next due time of every running job and one timer waits for the earliest. On Linux
the timer is a timerfd, because asyncio's and uvloop's own timers are granular to 1 ms: the kernel
wakes the loop within tens of microseconds and nothing spins. A loop that keeps its own time (a
virtual clock) is asked through `call_at` and is exact.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import random
import sys
from collections import deque
from collections.abc import Callable, Sequence

import msgspec

from engines.timers import FdTimer, LoopTimer

NS_PER_MS = 1_000_000

_MAX_SENDS_PER_WAKE = 64
"""Sends before the event loop may look at its sockets again; about half a millisecond of work."""

_MAX_WATCH_NS = 250_000
"""After this long the clock is no longer watched, so that sockets are read in between."""

_EXPIRED = -1
"""In place of the armed time: unlike any time and None, so that the timer is armed anew."""


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """How fast tokens come. `jitter` widens every interval by a factor in [1 - jitter, 1 + jitter]."""

    ttft_ns: int
    itl_ns: int
    jitter: float = 0.0

    def offsets_ns(self, request_id: str, tokens: int, tokens_per_step: int) -> Sequence[int]:
        """Due times of a request's steps, ns after it was scheduled, one per `tokens_per_step` tokens.

        Depends on the arguments alone: the same request id has the same jitter on every machine.
        """
        steps = -(-tokens // tokens_per_step)
        gap_ns = self.itl_ns * tokens_per_step
        if self.jitter:
            draw = random.Random(request_id).uniform
            intervals = [self.ttft_ns, *itertools.repeat(gap_ns, steps - 1)]
            return list(itertools.accumulate(round(ns * (1 + draw(-self.jitter, self.jitter))) for ns in intervals))
        if gap_ns == 0:
            return [self.ttft_ns] * steps
        return range(self.ttft_ns, self.ttft_ns + steps * gap_ns, gap_ns)


def make_timer(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> LoopTimer | FdTimer:
    """A timerfd where the loop runs on real time under Linux, else the loop's own timer."""
    own_time = getattr(loop.time, "__func__", None) is not asyncio.BaseEventLoop.time
    is_uvloop = type(loop).__module__.partition(".")[0] == "uvloop"
    if sys.platform == "linux" and (is_uvloop or not own_time):
        return FdTimer(loop, callback)
    return LoopTimer(loop, callback)


class Job:
    """One request on its way. Subclasses say what sending a step means, and what the end means."""

    __slots__ = ("cancelled", "index", "offsets_ns", "parked", "queued_ns", "scheduled_ns")

    def __init__(self, offsets_ns: Sequence[int]) -> None:
        self.offsets_ns = offsets_ns
        self.index = 0
        self.queued_ns = 0
        self.scheduled_ns: int | None = None
        self.cancelled = False
        self.parked = False

    def send(self, index: int, due_ns: int) -> None:
        """Step `index` is due. Setting `parked` holds the following ones back until `Schedule.resume`."""
        raise NotImplementedError

    def finished(self) -> None:
        """The last step was sent and the slot is free."""
        raise NotImplementedError


class Schedule:
    """Runs jobs: each step at its due time, at most `slots` jobs at once (0: any number), in order of arrival."""

    def __init__(self, loop: asyncio.AbstractEventLoop, slots: int = 0) -> None:
        self._heap: list[tuple[int, int, Job]] = []
        self._order = itertools.count()
        self._timer = make_timer(loop, self._wake)
        self._armed_ns: int | None = None
        self._slots = slots
        self._waiting: deque[Job] = deque()
        self.now_ns = self._timer.now_ns
        self.running = 0
        self.finished = 0

    @property
    def waiting(self) -> int:
        """Jobs that wait for a slot."""
        return len(self._waiting)

    def submit(self, job: Job) -> None:
        """Take a job now. Steps that are due at once are sent before this returns."""
        job.queued_ns = self.now_ns()
        if self._slots and self.running >= self._slots:
            self._waiting.append(job)
            return
        self._begin(job, job.queued_ns)
        if job.offsets_ns[0] == 0:
            self._step(job, job.queued_ns)
        else:
            self._push(job)
        self._arm()

    def cancel(self, job: Job) -> None:
        """Forget a job. Harmless when it is over already."""
        if job.cancelled or job.index == len(job.offsets_ns):
            return
        job.cancelled = True
        if job.scheduled_ns is None:
            with contextlib.suppress(ValueError):  # the schedule was closed meanwhile
                self._waiting.remove(job)
        else:
            self._free_slot()
            self._arm()

    def resume(self, job: Job) -> None:
        """Go on with a job that parked itself; what was missed is sent now."""
        if job.parked and not job.cancelled:
            job.parked = False
            self._push(job)
            self._arm()

    def close(self) -> None:
        """Stop. Jobs that are not over stay so."""
        self._timer.close()
        self._heap.clear()
        self._waiting.clear()

    def _begin(self, job: Job, now_ns: int) -> None:
        self.running += 1
        job.scheduled_ns = now_ns

    def _step(self, job: Job, due_ns: int) -> None:
        index = job.index
        job.send(index, due_ns)
        if job.cancelled:
            return
        job.index = index + 1
        if job.index == len(job.offsets_ns):
            self.finished += 1
            job.finished()
            self._free_slot()
        elif not job.parked:
            self._push(job)

    def _push(self, job: Job) -> None:
        assert job.scheduled_ns is not None
        heapq.heappush(self._heap, (job.scheduled_ns + job.offsets_ns[job.index], next(self._order), job))

    def _free_slot(self) -> None:
        self.running -= 1
        if self._waiting:
            job = self._waiting.popleft()
            self._begin(job, self.now_ns())
            self._push(job)

    def _wake(self) -> None:
        self._armed_ns = _EXPIRED
        heap = self._heap
        now_ns = self.now_ns()
        watch_ns, watch_until_ns = self._timer.watch_ns, now_ns + _MAX_WATCH_NS
        for _ in range(_MAX_SENDS_PER_WAKE):
            if not heap:
                break
            while heap[0][0] > now_ns:
                now_ns = self.now_ns()
                if heap[0][0] > now_ns + watch_ns or now_ns > watch_until_ns:
                    self._arm()
                    return
            due_ns, _order, job = heapq.heappop(heap)
            if not job.cancelled:
                self._step(job, due_ns)
        self._arm()

    def _arm(self) -> None:
        due_ns = self._heap[0][0] if self._heap else None
        if due_ns != self._armed_ns:
            self._armed_ns = due_ns
            self._timer.arm(due_ns)
