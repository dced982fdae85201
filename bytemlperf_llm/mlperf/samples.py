"""What MLPerf's rules look at: the requests of a run in the order they were issued, and the figures made of them.

TTFT runs from issue to the first fragment that carries a token. TPOT is the rest of the response over the tokens after that fragment;
a response without any has none (MLPerf Endpoints rules 2.8 and 4.1). Percentiles are the lower of two neighbours, as the reference
client's. An early-stopping estimate is the sample that the true percentile is at most, at 99 % confidence: LoadGen's t-th highest
(results.cc, SingleStream), t the most samples of which so few being above it is unlikely.
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from typing import NamedTuple

import msgspec

from bytemlperf.lazy import numpy
from bytemlperf.statistics.columns import ABSENT, Column, total_of
from bytemlperf.statistics.special import binomial_cdf, lower_tail_count
from bytemlperf_llm.metrics.definitions import due_ns, token_times
from bytemlperf_llm.record.record import RequestRecord

GRID = ("99.9", "99.0", "97.0", "95.0", "90.0", "80.0", "75.0", "50.0", "25.0", "10.0", "5.0", "1.0")
"""Percentiles of result_summary.json, as the reference client writes them."""

EARLY_STOPPING_ERROR = 0.01
"""LoadGen's: one minus a confidence of 0.99, without tolerance (results.cc)."""


class Series(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One metric of result_summary.json: ns, or tokens. `early_stopping_percentiles` holds null where the samples are too few."""

    total: int
    min: int
    max: int
    median: int
    avg: float
    std_dev: float
    percentiles: dict[str, int]
    early_stopping_percentiles: dict[str, int | None] | None = None


class Samples(NamedTuple):
    """Requests that were sent, by their issue (in open loop: when they were due); each a column. `first_ns` and `prompt_tokens` are ABSENT
    where there is none, `later_tokens` are those after the first fragment, `ok` is 1 for an answer."""

    issued_ns: Column
    first_ns: Column
    ended_ns: Column
    tokens: Column
    later_tokens: Column
    prompt_tokens: Column
    ok: Column

    def part(self, start: int, stop: int) -> Samples:
        """The requests issued from one place to before the other."""
        return Samples(*(column[start:stop] for column in self))

    @property
    def requests(self) -> int:
        return len(self.issued_ns)

    @property
    def issue_span_ns(self) -> int:
        """From the first issue to the last: what the steady window's length is, without the drain."""
        return int(self.issued_ns[-1] - self.issued_ns[0]) if self.requests else 0

    @property
    def whole_span_ns(self) -> int:
        """From the first issue to the last end."""
        return int(self.ended_ns.max() - self.issued_ns[0]) if self.requests else 0

    @property
    def output_tokens(self) -> int:
        return total_of(self.tokens[self.ok == 1])

    def ttft_ns(self) -> Column:
        rows = (self.ok == 1) & (self.first_ns != ABSENT)
        return self.first_ns[rows] - self.issued_ns[rows]

    def tpot_ns(self) -> Column:
        rows = (self.ok == 1) & (self.first_ns != ABSENT) & (self.later_tokens > 0)
        values = (self.ended_ns[rows] - self.first_ns[rows]) // self.later_tokens[rows]
        return values[values > 0]

    def latency_ns(self) -> Column:
        return (self.ended_ns - self.issued_ns)[self.ok == 1]


def samples_of(records: Iterable[RequestRecord]) -> Samples:
    """Of the records, in any order."""
    rows = sorted(_row(record, record.sent_ns) for record in records if record.sent_ns is not None)
    return Samples(*(numpy.asarray(rows, "i8").reshape(-1, 8).T[[0, 2, 3, 4, 5, 6, 7]]))


def _row(record: RequestRecord, sent_ns: int) -> tuple[int, ...]:
    times, due = token_times(record), due_ns(record)
    first, later = (times.stamps_ns[0], sum(times.tokens[1:])) if times.stamps_ns else (ABSENT, 0)
    prompt = ABSENT if record.prompt_tokens is None else record.prompt_tokens
    issued, ok = sent_ns if due is None else due, int(record.outcome == "ok")
    return issued, record.index, first, record.end_ns, record.output_tokens, later, prompt, ok


def lower_percentile(ascending: Column, percent: str) -> int:
    """The lower of the two samples that the percentile lies between; needs one."""
    return int(ascending[int(Fraction(percent) * (len(ascending) - 1) / 100)])


def estimate(ascending: Column, percent: str) -> int | None:
    """The early-stopping estimate of a percentile; None where the samples are too few."""
    allowed = lower_tail_count(len(ascending), 1 - Fraction(percent) / 100, EARLY_STOPPING_ERROR) if len(ascending) else 0
    return int(ascending[-allowed]) if allowed >= 1 else None


def certified(samples: int, over: int, percent: str) -> bool:
    """Whether so many samples above the limit, of all, show at 99 % confidence that the percentile is within it (LoadGen's Server)."""
    return over < samples and binomial_cdf(over, samples, 1 - Fraction(percent) / 100) < EARLY_STOPPING_ERROR


def series(values: Column, *, early: bool) -> Series | None:
    """The metric of these values; None without any."""
    if not len(values):
        return None
    ascending = numpy.sort(values)
    percentiles = {percent: lower_percentile(ascending, percent) for percent in GRID}
    return Series(
        total=total_of(ascending),
        min=int(ascending[0]),
        max=int(ascending[-1]),
        median=percentiles["50.0"],
        avg=float(ascending.mean()),
        std_dev=float(ascending.std(ddof=1)) if len(ascending) > 1 else 0.0,
        percentiles=percentiles,
        early_stopping_percentiles={percent: estimate(ascending, percent) for percent in GRID if float(percent) >= 50} if early else None,
    )
