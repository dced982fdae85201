"""The clock: the only place that stamps time.

`chunk` stamps before anything looks at the payload; payloads are kept as they came and decoded
when the request is over. Two flat lists, two appends, nothing else: this runs once per token.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from engines.contract import caught_up

ClockNs = Callable[[], int]
"""Integer nanoseconds of one monotonic clock. The real one is CLOCK_MONOTONIC, as engines use it."""

monotonic_ns: ClockNs = time.monotonic_ns


class RequestRecorder:
    """Stamps of one request. `planned_ns` is absolute, or None in closed loop."""

    __slots__ = ("_keep", "_now", "_stamp", "catch_up", "chunk_ns", "payloads", "planned_ns", "sent_ns")

    def __init__(self, now: ClockNs = monotonic_ns, planned_ns: int | None = None) -> None:
        self._now = now
        self.planned_ns = planned_ns
        self.sent_ns: int | None = None
        self.chunk_ns: list[int] = []
        self.payloads: list[Any] = []
        self.catch_up: Callable[[], None] = caught_up
        self._stamp, self._keep = self.chunk_ns.append, self.payloads.append

    def sent(self) -> None:
        """The request is on its way. Called again by a transport that had to start over: last one counts."""
        self.sent_ns = self._now()

    def chunk(self, payload: Any) -> None:
        """Something of the answer arrived."""
        self._stamp(self._now())
        self._keep(payload)

    def lists(self) -> tuple[list[int], list[Any]] | None:
        """Stamps and payloads, for one who keeps them as `chunk` does, with the real clock; else None."""
        return (self.chunk_ns, self.payloads) if self._now is monotonic_ns else None
