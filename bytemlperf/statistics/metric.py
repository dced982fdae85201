"""One metric's summary, the same for every suite: from integers in the order of time to mean, spread, percentiles and intervals."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Literal

import msgspec

from bytemlperf.lazy import numpy
from bytemlperf.statistics.columns import Ordered, Values, column, dot, total_of
from bytemlperf.statistics.statistics import (
    INSUFFICIENT,
    Interval,
    autocorrelation_factor,
    deviation,
    mean_interval,
    nearest_rank,
    needed_count,
    parse_percentile,
    sample_interval,
)
from bytemlperf.units import NS_PER_S

PERCENTILES = ("50", "90", "99")
Claim = int | float | Literal["insufficient", "inf"]
"""A percentile; `insufficient` when the sample can't carry it; `inf` when it lies among requests that never ended."""


class Metric(msgspec.Struct, kw_only=True):
    """Summary of one metric.

    `ci95` has the key `mean` and one for each percentile: [low, high] or "insufficient".
    `percentiles_with_failures` counts requests that didn't end ok as infinite; it's None for metrics that aren't of whole requests, and
    absent from suites without requests. `effective_count` is how many independent
    values the sample is worth for its mean (less than `count` when autocorrelated or clustered).
    """

    unit: str
    formula: str
    count: int
    mean: float
    std: float | None
    min: int | float
    max: int | float
    percentiles: dict[str, Claim]
    ci95: dict[str, Interval]
    percentiles_with_failures: dict[str, Claim] | msgspec.UnsetType | None = msgspec.UNSET
    effective_count: int

    def divided(self, by: float) -> Metric:
        """The metric of values that are so many times smaller."""
        return self._mapped(lambda value: value / by, self.mean / by, None if self.std is None else self.std / by)

    def _mapped(self, function: Callable[[float], float], mean: float, std: float | None) -> Metric:
        """Every value through a function that keeps their order."""
        return msgspec.structs.replace(
            self,
            mean=mean,
            std=std,
            min=function(self.min),
            max=function(self.max),
            percentiles={text: at if isinstance(at, str) else function(at) for text, at in self.percentiles.items()},
            ci95={text: at if isinstance(at, str) else (function(at[0]), function(at[1])) for text, at in self.ci95.items()},
        )


def describe(
    values: Values,
    unit: str,
    formula: str,
    percentiles: Sequence[str] = PERCENTILES,
    infinite: int | msgspec.UnsetType | None = msgspec.UNSET,
) -> Metric | None:
    """From values in the order of time; None without any. Whether a percentile is claimed depends on the count alone. `infinite` more
    never ended."""
    if not len(values):
        return None
    amounts = column(values)
    ordered = numpy.sort(amounts)
    shares = {text: parse_percentile(text) for text in percentiles}
    claims = {text: claim(ordered, 0, share) for text, share in shares.items()}
    intervals: dict[str, Interval] = {"mean": mean_interval(amounts)}
    for text, share in shares.items():
        intervals[text] = INSUFFICIENT if claims[text] == INSUFFICIENT else sample_interval(amounts, ordered, share)
    found = metric_of(unit, formula, ordered, (total_of(amounts), dot(amounts, amounts)), claims, intervals)
    found.effective_count = int(found.count / autocorrelation_factor(amounts))
    if infinite is None or isinstance(infinite, msgspec.UnsetType):
        found.percentiles_with_failures = infinite
    else:
        found.percentiles_with_failures = {text: claim(ordered, infinite, share) for text, share in shares.items()}
    return found


def metric_of(
    unit: str, formula: str, ordered: Ordered, totals: tuple[int, int], claims: dict[str, Claim], intervals: dict[str, Interval]
) -> Metric:
    """From sorted values, and their sum and that of their squares."""
    count = len(ordered)
    return Metric(
        unit=unit,
        formula=formula,
        count=count,
        mean=float(Fraction(totals[0], count)),
        std=deviation(count, *totals),
        min=int(ordered[0]),
        max=int(ordered[-1]),
        percentiles=claims,
        ci95=intervals,
        effective_count=count,
    )


def claim(ordered: Ordered, infinite: int, share: Fraction) -> Claim:
    """The percentile over finite and infinite values together."""
    count = len(ordered) + infinite
    if count < needed_count(share):
        return INSUFFICIENT
    rank = nearest_rank(count, share)
    return int(ordered[rank - 1]) if rank <= len(ordered) else "inf"


def rate(amount: float, times_ns: Values, unit: str, formula: str) -> Metric | None:
    """`amount` over each of the times, per second; the mean is that over the mean time, and its interval the mean time's, turned over."""
    times = describe(times_ns, unit, formula, ())
    falling = describe(-column(times_ns), unit, formula)
    if times is None or falling is None or times.min <= 0:
        return None

    def turned(time_ns: float) -> float:
        return -amount * NS_PER_S / time_ns

    single = [amount * NS_PER_S / time_ns for time_ns in column(times_ns).tolist()]
    found = falling._mapped(turned, amount * NS_PER_S / times.mean, statistics.stdev(single) if len(single) > 1 else None)
    bounds = times.ci95["mean"]
    found.ci95["mean"] = INSUFFICIENT if bounds == INSUFFICIENT else (turned(-bounds[1]), turned(-bounds[0]))
    return found
