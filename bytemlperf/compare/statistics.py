"""The difference of two measured values, its interval, and whether chance explains it.

A change is the ratio of the new value to the baseline's. The error of its logarithm comes from, in this order:

- **pairs**, where both runs sent the same schedule: request by request, how far the new run's is off its statistic less how
  far the baseline's is off its own, so that what a request costs on any engine (its length) cancels;
- **both samples** apart, for other samples: how far each is off its own statistic;
- **the values' own intervals**, where there are no samples: on the logarithm, by the square-and-add
  rule (Zou and Donner, Statistics in Medicine 27, 2008: MOVER).

How far a request is off: of a mean its relative deviation; of a percentile whether it is at or below it, less the
percentile's share, carried back through the sample's own distribution (Bahadur's representation, Annals of
Mathematical Statistics 37, 1966; Woodruff, JASA 47, 1952). For up to `MAX_RESAMPLED` pairs a bootstrap of pairs (Efron and
Tibshirani, An Introduction to the Bootstrap, 1993) takes the place of the latter. The variance of the mean of these is that of
`metrics.statistics.estimates`, as for every published interval: requests share steps, a queue and a machine whose speed
wanders, so that batches of consecutive ones speak, not single ones. Interval and p value are Student's t with few degrees of
freedom, or those of Welch; over all figures of a comparison Benjamini and Hochberg's rule (JRSS B 57,
1995) keeps the share of false alarms at 5 %.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec

from bytemlperf.lazy import numpy
from bytemlperf.runs.kinds import Figure
from bytemlperf.statistics.special import two_tails
from bytemlperf.statistics.statistics import Estimate, batched_estimates, estimates

MIN_SAMPLES = 8
RESAMPLES = 1_000
MAX_RESAMPLED = 20_000  # values
_DRAWN_AT_ONCE = 2_000_000  # values: memory stays small
SEED = 20_261_124
MIN_BEYOND = 4.0
"""Independent values beyond a percentile: of fewer (one stall that many requests share) pairs say nothing."""

MIN_CROSSED = 40
"""Pairs that are below a percentile in one run and above it in the other: fewer carry no variance of a difference."""

FALSE_ALARMS = 0.05
_FIXED_POINT = 1 << 30  # deviations are whole numbers of its parts: far below any timer
_LARGEST = 1 << 24  # deviations beyond that many times the mean are as good as that many
_Z95 = 1.959963984540054


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """New over baseline. `ratio` 1.05 is 5 % more; None where either value is missing or not above 0.
    `low` and `high` bound its 95 % interval; `p_value` is None where there is none. `method` says how."""

    ratio: float | None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    method: str = ""


def change(baseline: Figure, new: Figure, *, paired: bool) -> Change:
    """From the baseline's figure to the new one's; `paired` when both runs have one schedule."""
    before, after = baseline.value, new.value
    if before is None or after is None or before <= 0 or after <= 0:
        return Change(ratio=None, method=_why_not(baseline, new))
    ratio = after / before
    measured = _from_samples(baseline, new, paired=paired)
    if measured is None:
        return _from_intervals(ratio, baseline, new)
    log, method = measured
    reach = math.exp(min(log.reach(), math.log(_LARGEST)))
    p_value = _p_value(math.log(ratio), log.error, log.degrees)
    return Change(ratio=ratio, low=ratio / reach, high=ratio * reach, p_value=p_value, method=method)


def _why_not(baseline: Figure, new: Figure) -> str:
    for which, figure in (("baseline", baseline), ("this run", new)):
        if figure.value is None:
            return f"{which}: {figure.reason or 'not measured'}"
    return "0: no ratio"


# -- from samples -------------------------------------------------------------------------


def _from_samples(baseline: Figure, new: Figure, *, paired: bool) -> tuple[Estimate, str] | None:
    """Of the ratio's logarithm, and how."""
    statistic = baseline.statistic
    if not statistic or statistic != new.statistic:
        return None
    if paired and len(baseline.sample_ids) == len(baseline.samples) and len(new.sample_ids) == len(new.samples):
        pairs = _pairs(baseline, new)
        error = None if pairs is None else _paired_error(*pairs, statistic)
        if pairs is not None and error is not None:
            return error, f"paired, n = {len(pairs[0])}"
    samples = _array(baseline.samples), _array(new.samples)
    if min(map(len, samples)) < MIN_SAMPLES:
        return None
    first, second = (_own_error(each, statistic) for each in samples)
    return first.plus(second), "both samples"


def _pairs(baseline: Figure, new: Figure) -> tuple[Any, Any] | None:
    """The samples of what both measured, in the baseline's order; None where that's not most of either."""
    _, before, after = numpy.intersect1d(numpy.asarray(baseline.sample_ids), numpy.asarray(new.sample_ids), return_indices=True)
    order = numpy.argsort(before, kind="stable")
    before, after = before[order], after[order]
    enough = len(before) >= max(MIN_SAMPLES, 0.8 * max(len(baseline.samples), len(new.samples)))
    if not enough:
        return None
    return _array(baseline.samples)[before], _array(new.samples)[after]


def _paired_error(before: Any, after: Any, statistic: str) -> Estimate | None:
    """Of log(after's / before's); None where pairs say too little of a percentile."""
    if statistic == "mean":
        return _error_of_mean(after / after.mean() - before / before.mean())
    if min(before.min(), after.min()) <= 0 or min(_beyond(each, statistic) for each in (before, after)) < MIN_BEYOND:
        return None
    if len(before) <= MAX_RESAMPLED:
        return _resampled_error(before, after, statistic)
    before, after = (each / statistic_of(each[None, :], statistic)[0] for each in (before, after))
    crossed = (after <= 1.0).astype("f8") - (before <= 1.0)
    if 0 < numpy.count_nonzero(crossed) < MIN_CROSSED:
        return None
    error = _error_of_mean(crossed)
    return error.scaled(_slope(numpy.sort(numpy.concatenate((before, after))), statistic, error.reach() / math.sqrt(2)))


def _beyond(samples: Any, statistic: str) -> float:
    """How many independent values beyond a percentile, on its thinner side, a sample is worth."""
    share = _share(statistic)
    variance = _error_of_mean((samples <= statistic_of(samples[None, :], statistic)[0]) - share).variance
    return min(share, 1 - share) * (min(len(samples), share * (1 - share) / float(variance)) if variance > 0 else len(samples))


def _resampled_error(before: Any, after: Any, statistic: str) -> Estimate:
    """The bootstrap's: the same requests are drawn in both, one by one. Near a percentile the values of single requests
    matter, which no formula for large samples knows. That neighbours are alike is then added: as many times as it widens
    the error of the mean difference."""
    generator, size = numpy.random.default_rng(SEED), len(before)  # the same runs give the same result
    ratios: list[Any] = []
    while sum(map(len, ratios)) < RESAMPLES:
        places = generator.integers(0, size, (max(1, min(RESAMPLES, _DRAWN_AT_ONCE // size)), size))
        ratios.append(numpy.log(statistic_of(after[places], statistic) / statistic_of(before[places], statistic)))
    at = [float(statistic_of(each[None, :], statistic)[0]) for each in (before, after)]
    crossed = (after <= at[1]).astype("f8") - (before <= at[0])
    alike = [_alike(each) for each in (numpy.log(after / before), crossed)]
    widest = max(alike)
    return Estimate((float(numpy.concatenate(ratios).std(ddof=1)) * widest[0]) ** 2, widest[1])


def _alike(values: Any) -> tuple[float, int]:
    """How many times the error of the mean is that of independent values, at least 1; and its degrees of freedom."""
    alone, error = float(values.std(ddof=1)) / math.sqrt(len(values)), _error_of_mean(values - values.mean())
    return (max(1.0, error.error / alone) if alone > 0 else 1.0), error.degrees


def _own_error(samples: Any, statistic: str) -> Estimate:
    """Of the logarithm of one sample's statistic."""
    if statistic == "mean":
        return _error_of_mean(samples / samples.mean() - 1.0)
    at = float(statistic_of(samples[None, :], statistic)[0])
    if at <= 0:
        return Estimate(math.inf, 1)
    error = _error_of_mean((samples <= at) - _share(statistic))
    return error.scaled(_slope(numpy.sort(samples), statistic, error.reach()))


def _error_of_mean(deviations: Any) -> Estimate:
    """Of the mean of values in the order of time: the estimate that reaches furthest."""
    fixed = numpy.rint(numpy.clip(deviations, -_LARGEST, _LARGEST) * _FIXED_POINT).astype("i8")
    ones = numpy.ones_like(fixed)
    return max(batched_estimates(fixed, ones) or estimates(fixed, ones), key=Estimate.reach).scaled(1 / _FIXED_POINT)


def _slope(ordered: Any, statistic: str, width: float) -> float:
    """How much the logarithm of a percentile changes with its share, over `width` to both sides. Where one side ends before,
    the sample's last value says too little of its tail: the steeper of both then."""
    share, (low, middle, high) = _share(statistic), (_log_at(ordered, _share(statistic) + side * width) for side in (-1, 0, 1))
    if width <= 0:
        return 0.0
    below, above = min(width, share), min(width, 1 - share)
    if below == above == width:
        return (high - low) / (2 * width)
    return max((middle - low) / below, (high - middle) / above)


def _log_at(ordered: Any, share: float) -> float:
    rank = min(max(math.ceil(share * len(ordered) - 1e-9), 1), len(ordered))
    return math.log(max(float(ordered[rank - 1]), math.ulp(0.0)))


def _share(statistic: str) -> float:
    return float(statistic[1:]) / 100


def statistic_of(samples: Any, statistic: str) -> Any:
    """Of each row: `mean`, or a nearest-rank percentile such as `p99`. Raises ValueError for another name."""
    if statistic == "mean":
        return samples.mean(axis=1)
    if not statistic.startswith("p"):
        raise ValueError(f"unknown statistic {statistic!r}")
    rank = max(1, math.ceil(float(statistic[1:]) / 100 * samples.shape[1] - 1e-9))
    return numpy.partition(samples, rank - 1, axis=1)[:, rank - 1]


def _array(samples: Sequence[float]) -> Any:
    return numpy.asarray(samples, dtype="f8")


# -- without samples ----------------------------------------------------------------------


def _from_intervals(ratio: float, baseline: Figure, new: Figure) -> Change:
    bounds = (baseline.low, baseline.high, new.low, new.high)
    if any(bound is None or bound <= 0 for bound in bounds):
        return Change(ratio=ratio, method="no interval: neither samples nor intervals of both")
    assert baseline.value
    assert new.value
    before_low, before_high, after_low, after_high = (math.log(bound) for bound in bounds if bound)
    before, after = math.log(baseline.value), math.log(new.value)
    down = math.hypot(after - after_low, before_high - before)
    up = math.hypot(after_high - after, before - before_low)
    centre = after - before
    error = (up + down) / (2 * _Z95)
    return Change(
        ratio=ratio, low=math.exp(centre - down), high=math.exp(centre + up), p_value=_p_value(centre, error), method="their intervals"
    )


def _p_value(estimate: float, error: float, degrees: int | None = None) -> float:
    """Two-sided: Student's t, or normal without degrees of freedom."""
    if error <= 0:
        return 1.0 if estimate == 0 else 0.0
    return math.erfc(abs(estimate) / error / math.sqrt(2)) if degrees is None else two_tails(abs(estimate) / error, degrees)


def significant(p_values: Sequence[float | None], false_alarms: float = FALSE_ALARMS) -> list[bool]:
    """Benjamini and Hochberg: which differences are no chance, so that at most that share of them is false."""
    known = sorted((value, place) for place, value in enumerate(p_values) if value is not None)
    last = max((rank for rank, (value, _) in enumerate(known, start=1) if value <= false_alarms * rank / len(known)), default=0)
    chosen = {place for _, place in known[:last]}
    return [place in chosen for place in range(len(p_values))]
