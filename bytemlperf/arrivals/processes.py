"""When requests are sent: pure functions from a rate and a seed to planned offsets.

An offset is whole nanoseconds from the start of the run; a series never decreases and never ends by
itself (`bounded` ends it). Gaps are rounded to nanoseconds one by one and summed as integers, so
that a long run does not drift. Nothing is rescaled to hit a total: a Poisson process stays one.
The same seed gives the same offsets on every machine (see workload/seeded.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from itertools import islice, repeat, takewhile
from typing import Literal, NamedTuple

from bytemlperf.arrivals import seeded
from bytemlperf.units import NS_PER_S

OpenProcess = Literal["poisson", "constant", "gamma", "at_once"]


class Ramp(NamedTuple):
    """The rate goes from `start_rate` to `end_rate` requests/s, both above 0, over the run: over
    `num_requests` where given, as `vllm bench serve` does it, else over `duration_ns`."""

    strategy: Literal["linear", "exponential"]
    start_rate: float
    end_rate: float
    num_requests: int | None = None
    duration_ns: int | None = None


def offsets_ns(
    process: OpenProcess, *, rate: float | None = None, burstiness: float = 1.0, seed: int = 0, ramp: Ramp | None = None
) -> Iterator[int]:
    """Planned offsets, ns from the start, without end.

    `rate` is requests/s; with `ramp` it is None; `at_once` needs neither. Poisson and gamma send
    first after the first gap, constant at 0. Raises ValueError on a rate or burstiness not above 0.
    """
    if process == "at_once":
        return repeat(0)
    if ramp is not None:
        return _ramped(_gaps(process, burstiness, seed), ramp)
    if rate is None or not 0 < rate < math.inf:
        raise ValueError(f"rate {rate} is not a number above 0")
    if process == "constant":
        return _constant(rate)
    return _scaled(_gaps(process, burstiness, seed), NS_PER_S / rate)


def bounded(offsets: Iterator[int], *, num_requests: int | None = None, duration_ns: int | None = None) -> Iterator[int]:
    """The offsets of a run: at most `num_requests` of them, all before `duration_ns`."""
    if num_requests is not None:
        offsets = islice(offsets, num_requests)
    return offsets if duration_ns is None else takewhile(lambda offset: offset < duration_ns, offsets)


def _constant(rate: float) -> Iterator[int]:
    """i / rate, rounded to the nearest ns: computed from i, so exact however long the run. The rate
    is taken as the decimal number it is written as."""
    per_request = NS_PER_S / Fraction(repr(float(rate)))
    above, below = per_request.numerator, per_request.denominator
    index = 0
    while True:
        yield (2 * index * above + below) // (2 * below)
        index += 1


def _gaps(process: OpenProcess, burstiness: float, seed: int) -> Iterator[float]:
    """Gaps before each request, in units of the mean gap.

    Gamma of shape k = burstiness and mean 1 has a squared coefficient of variation of 1/k: k = 1 is
    Poisson, k < 1 is burstier, k > 1 more even, as in `vllm bench serve`.
    """
    if not 0 < burstiness < math.inf:
        raise ValueError(f"burstiness {burstiness} is not a number above 0")
    if process == "constant":
        yield 0.0
        yield from repeat(1.0)
    draw = seeded.stream(seed, "arrivals")
    if process == "poisson" or burstiness == 1.0:
        while True:
            yield seeded.exponential(draw)
    while True:
        yield seeded.gamma(burstiness, draw) / burstiness


def _scaled(gaps: Iterator[float], mean_gap_ns: float) -> Iterator[int]:
    offset = 0
    for gap in gaps:
        offset += round(gap * mean_gap_ns)
        yield offset


def _ramped(gaps: Iterator[float], ramp: Ramp) -> Iterator[int]:
    if not (0 < ramp.start_rate < math.inf and 0 < ramp.end_rate < math.inf):
        raise ValueError(f"ramp from {ramp.start_rate} to {ramp.end_rate}: both rates must be above 0")
    if ramp.num_requests is not None:
        return _ramped_by_request(gaps, ramp, ramp.num_requests)
    if ramp.duration_ns is None:
        raise ValueError("a ramp needs num_requests or duration_ns")
    return _ramped_by_time(gaps, ramp, ramp.duration_ns)


def _ramped_by_request(gaps: Iterator[float], ramp: Ramp, num_requests: int) -> Iterator[int]:
    """The gap before request i is drawn at the rate of progress i / (n - 1), as vLLM does it."""
    offset = 0
    for index, gap in enumerate(gaps):
        offset += round(gap * (NS_PER_S / _rate_at(ramp, min(index / max(num_requests - 1, 1), 1.0))))
        yield offset


def ramp_rate(ramp: Ramp, index: int, offset_ns: int) -> float:
    """Requests/s that the ramp has reached at request `index`, due at `offset_ns`."""
    if ramp.num_requests is not None:
        return _rate_at(ramp, min(index / max(ramp.num_requests - 1, 1), 1.0))
    return _rate_at(ramp, min(offset_ns / (ramp.duration_ns or 1), 1.0))


def _rate_at(ramp: Ramp, progress: float) -> float:
    if ramp.strategy == "linear":
        return ramp.start_rate + (ramp.end_rate - ramp.start_rate) * progress
    return ramp.start_rate * seeded.exp(seeded.log(ramp.end_rate / ramp.start_rate) * progress)


def _ramped_by_time(gaps: Iterator[float], ramp: Ramp, duration_ns: int) -> Iterator[int]:
    """Time change: the n-th arrival is where the expected count, the integral of the rate, reaches
    the sum of the first n unit gaps. Exact for Poisson; past the end the rate stays `end_rate`."""
    span_s = duration_ns / NS_PER_S
    total = _expected_count(ramp, span_s)
    reached = 0.0
    for gap in gaps:
        reached += gap
        at_s = _when(ramp, span_s, reached) if reached < total else span_s + (reached - total) / ramp.end_rate
        yield round(at_s * NS_PER_S)


def _expected_count(ramp: Ramp, span_s: float) -> float:
    ratio = seeded.log(ramp.end_rate / ramp.start_rate)
    if ramp.strategy == "linear" or ratio == 0.0:
        return span_s * (ramp.start_rate + ramp.end_rate) / 2.0
    return span_s * (ramp.end_rate - ramp.start_rate) / ratio


def _when(ramp: Ramp, span_s: float, count: float) -> float:
    """Seconds after which `count` requests are expected: the integral of the rate, inverted."""
    start, change = ramp.start_rate, ramp.end_rate - ramp.start_rate
    if ramp.strategy == "linear":
        # start*t + change*t^2/(2*span) = count; this form of the root holds for change = 0 too.
        return 2.0 * count / (start + math.sqrt(max(start * start + 2.0 * change * count / span_s, 0.0)))
    ratio = seeded.log(ramp.end_rate / ramp.start_rate)
    if ratio == 0.0:
        return count / start
    return span_s * seeded.log(1.0 + count * ratio / (start * span_s)) / ratio
