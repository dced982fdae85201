"""Live metrics of a run that may end early: by the first requests of its schedule, once all of them have ended. Whichever have ended
by some moment are the short ones; the first without a gap are not."""

from __future__ import annotations

from array import array

import msgspec

from bytemlperf.lazy import numpy
from bytemlperf.statistics.columns import ABSENT
from bytemlperf_llm.live.metrics import LlmMetrics
from bytemlperf_llm.metrics.definitions import due_ns, last_ns, token_times, tpot_ns
from bytemlperf_llm.metrics.until import Until, errors, last_look
from bytemlperf_llm.record.record import RequestRecord


def latencies_ns(record: RequestRecord) -> dict[str, int | None]:
    """TTFT, TPOT and E2E, which service levels are held against; none of a record without an answer. As `metrics.rates.goodput`."""
    stamps, last, due = token_times(record).stamps_ns, last_ns(record), due_ns(record)
    if last is None or due is None:
        return {}
    of_tokens = {"ttft": stamps[0] - due, "tpot": tpot_ns(stamps[0], last, record.output_tokens)} if stamps else {}
    return of_tokens | {"e2e": last - due}


class InOrder(LlmMetrics):
    """`whole` requests from the first of the schedule have ended, without a gap."""

    def __init__(self) -> None:
        super().__init__()
        self._there = bytearray()
        self.whole = 0

    def ended(self, record: RequestRecord) -> None:
        super().ended(record)
        self.add(record)

    def add(self, record: RequestRecord) -> None:
        """Keep one for this alone, as those of a run that goes on."""
        if record.index >= len(self._there):
            self._there.extend(bytes(record.index + 1 - len(self._there)))
        self.keep(record)
        self._there[record.index] = 1
        while self.whole < len(self._there) and self._there[self.whole]:
            self.whole += 1

    def keep(self, record: RequestRecord) -> None:
        """What is needed of a record."""


class UntilNarrow(InOrder):
    """Keeps one figure of each request, and says when its interval is as narrow as asked. `budget` is how many requests the run may have
    in all, where that is known."""

    budget: int | None = None

    def __init__(self, until: Until) -> None:
        super().__init__()
        self._until, self._values, self._seen = until, array("q"), 0

    def keep(self, record: RequestRecord) -> None:
        missing = record.index + 1 - len(self._values)
        self._values.extend([ABSENT] * missing)
        value = latencies_ns(record).get(self._until.metric) if record.outcome == "ok" else None
        self._values[record.index] = ABSENT if value is None else value

    def enough(self) -> bool:
        """Whether a look that is due now is narrow."""
        until = msgspec.structs.replace(self._until, budget=self.budget)
        due = sum(1 for _ in errors(until, self.whole))
        if due == self._seen:
            return False
        self._seen = due
        return last_look(until, numpy.frombuffer(self._values, "i8")[: self.whole].copy()).reached
