"""From raw latencies to mean, percentiles and their intervals, with the formulas of bytemlperf.statistics.statistics."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from bytemlperf.statistics.statistics import (
    INSUFFICIENT,
    autocorrelation_factor,
    deviation,
    mean_interval,
    needed_count,
    parse_percentile,
    percentile,
    sample_interval,
)

PERCENTILES = ("50", "90", "99")


def describe(values_ns: Sequence[int]) -> dict[str, Any]:
    """`unit`, `count`, `mean`, `std`, `min`, `max`, `percentiles` and `ci95`, ns. A percentile that the sample can't
    carry is `insufficient`. Where batch means show autocorrelation, intervals are wider for it. Needs a value."""
    ordered = sorted(values_ns)
    count, total = len(ordered), sum(ordered)
    factor = autocorrelation_factor(values_ns)
    claims: dict[str, Any] = {}
    intervals: dict[str, Any] = {"mean": _listed(mean_interval(list(values_ns), [1] * count))}
    for text in PERCENTILES:
        share = parse_percentile(text)
        claims[text] = percentile(ordered, share) if count >= needed_count(share) else INSUFFICIENT
        intervals[text] = _listed(sample_interval(values_ns, ordered, share)) if claims[text] != INSUFFICIENT else INSUFFICIENT
    return {
        "unit": "ns",
        "count": count,
        "mean": float(Fraction(total, count)),
        "std": deviation(count, total, sum(value * value for value in ordered)),
        "min": ordered[0],
        "max": ordered[-1],
        "percentiles": claims,
        "ci95": intervals,
        "effective_count": int(count / factor),
    }


def _listed(interval: Any) -> Any:
    return interval if interval == INSUFFICIENT else [float(each) for each in interval]
