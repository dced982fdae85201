"""When a request has waited too long: a pure function of its stamps, and the timer that asks it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from bytemlperf.units import NS_PER_S
from bytemlperf_llm.loadgen.recorder import ClockNs, RequestRecorder
from engines.contract import ErrorClass


class Timeouts(NamedTuple):
    """Limits of one request in ns; the total runs from the start of sending."""

    connect_ns: int = 10 * NS_PER_S
    first_token_ns: int = 120 * NS_PER_S
    idle_ns: int = 60 * NS_PER_S
    total_ns: int = 600 * NS_PER_S


class Deadline(NamedTuple):
    """The next instant at which a request has failed, unless something arrives before."""

    at_ns: int
    error_class: ErrorClass


def next_deadline(timeouts: Timeouts, started_ns: int, sent_ns: int | None, last_chunk_ns: int | None) -> Deadline:
    """The earliest limit that applies. `last_chunk_ns` is None until a token has arrived."""
    total = Deadline(started_ns + timeouts.total_ns, "total_timeout")
    if sent_ns is None:
        return min(total, Deadline(started_ns + timeouts.connect_ns, "connect_timeout"))
    if last_chunk_ns is None:
        return min(total, Deadline(sent_ns + timeouts.first_token_ns, "first_token_timeout"))
    return min(total, Deadline(last_chunk_ns + timeouts.idle_ns, "idle_timeout"))


class Watch:
    """One request under watch. `expired` names the limit that ended it."""

    __slots__ = ("expired", "recorder", "started_ns", "task", "timer", "token_seen")

    def __init__(self, recorder: RequestRecorder, task: asyncio.Task[None], started_ns: int) -> None:
        self.recorder: RequestRecorder | None = recorder
        self.task: asyncio.Task[None] | None = task
        self.started_ns = started_ns
        self.token_seen = False
        self.timer: asyncio.TimerHandle | None = None
        self.expired: ErrorClass | None = None


class Watchdog:
    """Cancels a request's task when its deadline has passed without progress.

    No limit can pass before the shortest of them, so every request is first looked at that long after
    its start; these first looks come in the order of the starts and share one timer. Most requests have
    ended by then. One that has not gets a timer of its own, for the limit that applies by now.

    Whether a token has arrived (a response head or a ping is none) is asked of `carries_token` at such a
    look, and never between.
    """

    def __init__(self, timeouts: Timeouts, now: ClockNs, carries_token: Callable[[list[Any]], bool]) -> None:
        self._timeouts, self._now, self._carries_token = timeouts, now, carries_token
        self._first_look_ns = min(timeouts)
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Watch] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, recorder: RequestRecorder, task: asyncio.Task[None]) -> Watch:
        """Begin to watch a request that starts now."""
        watch = Watch(recorder, task, self._now())
        self._waiting.append(watch)
        if self._timer is None:
            self._arm(watch)
        return watch

    def end(self, watch: Watch) -> None:
        """The request has ended: forget it, and what else has ended at the head of the line."""
        watch.recorder = watch.task = None
        if watch.timer is not None:
            watch.timer.cancel()
        waiting = self._waiting
        while waiting and waiting[0].task is None:
            waiting.popleft()

    def close(self) -> None:
        """Stop watching altogether."""
        if self._timer is not None:
            self._timer.cancel()

    def _arm(self, head: Watch) -> None:
        left_ns = head.started_ns + self._first_look_ns - self._now()
        self._timer = self._loop.call_later(left_ns / NS_PER_S, self._first_looks)

    def _first_looks(self) -> None:
        self._timer = None
        due_ns = self._now() - self._first_look_ns
        while self._waiting:
            head = self._waiting[0]
            if head.started_ns > due_ns:
                self._arm(head)
                return
            self._waiting.popleft()
            self._look(head)

    def _look(self, watch: Watch) -> None:
        recorder, task = watch.recorder, watch.task
        if recorder is None or task is None:
            return
        recorder.catch_up()
        if not watch.token_seen and recorder.payloads:
            watch.token_seen = self._carries_token(recorder.payloads)
        last_chunk_ns = recorder.chunk_ns[-1] if watch.token_seen else None
        deadline = next_deadline(self._timeouts, watch.started_ns, recorder.sent_ns, last_chunk_ns)
        left_ns = deadline.at_ns - self._now()
        if left_ns <= 0:
            watch.expired = deadline.error_class
            task.cancel()
            return
        if not watch.token_seen:  # a first token may come and then nothing: look again before that can be too long
            left_ns = min(left_ns, self._timeouts.idle_ns)
        watch.timer = self._loop.call_later(left_ns / NS_PER_S, self._look, watch)
