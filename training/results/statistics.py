"""Columns of step records, summarised: exact percentiles with intervals, and ratios of means with theirs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from bytemlperf.statistics.arrays import sum_of_squares
from bytemlperf.statistics.special import normal_quantile, t_quantile
from bytemlperf.statistics.statistics import (
    INSUFFICIENT,
    batch,
    deviation,
    mean_interval,
    needed_count,
    parse_percentile,
    percentile,
    sample_interval,
)

PERCENTILES = ("50", "90", "99")
TAIL = 0.025
EXACT_DEGREES = 10_000
"""Beyond so many degrees of freedom the normal quantile is Student's."""


def describe(values: Sequence[int], unit: str, formula: str) -> dict[str, Any] | None:
    """A metric of FORMATS' shape from integers in time order; None without values.

    A percentile that the sample can't carry is `insufficient`; intervals know of autocorrelation.
    """
    if not values:
        return None
    ordered = sorted(values)
    shares = {text: parse_percentile(text) for text in PERCENTILES}
    carried = {text: share for text, share in shares.items() if len(values) >= needed_count(share)}
    return {
        "unit": unit,
        "formula": formula,
        "count": len(values),
        "mean": float(Fraction(sum(values), len(values))),
        "std": deviation(len(values), sum(values), sum_of_squares(values)),
        "min": ordered[0],
        "max": ordered[-1],
        "percentiles": {text: percentile(ordered, share) if text in carried else INSUFFICIENT for text, share in shares.items()},
        "ci95": {
            "mean": mean_interval(values, [1] * len(values)),
            **{text: sample_interval(values, ordered, share) if text in carried else INSUFFICIENT for text, share in shares.items()},
        },
    }


def rate(amount: int, times_ns: Sequence[int], unit: str, formula: str) -> dict[str, Any] | None:
    """`amount` a step over the mean step time, in units a second; the interval is the mean time's, turned over."""
    if not times_ns:
        return None
    mean = float(Fraction(sum(times_ns), len(times_ns)))
    bounds = mean_interval(times_ns, [1] * len(times_ns))
    interval: Any = INSUFFICIENT
    if bounds != INSUFFICIENT and bounds[0] > 0:
        interval = (amount * 1e9 / bounds[1], amount * 1e9 / bounds[0])
    return {"unit": unit, "formula": formula, "count": len(times_ns), "mean": amount * 1e9 / mean, "ci95": {"mean": interval}}


def ratio(above: Sequence[int], below: Sequence[int]) -> tuple[float, float | None, float | None]:
    """mean(above) / mean(below) of independent runs, with a 95 % interval by the delta method on the
    logarithm, Student's t with Welch and Satterthwaite's degrees of freedom; batch means where autocorrelated."""
    value = (sum(above) / len(above)) / (sum(below) / len(below))
    parts = [_relative_variance(above), _relative_variance(below)]
    if None in parts:
        return value, None, None
    (first, first_degrees), (second, second_degrees) = parts  # type: ignore[misc]
    spread = first + second
    if spread == 0:
        return value, value, value
    degrees = max(1, int(spread**2 / (first**2 / first_degrees + second**2 / second_degrees)))
    quantile = normal_quantile(1 - TAIL) if degrees > EXACT_DEGREES else t_quantile(1 - TAIL, degrees)
    reach = math.exp(quantile * math.sqrt(spread))
    return value, value / reach, value * reach


def _relative_variance(values: Sequence[int]) -> tuple[float, int] | None:
    """Variance of the mean over the mean squared, and its degrees of freedom."""
    sums, sizes = batch(values), batch([1] * len(values))
    count = len(sums)
    if count < 2:
        return None
    mean = sum(values) / len(values)
    spread = sum((part - mean * size) ** 2 for part, size in zip(sums, sizes, strict=True))
    variance = count / (count - 1) * spread / len(values) ** 2
    return variance / mean**2, count - 1
