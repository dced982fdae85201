"""Statistics over raw samples: exact percentiles, and intervals that say how far to trust them.

Percentiles are nearest-rank: always a value that was measured. Their intervals are distribution
free: order statistics with exact binomial tails where values are independent; where values come
in clusters (the tokens of a request, or stretches of a queue's life) the order statistics of the
effective sample. Means take batch means, since queueing latencies are autocorrelated. Variances
are computed in exact integers: a result doesn't depend on the order of summation, on numpy, or on
the machine. Sources are given at each function; docs/metrics.md tells it at length.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from typing import Literal

from bytemlperf_llm.errors import UserError
from bytemlperf_llm.metrics.arrays import sum_of_squares
from bytemlperf_llm.metrics.columns import dot
from bytemlperf_llm.metrics.special import lower_tail_count, normal_quantile, t_quantile

PERCENTILE_DEFINITION = "nearest-rank: the p-th percentile of n sorted values is value number ceil(p/100 * n), counted from 1"
INTERVAL_DEFINITION = (
    "95 %, two-sided: percentiles by order statistics with exact binomial tails (for clustered or autocorrelated values at the "
    "effective sample size), means by batch means with Student's t"
)

INSUFFICIENT: Literal["insufficient"] = "insufficient"
Bounds = tuple[int | float, int | float]
Interval = Bounds | Literal["insufficient"]

_TAIL = 0.025  # each side of a 95 % interval
CARRY_CONFIDENCE = 0.99
"""A percentile p is claimed when the sample reaches beyond it with this confidence: 1 − p**n ≥ 0.99."""

BATCHES = 30
"""Batch means: enough batches for a stable variance, few enough to outlast the autocorrelation
(Schmeiser, Batch size effects in the analysis of simulation output, Operations Research 30(3), 1982: 10 to 30)."""

AUTOCORRELATED = 1.71
"""Ratio of the batch means' variance to that of independent values beyond which values count as
autocorrelated: the 99 % point of chi-square with 29 degrees of freedom, over 29."""


@lru_cache(maxsize=256)
def parse_percentile(text: str) -> Fraction:
    """ "99.9" to 999/1000 exactly. Raises UserError unless 0 < p < 100."""
    try:
        percent = Fraction(text.strip())
    except (ValueError, ZeroDivisionError):
        raise UserError(f"percentile '{text}' is not a number", "give numbers between 0 and 100, such as 50,90,99") from None
    if not 0 < percent < 100:
        raise UserError(f"percentile {text} is out of range", "give numbers between 0 and 100, such as 50,90,99")
    return percent / 100


def nearest_rank(count: int, share: Fraction) -> int:
    """Rank from 1 of the percentile `share` (0 < share < 1) among `count` ≥ 1 values."""
    return -(-share.numerator * count // share.denominator)


def percentile(ordered: Sequence[int], share: Fraction) -> int:
    """Nearest-rank percentile of a sorted, non-empty sequence."""
    return int(ordered[nearest_rank(len(ordered), share) - 1])


def needed_count(share: Fraction) -> int:
    """Values that a percentile needs: the smallest n with 1 − p**n ≥ 0.99, symmetric under 50 %."""
    far = max(share, 1 - share)
    return math.ceil(math.log(1.0 - CARRY_CONFIDENCE) / math.log(far))


def order_interval(ordered: Sequence[int], share: Fraction) -> Interval:
    """Interval of a percentile from independent values: X(r) to X(s) with P(B < r) ≤ 2.5 % and
    P(B ≥ s) ≤ 2.5 % for B ~ Binomial(n, p) (David and Nagaraja, Order Statistics, 3rd ed., 7.1)."""
    count = len(ordered)
    if count < needed_count(share):
        return INSUFFICIENT
    low = lower_tail_count(count, share, _TAIL) + 1
    high = count - lower_tail_count(count, 1 - share, _TAIL)
    return (int(ordered[low - 1]), int(ordered[high - 1]))


def effective_count(at_most: Sequence[int], sizes: Sequence[int], share: Fraction) -> float:
    """How many independent values a clustered sample is worth for one percentile.

    `at_most` holds per cluster how many of its `sizes` values are ≤ the percentile. The variance
    of the estimated distribution function is that of a ratio estimator over clusters, linearised
    (Woodruff, Confidence intervals for medians and other position measures, JASA 47, 1952); n_eff
    = p(1−p)/variance, at most n; it's then lowered by (z/t)**2 for the clusters' degrees of
    freedom (Korn and Graubard, Survey Methodology 24(2), 1998). Degrees of freedom come from the
    effective number of clusters, (Σ sizes)²/Σ sizes², so that a few long requests count as few.
    """
    clusters, total = len(sizes), sum(sizes)
    if clusters < 2:
        return 0.0
    below = sum(at_most)
    size_squares, cross, squares = sum_of_squares(sizes), dot(at_most, sizes), sum_of_squares(at_most)
    spread = total * total * squares - 2 * total * below * cross + below * below * size_squares
    variance = Fraction(clusters * spread, (clusters - 1) * total**4)
    independent = float(share * (1 - share) / variance) if variance else math.inf
    degrees = max(1, total * total // size_squares - 1)
    shrink = (normal_quantile(1.0 - _TAIL) / t_quantile(1.0 - _TAIL, degrees)) ** 2
    return min(float(total), independent) * shrink


def effective_interval(ordered: Sequence[int], share: Fraction, effective: float) -> Interval:
    """Interval of a percentile from `effective` independent values' worth of sample: the order
    statistics of that many, mapped to ranks of the whole sample, outwards."""
    worth, count = int(effective), len(ordered)
    if worth < needed_count(share):
        return INSUFFICIENT
    low = lower_tail_count(worth, share, _TAIL) * count // worth
    high = -(-(worth - lower_tail_count(worth, 1 - share, _TAIL)) * count // worth) + 1
    return (int(ordered[max(1, low) - 1]), int(ordered[min(count, high) - 1]))


def deviation(count: int, total: int, squares: int) -> float | None:
    """Sample standard deviation (n − 1) from exact sums; None under two values."""
    if count < 2:
        return None
    return math.sqrt(Fraction(count * squares - total * total, count * (count - 1)))


def batch(values: Sequence[int], batches: int = BATCHES) -> list[int]:
    """Sums of `batches` consecutive stretches whose lengths differ by at most one; the values
    themselves when there aren't two for each."""
    count = len(values)
    if count < 2 * batches:
        return list(values)
    edges = [count * edge // batches for edge in range(batches + 1)]
    return [sum(values[a:b]) for a, b in pairwise(edges)]


def mean_interval(sums: Sequence[int], sizes: Sequence[int]) -> Interval:
    """Interval of a mean by batch means over time-ordered units (requests): each unit has a sum
    of values and a number of them. The mean is the ratio Σsums/Σsizes, its variance the
    linearised one over batches (Law, Simulation Modeling and Analysis, 5th ed., 9.5.3), with
    Student's t. Under 60 units each is a batch of its own: the plain t interval."""
    batch_sums, batch_sizes = batch(sums), batch(sizes)
    count, total = len(batch_sums), sum(batch_sizes)
    if count < 2 or total == 0:
        return INSUFFICIENT
    mean = Fraction(sum(batch_sums), total)
    spread = sum((part - mean * size) ** 2 for part, size in zip(batch_sums, batch_sizes, strict=True))
    error = math.sqrt(Fraction(count, count - 1) * spread) / total
    reach = t_quantile(1.0 - _TAIL, count - 1) * error
    return (float(mean) - reach, float(mean) + reach)


def autocorrelation_factor(values: Sequence[int]) -> float:
    """How many times the mean's variance exceeds that of independent values, from batch means;
    1.0 when there are too few to tell, or no significant excess (see AUTOCORRELATED)."""
    count = len(values)
    if count < 2 * BATCHES:
        return 1.0
    sizes = batch([1] * count)
    mean = Fraction(sum(values), count)
    total, squares = sum(values), sum_of_squares(values)
    plain = Fraction(count * squares - total * total, count * (count - 1))
    if not plain:
        return 1.0
    spread = sum((part - mean * size) ** 2 / size for part, size in zip(batch(values), sizes, strict=True))
    factor = float(spread / (BATCHES - 1) / plain)
    return factor if factor > AUTOCORRELATED else 1.0


def sample_interval(values: Sequence[int], ordered: Sequence[int], share: Fraction) -> Interval:
    """Interval of a percentile of one sample in time order that may be autocorrelated: order statistics, at the effective
    sample size of batches where batch means show autocorrelation. `ordered` is the sample sorted."""
    if autocorrelation_factor(values) == 1.0:
        return order_interval(ordered, share)
    limit = percentile(ordered, share)
    at_most = batch([value <= limit for value in values])
    return effective_interval(ordered, share, effective_count(at_most, batch([1] * len(values)), share))
