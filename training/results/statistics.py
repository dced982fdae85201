"""Ratios of mean step times with their intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence

from bytemlperf.statistics.special import normal_quantile, t_quantile
from bytemlperf.statistics.statistics import batch

TAIL = 0.025
EXACT_DEGREES = 10_000
"""Beyond so many degrees of freedom the normal quantile is Student's."""


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
