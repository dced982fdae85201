"""`--until 'ttft p99 ±10%'`: a run ends once the interval of that figure is so narrow. Pure: no I/O, no clock.

It is looked at when so many requests have ended, the first of the schedule without a gap, as a percentile needs at least, and each
time they have grown by half. Whoever looks often and stops at the first narrow interval picks lucky ones; so an error of 5 % is spent
over all looks (`bytemlperf.statistics.looks`), and the interval that ends the run is one of 95 %, whenever that is. It is wider than
that of a run whose length was fixed before, which the summary has beside it. In the tail it is none until an order statistic bounds the
percentile.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from itertools import takewhile

import msgspec

from bytemlperf.errors import UserError
from bytemlperf.lazy import numpy
from bytemlperf.report.text import counted, number
from bytemlperf.statistics.columns import Column, present
from bytemlperf.statistics.looks import endless_looks, looks, spent
from bytemlperf.statistics.statistics import (
    INSUFFICIENT,
    Bounds,
    mean_interval,
    needed_count,
    parse_percentile,
    percentile,
    sample_interval,
)
from bytemlperf.units import NS_PER_MS

ERROR = 0.05
LEAST_REQUESTS = 60
METRICS = {"ttft": "ttft", "tpot": "tpot", "e2el": "e2e", "e2e": "e2e"}
_ASKED = re.compile(r"(ttft|tpot|e2el?)\s+(mean|p\d{1,2}(?:\.\d{1,4})?)\s*(?:±|\+/?-)\s*(\d{1,3}(?:\.\d+)?)\s*%")


class Until(msgspec.Struct, frozen=True):
    """Half the width, over the figure, that its interval may have; `share` is the percentile's, None of a mean. `budget` is
    how many requests the run may have in all, where that is known before."""

    text: str
    metric: str
    share: Fraction | None
    within: float
    budget: int | None = None

    @property
    def first(self) -> int:
        """Requests at the first look."""
        return max(LEAST_REQUESTS, needed_count(self.share) if self.share is not None else 0)


class Reached(msgspec.Struct, kw_only=True):
    """What the last look saw, ns: the interval that all looks together hold at 95 %; None where there is none yet."""

    asked: str
    reached: bool
    requests: int
    value_ns: float | None
    low_ns: float | None
    high_ns: float | None

    def sentence(self) -> str:
        """For a person."""
        if self.value_ns is None:
            return f"{self.asked} not reached: insufficient requests for an interval"
        low, high = ((side or 0.0) / NS_PER_MS for side in (self.low_ns, self.high_ns))
        seen = f"{number(self.value_ns / NS_PER_MS)} ms ({number(low)} – {number(high)}), at 95 % over all looks"
        return f"{self.asked} {'reached' if self.reached else 'not reached'} with {counted(self.requests, 'request')}: {seen}"


def parse_until(text: str, budget: int | None = None) -> Until:
    """Raises UserError."""
    match = _ASKED.fullmatch(text.strip().lower())
    if match is None or not 0 < float(match[3]) <= 100:
        raise UserError(
            f"--until {text[:40]!r} is not a figure and a width", "give ttft, tpot or e2el, mean or a percentile: 'ttft p99 ±10%'"
        )
    share = None if match[2] == "mean" else parse_percentile(match[2][1:])
    return Until(" ".join(text.split()), METRICS[match[1]], share, float(match[3]) / 100, budget)


def errors(until: Until, requests: int) -> Iterator[tuple[int, float]]:
    """Sizes of the looks up to this number of requests, each with its error."""
    sizes = [] if until.budget is None else looks(until.first, until.budget)
    shares = ((size, spent(sizes, place)) for place, size in enumerate(sizes)) if sizes else endless_looks(until.first)
    return ((size, ERROR * share) for size, share in takewhile(lambda look: look[0] <= requests, shares))


def last_look(until: Until, values: Column) -> Reached:
    """At the first narrow look of so many requests, else the last one. `values` in ns, in the order of the schedule, ABSENT where a
    request has none; all of them have ended."""
    reached = Reached(asked=until.text, reached=False, requests=0, value_ns=None, low_ns=None, high_ns=None)
    for size, error in errors(until, len(values)):
        value, bounds = _interval(until, present(values[:size]), error)
        if bounds is None:
            continue
        narrow = bounds[1] - value <= until.within * value and value - bounds[0] <= until.within * value
        reached = Reached(asked=until.text, reached=narrow, requests=size, value_ns=value, low_ns=bounds[0], high_ns=bounds[1])
        if narrow:
            break
    return reached


def _interval(until: Until, values: Column, error: float) -> tuple[float, Bounds | None]:
    if len(values) < until.first:
        return 0.0, None
    if until.share is None:
        value, bounds = float(values.mean()), mean_interval(values, tail=error / 2)
    else:
        ordered = numpy.sort(values)
        value, bounds = percentile(ordered, until.share), sample_interval(values, ordered, until.share, error / 2, beyond=error / 2)
    return value, None if bounds == INSUFFICIENT else bounds
