"""The difference of two measured values, its interval, and whether chance explains it.

A change is the ratio of the new value to the baseline's. Its 95 % interval comes from, in this order:

- **paired block bootstrap**, where both runs sent the same schedule: the same requests are drawn in both,
  so that what a request costs on any engine (its length) cancels;
- **block bootstrap** of both samples apart, for other samples: percentile intervals of the ratio of
  the statistic (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, 13.3);
- **bootstrap of stretches**, paired or not, where either sample has more than `MAX_RESAMPLED` values: it is cut into
  `STRETCHES` of equal length in the order of time, and stretches are drawn (blocks of them, where their means are
  autocorrelated). A mean is that of the drawn stretches. For a percentile the share of values at or below it is
  drawn, and its deviation is carried back through the sample's own distribution (Bahadur's representation, Annals of
  Mathematical Statistics 37, 1966): no value is sorted twice;
- **the values' own intervals**, where there are no samples: on the logarithm, by the square-and-add
  rule (Zou and Donner, Statistics in Medicine 27, 2008: MOVER).

Blocks are circular (Politis and Romano, 1992). Their length is that of Politis and White (Econometric
Reviews 23, 2004) for an autoregression of order 1 with the sample's own variance of batch means; values
that are not autocorrelated have blocks of one. The p value is that of a normal test on the logarithm
with the bootstrap's standard error; over all figures of a comparison Benjamini and Hochberg's rule (JRSS B 57,
1995) keeps the share of false alarms at 5 %.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec

from bytemlperf_llm.metrics.statistics import autocorrelation_factor
from bytemlperf_llm.runs.kinds import Figure

RESAMPLES = 1_000
MIN_SAMPLES = 8
MAX_RESAMPLED = 20_000  # values; beyond it stretches are drawn
STRETCHES = 200  # of at least 100 values each
FALSE_ALARMS = 0.05
SEED = 20_261_124
_FIXED_POINT = 1e6  # autocorrelation is computed in integers: a millionth of the unit is far below any timer
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
    resampled = _resampled(baseline, new, paired=paired)
    if resampled is not None:
        ratios, method = resampled
        return _from_resamples(ratio, ratios, method)
    return _from_intervals(ratio, baseline, new)


def _why_not(baseline: Figure, new: Figure) -> str:
    for which, figure in (("baseline", baseline), ("this run", new)):
        if figure.value is None:
            return f"{which}: {figure.reason or 'not measured'}"
    return "0: no ratio"


# -- the bootstrap ------------------------------------------------------------------------


def _resampled(baseline: Figure, new: Figure, *, paired: bool) -> tuple[Any, str] | None:
    if not baseline.statistic or baseline.statistic != new.statistic:
        return None
    if paired and len(baseline.sample_ids) == len(baseline.samples) and len(new.sample_ids) == len(new.samples):
        pairs = _pairs(baseline, new)
        if pairs is not None:
            by = _paired_ratios if len(pairs[0]) <= MAX_RESAMPLED else _paired_stretches
            return by(*pairs, baseline.statistic)
    sizes = len(baseline.samples), len(new.samples)
    if min(sizes) < MIN_SAMPLES:
        return None
    if max(sizes) > MAX_RESAMPLED:
        return _stretches_apart(_array(baseline.samples), _array(new.samples), baseline.statistic)
    return _apart_ratios(_array(baseline.samples), _array(new.samples), baseline.statistic)


def _pairs(baseline: Figure, new: Figure) -> tuple[Any, Any] | None:
    """The samples of what both measured, in the baseline's order; None where that's not most of either."""
    import numpy

    _, before, after = numpy.intersect1d(numpy.asarray(baseline.sample_ids), numpy.asarray(new.sample_ids), return_indices=True)
    order = numpy.argsort(before, kind="stable")
    before, after = before[order], after[order]
    enough = len(before) >= max(MIN_SAMPLES, 0.8 * max(len(baseline.samples), len(new.samples)))
    if not enough:
        return None
    return _array(baseline.samples)[before], _array(new.samples)[after]


def _paired_ratios(before: Any, after: Any, statistic: str) -> tuple[Any, str]:
    length = max(block_length(before), block_length(after))
    generator = _generator()

    def draw(count: int) -> Any:
        places = _places(generator, len(before), length, count)
        return _ratios(before, after, places, places, statistic)

    return _chunked(draw, len(before)), "paired bootstrap" + (f", blocks of {length}" if length > 1 else "")


def _apart_ratios(before: Any, after: Any, statistic: str) -> tuple[Any, str]:
    lengths = block_length(before), block_length(after)
    generator = _generator()

    def draw(count: int) -> Any:
        return _ratios(
            before,
            after,
            _places(generator, len(before), lengths[0], count),
            _places(generator, len(after), lengths[1], count),
            statistic,
        )

    blocks = f", blocks of {max(lengths)}" if max(lengths) > 1 else ""
    return _chunked(draw, max(len(before), len(after))), f"bootstrap{blocks}"


class _Stretches:
    """A large sample as stretches of time: `levels` are their means, or shares of values at or below the percentile."""

    def __init__(self, samples: Any, statistic: str) -> None:
        import numpy

        count = min(STRETCHES, len(samples))
        edges = numpy.linspace(0, len(samples), count + 1).astype("i8")
        self._sizes = numpy.diff(edges)
        self._ordered = None if statistic == "mean" else numpy.sort(samples)
        values = samples
        if self._ordered is not None:
            self._share = max(1, math.ceil(float(statistic[1:]) / 100 * len(samples) - 1e-9)) / len(samples)
            at = self._ordered[round(self._share * len(samples)) - 1]
            values = (samples <= at).astype("f8")
        self._sums = numpy.add.reduceat(values, edges[:-1])
        self._whole = float(values.mean())
        self.levels = self._sums / self._sizes

    def drawn(self, generator: Any, length: int) -> Any:
        """Indices of stretches for every resample."""
        return _places(generator, len(self.levels), length, RESAMPLES)

    def resampled(self, places: Any) -> Any:
        """The statistic of each resample."""
        import numpy

        means = self._sums[places].sum(axis=1) / self._sizes[places].sum(axis=1)
        if self._ordered is None:
            return means
        size = len(self._ordered)
        ranks: Any = numpy.ceil((self._share + self._whole - means) * size - 1e-6).astype("i8")
        return self._ordered[numpy.clip(ranks, 1, size) - 1]


def _paired_stretches(before: Any, after: Any, statistic: str) -> tuple[Any, str]:
    one, other = _Stretches(before, statistic), _Stretches(after, statistic)
    length = max(block_length(one.levels), block_length(other.levels))
    places = one.drawn(_generator(), length)
    return other.resampled(places) / one.resampled(places), f"paired bootstrap of {len(one.levels)} stretches"


def _stretches_apart(before: Any, after: Any, statistic: str) -> tuple[Any, str]:
    one, other, generator = _Stretches(before, statistic), _Stretches(after, statistic), _generator()
    ratios = [each.resampled(each.drawn(generator, block_length(each.levels))) for each in (one, other)]
    return ratios[1] / ratios[0], f"bootstrap of {max(len(one.levels), len(other.levels))} stretches"


def _chunked(draw: Any, size: int) -> Any:
    """All resamples, so many at a time that memory stays small."""
    import numpy

    at_once = max(1, min(RESAMPLES, 2_000_000 // max(size, 1)))
    parts, left = [], RESAMPLES
    while left > 0:
        parts.append(draw(min(at_once, left)))
        left -= at_once
    return numpy.concatenate(parts)


def _ratios(before: Any, after: Any, places_before: Any, places_after: Any, statistic: str) -> Any:
    return statistic_of(after[places_after], statistic) / statistic_of(before[places_before], statistic)


def statistic_of(samples: Any, statistic: str) -> Any:
    """Of each row: `mean`, or a nearest-rank percentile such as `p99`. Raises ValueError for another name."""
    import numpy

    if statistic == "mean":
        return samples.mean(axis=1)
    if not statistic.startswith("p"):
        raise ValueError(f"unknown statistic {statistic!r}")
    rank = max(1, math.ceil(float(statistic[1:]) / 100 * samples.shape[1] - 1e-9))
    return numpy.partition(samples, rank - 1, axis=1)[:, rank - 1]


def _places(generator: Any, size: int, length: int, count: int) -> Any:
    """Indices of `count` resamples, made of circular blocks."""
    import numpy

    if length <= 1:
        return generator.integers(0, size, (count, size))
    blocks = -(-size // length)
    starts = generator.integers(0, size, (count, blocks))
    places = (starts[:, :, None] + numpy.arange(length)) % size
    return places.reshape(count, blocks * length)[:, :size]


def block_length(samples: Any) -> int:
    """1 where values are not autocorrelated; else Politis and White's length for the autoregression of
    order 1 whose means vary as these do, at most a tenth of the sample."""
    factor = autocorrelation_factor([round(value * _FIXED_POINT) for value in samples.tolist()])
    if factor <= 1.0:
        return 1
    ratio = (factor * factor - 1) / (2 * factor)  # g / g(0) = 2ρ/(1 − ρ²) with ρ = (f − 1)/(f + 1)
    length = (1.5 * ratio * ratio * len(samples)) ** (1 / 3)
    return int(max(2, min(round(length), len(samples) // 10)))


def _array(samples: Sequence[float]) -> Any:
    import numpy

    return numpy.asarray(samples, dtype="f8")


def _generator() -> Any:
    import numpy

    return numpy.random.default_rng(SEED)  # the same runs give the same answer


def _from_resamples(ratio: float, ratios: Any, method: str) -> Change:
    import numpy

    finite = ratios[numpy.isfinite(ratios) & (ratios > 0)]
    if len(finite) < RESAMPLES // 2:
        return Change(ratio=ratio, method="no interval: resamples have values of 0")
    bounds: Any = numpy.quantile(finite, [0.025, 0.975])
    low, high = float(bounds[0]), float(bounds[1])
    error = float(numpy.log(finite).std(ddof=1))
    return Change(ratio=ratio, low=low, high=high, p_value=_p_value(math.log(ratio), error), method=method)


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


def _p_value(estimate: float, error: float) -> float:
    """Two-sided, normal."""
    if error <= 0:
        return 1.0 if estimate == 0 else 0.0
    return math.erfc(abs(estimate) / error / math.sqrt(2))


def significant(p_values: Sequence[float | None], false_alarms: float = FALSE_ALARMS) -> list[bool]:
    """Benjamini and Hochberg: which differences are no chance, so that at most that share of them is false."""
    known = sorted((value, place) for place, value in enumerate(p_values) if value is not None)
    last = max((rank for rank, (value, _) in enumerate(known, start=1) if value <= false_alarms * rank / len(known)), default=0)
    chosen = {place for _, place in known[:last]}
    return [place in chosen for place in range(len(p_values))]
