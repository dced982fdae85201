"""Statistics over raw samples: exact percentiles, and intervals that say how far to trust them.

Percentiles are nearest-rank: always a value that was measured. Their intervals are distribution
free: order statistics with exact binomial tails, at the sample size that values which come in clusters
(the tokens of a request) and hang together (stretches of a queue's life, steps that requests share) are worth.
Variances are computed in exact integers: a result doesn't depend on the order of summation, on numpy, or on
the machine. Sources are given at each function; docs/metrics.md tells it at length.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import lru_cache
from typing import Literal, NamedTuple

from bytemlperf.errors import UserError
from bytemlperf.lazy import numpy
from bytemlperf.statistics.columns import Column, Ordered, Values, column, dot, sums_between, total_of
from bytemlperf.statistics.special import lower_tail_count, normal_quantile, t_quantile

PERCENTILE_DEFINITION = "nearest-rank: the p-th percentile of n sorted values is value number ceil(p/100 * n), counted from 1"
INTERVAL_DEFINITION = (
    "95 %, two-sided: percentiles by order statistics with exact binomial tails at the effective sample size, means by Student's t "
    "on the logarithm; both with the widest variance of single requests, ten batches, and thirty that follow each other"
)

INSUFFICIENT: Literal["insufficient"] = "insufficient"
Bounds = tuple[int | float, int | float]
Interval = Bounds | Literal["insufficient"]

_TAIL = 0.025  # each side of a 95 % interval
CARRY_CONFIDENCE = 0.99
"""A percentile p is claimed when the sample reaches beyond it with this confidence: 1 − p**n ≥ 0.99."""

BATCHES, LONG_BATCHES = 30, 10
"""Batch means: enough batches for a stable variance, few enough to outlast the autocorrelation
(Schmeiser, Batch size effects in the analysis of simulation output, Operations Research 30(3), 1982: 10 to 30)."""

MAX_LIKENESS = 0.5
"""Correlation of neighbouring batches beyond which a run is too short for its own memory: nothing is extrapolated further."""

LEAST_DEGREES = 3

BEYOND = 0.3
"""Chance that a percentile lies beyond all independent values that a sample is worth, from which on no interval is given."""

_FACTOR_DIGITS = 12
"""A factor is rounded so that the last bits of a machine's libm don't reach a summary."""

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


def percentile(ordered: Ordered, share: Fraction) -> int:
    """Nearest-rank percentile of a sorted, non-empty sequence."""
    return int(ordered[nearest_rank(len(ordered), share) - 1])


def needed_count(share: Fraction) -> int:
    """Values that a percentile needs: the smallest n with 1 − p**n ≥ 0.99, symmetric under 50 %."""
    far = max(share, 1 - share)
    return math.ceil(math.log(1.0 - CARRY_CONFIDENCE) / math.log(far))


def order_interval(ordered: Ordered, share: Fraction, tail: float = _TAIL) -> Interval:
    """Interval of a percentile from independent values: X(r) to X(s) with P(B < r) ≤ 2.5 % and
    P(B ≥ s) ≤ 2.5 % (`tail`) for B ~ Binomial(n, p) (David and Nagaraja, Order Statistics, 3rd ed., 7.1)."""
    count = len(ordered)
    if count < needed_count(share):
        return INSUFFICIENT
    low = lower_tail_count(count, share, tail) + 1
    high = count - lower_tail_count(count, 1 - share, tail)
    return (int(ordered[low - 1]), int(ordered[high - 1]))


class Estimate(NamedTuple):
    """Variance of an estimate such as a ratio Σ amounts / Σ sizes, and the degrees of freedom that it stands on."""

    variance: Fraction | float
    degrees: int

    @property
    def error(self) -> float:
        """The standard error."""
        return math.sqrt(self.variance)

    def reach(self, tail: float = _TAIL) -> float:
        """Half of the 95 % interval, or of one with another error on each side."""
        return t_quantile(1.0 - tail, self.degrees) * self.error

    def scaled(self, factor: float) -> Estimate:
        """Of what is so many times the estimate."""
        return Estimate(self.variance * factor**2, self.degrees)

    def plus(self, other: Estimate) -> Estimate:
        """Of a sum or difference of two independent ones, with Welch and Satterthwaite's degrees of freedom."""
        one, two = float(self.variance), float(other.variance)
        if one + two == 0 or math.isinf(one + two):
            return Estimate(one + two, 1)
        return Estimate(one + two, max(1, int((one + two) ** 2 / (one**2 / self.degrees + two**2 / other.degrees))))


def estimates(amounts: Values, sizes: Values) -> list[Estimate]:
    """What a ratio's variance is, by three answers to how far neighbours are alike; whoever takes the largest is safe.

    `amounts` and `sizes` are those of units (requests) in the order of time, at least two. The ratio is linearised in
    each (Woodruff, JASA 47, 1952; Law, Simulation Modeling and Analysis, 5th ed., 9.5.3):
    - units are independent: their own variance;
    - they are alike over up to a tenth of the run: ten batches of consecutive units, which outlast the
      autocorrelation (Schmeiser, Operations Research 30(3), 1982: 10 to 30);
    - they are alike for longer: up to thirty batches that follow each other as an autoregression of order 1, whose
      correlation, freed of its bias (Kendall, Biometrika 41, 1954), multiplies their variance by (1 + ρ)/(1 − ρ).
    Under twenty units there are no batches.
    """
    return [_variance(column(amounts), column(sizes)), *batched_estimates(amounts, sizes)]


def batched_estimates(amounts: Values, sizes: Values) -> list[Estimate]:
    """`estimates` without the first: none under twenty units."""
    count = len(sizes)
    if count < 2 * LONG_BATCHES:
        return []
    batches = min(BATCHES, count // 2)
    return [
        _variance(batch(amounts, LONG_BATCHES), batch(sizes, LONG_BATCHES)),
        _following(batch(amounts, batches), batch(sizes, batches)),
    ]


def _variance(amounts: Column | list[int], sizes: Column | list[int]) -> Estimate:
    """Of independent units, with as many degrees of freedom as there are effective units, (Σ sizes)²/Σ sizes², less one."""
    count, total, amount = len(sizes), total_of(sizes), total_of(amounts)
    size_squares = dot(sizes, sizes)
    spread = total * total * dot(amounts, amounts) - 2 * total * amount * dot(amounts, sizes) + amount * amount * size_squares
    return Estimate(Fraction(count * spread, (count - 1) * total**4), max(1, total * total // size_squares - 1))


def _following(amounts: list[int], sizes: list[int]) -> Estimate:
    """Of batches that follow each other."""
    plain, count, total, amount = _variance(amounts, sizes), len(sizes), sum(sizes), sum(amounts)
    off = [part * total - amount * size for part, size in zip(amounts, sizes, strict=True)]
    squares = dot(off, off)
    if not squares:
        return plain
    raw = float(Fraction(dot(off[1:], off), squares))
    likeness = min(MAX_LIKENESS, max(0.0, raw + (1 + 3 * raw) / count))
    factor = (1 + likeness) / (1 - likeness)
    return Estimate(plain.variance * Fraction(factor), max(LEAST_DEGREES, int(plain.degrees / factor)))


def effective_count(at_most: Values, sizes: Values, share: Fraction, tail: float = _TAIL) -> float:
    """How many independent values a clustered, autocorrelated sample is worth for one percentile.

    `at_most` holds per cluster, in the order of time, how many of its `sizes` values are ≤ the percentile. n_eff
    = p(1−p) over the variance of the estimated distribution function, lowered by (z/t)**2 for the degrees of
    freedom that the variance stands on (Korn and Graubard, Survey Methodology 24(2), 1998); at most n, which is all
    that there is to say of clusters of one.
    """
    count, total = len(sizes), total_of(column(sizes))
    if count < 2:
        return 0.0
    wanted, normal = share * (1 - share), normal_quantile(1.0 - tail)
    found = batched_estimates(at_most, sizes) if count == total else estimates(at_most, sizes)
    worths = [float(wanted / each.variance) * (normal / t_quantile(1.0 - tail, each.degrees)) ** 2 for each in found if each.variance]
    return min([float(total), *worths])


def effective_interval(ordered: Ordered, share: Fraction, effective: float, tail: float = _TAIL, beyond: float = BEYOND) -> Interval:
    """Interval of a percentile from `effective` independent values' worth of sample: the order
    statistics of that many, mapped to ranks of the whole sample, outwards. Where even the outermost of so many would not
    bound the percentile it ends at the outermost value that there is; far from that (`beyond`) it is insufficient."""
    worth, count = int(effective), len(ordered)
    if worth < 1 or float(max(share, 1 - share)) ** worth > beyond:
        return INSUFFICIENT
    low = lower_tail_count(worth, share, tail) * count // worth
    high = -(-(worth - lower_tail_count(worth, 1 - share, tail)) * count // worth) + 1
    return (int(ordered[max(1, low) - 1]), int(ordered[min(count, high) - 1]))


def deviation(count: int, total: int, squares: int) -> float | None:
    """Sample standard deviation (n − 1) from exact sums; None under two values."""
    if count < 2:
        return None
    return math.sqrt(Fraction(count * squares - total * total, count * (count - 1)))


def batch(values: Values, batches: int = BATCHES) -> list[int]:
    """Sums of `batches` consecutive stretches whose lengths differ by at most one; the values
    themselves when there aren't two for each."""
    count = len(values)
    if count < 2 * batches:
        return list(map(int, values))
    return sums_between(column(values), [count * edge // batches for edge in range(batches + 1)])


def mean_interval(sums: Values, sizes: Values | None = None, tail: float = _TAIL) -> Interval:
    """Interval of a mean over time-ordered units (requests), each of which has a sum of values and a number of them (one value, where
    there are no `sizes`): Student's t with the widest of `estimates`. Of a quantity that isn't below zero it is taken on the logarithm (the
    delta method), mean ×÷ exp(reach/mean): it can't fall below zero, and is nearly the same where it is narrow."""
    amounts = column(sums)
    numbers = numpy.ones_like(amounts) if sizes is None else column(sizes)
    count, total = total_of(numbers), total_of(amounts)
    if len(amounts) < 2 or count == 0:
        return INSUFFICIENT
    mean, reach = float(Fraction(total, count)), max(each.reach(tail) for each in estimates(amounts, numbers))
    return factor_interval(mean, reach) if total > 0 and amounts.min() >= 0 else (mean - reach, mean + reach)


def factor_interval(mean: float, reach: float) -> Bounds:
    """mean ×÷ exp(reach/mean); mean above 0."""
    factor = round(math.exp(reach / mean), _FACTOR_DIGITS)
    return (mean / factor, mean * factor)


def autocorrelation_factor(values: Values) -> float:
    """How many times the mean's variance exceeds that of independent values, from batch means;
    1.0 when there are too few to tell, or no significant excess (see AUTOCORRELATED)."""
    amounts, count = column(values), len(values)
    if count < 2 * BATCHES:
        return 1.0
    total = total_of(amounts)
    plain = Fraction(count * dot(amounts, amounts) - total * total, count * (count - 1))
    if not plain:
        return 1.0
    mean, sizes = Fraction(total, count), batch(numpy.ones_like(amounts))
    spread = sum((part - mean * size) ** 2 / size for part, size in zip(batch(amounts), sizes, strict=True))
    factor = float(spread / (BATCHES - 1) / plain)
    return factor if factor > AUTOCORRELATED else 1.0


def sample_interval(values: Values, ordered: Ordered, share: Fraction, tail: float = _TAIL, beyond: float = BEYOND) -> Interval:
    """Interval of a percentile of one sample in time order that may be autocorrelated: order statistics at the effective
    sample size. `ordered` is the sample sorted."""
    if len(values) < 2 * LONG_BATCHES:
        return order_interval(ordered, share, tail)
    at_most = (column(values) <= percentile(ordered, share)).astype("i8")
    return effective_interval(ordered, share, effective_count(at_most, numpy.ones_like(at_most), share, tail), tail, beyond)


def ratio(above: Values, below: Values) -> tuple[float, float | None, float | None]:
    """mean(above) / mean(below) of independent runs' values in the order of time, with a 95 % interval by the delta method on the
    logarithm, each variance the widest of `estimates`; no interval from a single value."""
    values = column(above), column(below)
    means = [float(Fraction(total_of(amounts), len(amounts))) for amounts in values]
    value = means[0] / means[1]
    if min(map(len, values)) < 2:
        return value, None, None
    widest = (max(estimates(amounts, numpy.ones_like(amounts)), key=Estimate.reach) for amounts in values)
    first, second = (each.scaled(1 / mean) for each, mean in zip(widest, means, strict=True))
    factor = math.exp(first.plus(second).reach())
    return value, value / factor, value * factor


def wilson(share: float, worth: float) -> tuple[float, float]:
    """95 % interval of a share seen in so many independent trials (Wilson, JASA 22(158), 1927)."""
    z = normal_quantile(0.975)
    centre, spread = share + z * z / (2 * worth), z * math.sqrt(share * (1 - share) / worth + (z / (2 * worth)) ** 2)
    scale = 1 + z * z / worth
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)
