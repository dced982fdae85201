"""When a request has waited too long: a pure function of its stamps, and the timer that asks it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple

from bytemlperf_llm.loadgen.recorder import ClockNs, RequestRecorder
from engines.contract import ErrorClass

NS_PER_S = 1_000_000_000


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


class Watchdog:
    """Cancels a request's task when its deadline has passed without progress.

    One timer a request, looked at only when it fires: then it is armed again for the deadline that
    applies by now. Whether a token has arrived (a response head or a ping is none) is asked of
    `carries_token` at such a look, and never between. `expired` names the limit that ended the request.
    """

    __slots__ = ("_carries_token", "_handle", "_loop", "_now", "_recorder", "_started_ns", "_task", "_timeouts", "_token_seen", "expired")

    def __init__(
        self,
        timeouts: Timeouts,
        recorder: RequestRecorder,
        now: ClockNs,
        task: asyncio.Task[None],
        carries_token: Callable[[list[Any]], bool],
    ) -> None:
        self._timeouts, self._recorder, self._now, self._task = timeouts, recorder, now, task
        self._carries_token, self._token_seen = carries_token, False
        self._loop = asyncio.get_running_loop()
        self._started_ns = now()
        self.expired: ErrorClass | None = None
        # no limit can pass before the shortest of them; which one applies is found when it fires
        self._handle = self._loop.call_later(min(timeouts) / NS_PER_S, self._look)

    def _look(self) -> None:
        recorder = self._recorder
        if not self._token_seen and recorder.payloads:
            self._token_seen = self._carries_token(recorder.payloads)
        deadline = next_deadline(self._timeouts, self._started_ns, recorder.sent_ns, recorder.chunk_ns[-1] if self._token_seen else None)
        left_ns = deadline.at_ns - self._now()
        if left_ns <= 0:
            self.expired = deadline.error_class
            self._task.cancel()
            return
        if not self._token_seen:  # a first token may come and then nothing: look again before that can be too long
            left_ns = min(left_ns, self._timeouts.idle_ns)
        self._handle = self._loop.call_later(left_ns / NS_PER_S, self._look)

    def close(self) -> None:
        """Stop watching."""
        self._handle.cancel()
