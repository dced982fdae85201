"""The records of an LLM run as numpy columns, in the canonical order of the summary (due, then index).

Built from the same accumulator as the summary, so that a plot and a figure can't disagree. Memory is
that of the accumulator (four bytes a token) and some columns of a million integers.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from bytemlperf.lazy import numpy
from bytemlperf.runs.records import once
from bytemlperf.statistics.clusters import ClusteredColumn
from bytemlperf.statistics.columns import ABSENT, Column, Floats, Mask
from bytemlperf.units import NS_PER_MS, NS_PER_S
from bytemlperf_llm.metrics.accumulator import OUTCOMES, Accumulator, accumulated, request_column
from bytemlperf_llm.metrics.facts import RunFacts, facts_from
from bytemlperf_llm.metrics.rates import Window, in_flight_steps, whole_window
from bytemlperf_llm.metrics.token_stamps import token_stamps
from bytemlperf_llm.record.record import RequestRecord

LATENCIES = (
    *("ttft", "service_ttft", "time_to_first_reasoning_token", "time_to_first_answer_token"),
    *("tpot", "e2e", "service_e2e", "max_stall"),
)


class RunColumns:
    """Columns of a run. Times are seconds from the first request due; NaN where it never happened."""

    def __init__(self, acc: Accumulator, facts: RunFacts) -> None:
        self.acc, self.facts = acc, facts
        window = whole_window(acc) or Window(start_ns=0, end_ns=1)
        self.origin_ns, self.duration_s = window.start_ns, max(window.length_ns, 1) / NS_PER_S
        self.failures = [((end - self.origin_ns) / NS_PER_S, name) for end, name in acc.failures.ends]

    def raw(self, name: str) -> Column:
        """A column of integers in canonical order, with ABSENT."""
        return self.acc.columns[name][self.acc.rows()]

    @cached_property
    def ok(self) -> Mask:
        """Which requests were answered."""
        return self.raw("outcome") == OUTCOMES.index("ok")

    @cached_property
    def index(self) -> Column:
        return self.raw("index")

    @cached_property
    def answered(self) -> Mask:
        """Which were answered, with at least one token where tokens were asked for: the requests whose latencies count."""
        return self.ok & (self.raw("last") != ABSENT) & (self.raw("due") != ABSENT)

    @cached_property
    def streams(self) -> bool:
        """Whether there are tokens; of vectors and scores there are none."""
        return bool((self.raw("first")[self.answered] != ABSENT).any())

    def when(self, name: str) -> Floats:
        """A stamp of all requests in seconds, NaN where absent."""
        raw = self.raw(name)
        return numpy.where(raw == ABSENT, numpy.nan, (raw - self.origin_ns) / NS_PER_S)

    def between(self, later: str, earlier: str) -> Floats:
        """A span of all requests in ms, NaN where a stamp is absent."""
        return (self.when(later) - self.when(earlier)) * 1e3

    @cached_property
    def latencies(self) -> dict[str, Floats]:
        """The per-request metrics in ms, of all requests; NaN outside `answered`."""
        found = {name: request_column(self.acc.columns, name, self.acc.rows()) for name in LATENCIES}
        return {name: numpy.where(self.answered & (ns != ABSENT), ns / NS_PER_MS, numpy.nan) for name, ns in found.items()}

    def present(self, name: str) -> Floats:
        """The values of a per-request metric, in order, without those that lack it."""
        values = self.latencies[name]
        return values[~numpy.isnan(values)]

    @cached_property
    def in_flight(self) -> tuple[Floats, Floats]:
        """Times (s) and the number in flight from each of them on."""
        times, levels = in_flight_steps(self.acc)
        return (times[:-1].astype("f8") - self.origin_ns) / NS_PER_S, levels[:-1].astype("f8")

    # -- tokens -----------------------------------------------------------------------------

    def token_blocks(self, intervals: ClusteredColumn | None = None) -> Iterable[tuple[Floats, Floats, Floats]]:
        """(stamps s, gaps ms, weights) a block of answers at a time, as ITL (or other `intervals`) has them: of a burst of several tokens
        each has its share of the time. A token each; of a run of more than `MAX_DRAWN` equal gaps so many, which stand for all."""
        for stamps, gaps, weights in token_stamps(self.acc, self.acc.itl if intervals is None else intervals):
            yield (stamps - self.origin_ns) / NS_PER_S, gaps / NS_PER_MS, weights

    @cached_property
    def first_tokens_s(self) -> Floats:
        """When the first token of each answer came."""
        return self.when("first")[self.answered]


def columns_of(run: dict[str, Any], records: Iterable[RequestRecord]) -> RunColumns:
    """The columns of a run; kept as long as `records` lives. Raises UserError."""
    return once(records, _columns, run)


def _columns(records: Iterable[RequestRecord], run: dict[str, Any]) -> RunColumns:
    facts = facts_from(run, Path("run"))
    return RunColumns(once(records, accumulated, facts), facts)
