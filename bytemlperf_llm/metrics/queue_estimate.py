"""Mean time in a server's queue, estimated where no request tells its own: Little's law, L = λW (Little, Operations Research 9(3), 1961).

Over a run that begins and ends idle the time integral of the requests that wait is the sum of their waiting times, exactly. The integral
is estimated by the trapezoid rule from samples of the gauge, about one a second, and from nobody waiting at either end. Its variance is
that of systematic samples, from the differences of one to the next (Wolter, J. Am. Stat. Assoc. 79, 1984, estimator v2): too wide rather
than too narrow, as what lies between two samples is mostly between them. Where no sample saw anyone wait, at least one did in less than
3/n of the time (the rule of three: Hanley, Lippman-Hand, JAMA 249, 1983).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from operator import mul
from statistics import fmean

import msgspec

from bytemlperf.statistics.columns import ABSENT
from bytemlperf.statistics.special import t_quantile
from bytemlperf.units import NS_PER_MS
from bytemlperf_llm.metrics.accumulator import Accumulator
from bytemlperf_llm.metrics.rates import whole_window
from bytemlperf_llm.record.gauges import Sample

GAUGE = "waiting"
MIN_SAMPLES = 10
MAX_WAITING = 1e9
RULE_OF_THREE = 3.0
TAIL = 0.025


class QueueEstimate(msgspec.Struct, frozen=True, kw_only=True):
    """`queue_estimate` of summary.json: an estimate of the mean queue time of the run's `requests`, with its 95 % interval, from `samples`
    of how many waited, `mean_waiting` on average. It says nothing of any one request."""

    mean_ms: float
    ci95_ms: tuple[float, float]
    samples: int
    mean_waiting: float
    requests: int


def queue_estimate_of(acc: Accumulator, samples: Iterable[Sample], other_requests: int) -> QueueEstimate | None:
    """From the gauges of a run; None where the server has no such gauge, was asked too seldom, or had other requests than the run's."""
    window = whole_window(acc)
    if window is None or other_requests:
        return None
    seen = [(sample.at_ns, waiting) for sample in samples if window.holds(sample.at_ns) and (waiting := _waiting(sample)) is not None]
    requests = int((acc.columns["sent"] != ABSENT).sum())
    if len(seen) < MIN_SAMPLES or not requests:
        return None
    weights_ms = _weights_ms([window.start_ns, *(at_ns for at_ns, _ in seen), window.end_ns])
    levels = [waiting for _, waiting in seen]
    integral_ms = sum(map(mul, levels, weights_ms))
    variance = fmean((later - earlier) ** 2 for earlier, later in pairwise(levels)) / 2
    reach_ms = t_quantile(1 - TAIL, len(levels) - 1) * math.sqrt(variance * sum(weight_ms**2 for weight_ms in weights_ms))
    high_ms = integral_ms + reach_ms if integral_ms else RULE_OF_THREE / len(levels) * sum(weights_ms)
    return QueueEstimate(
        mean_ms=integral_ms / requests,
        ci95_ms=(max(0.0, integral_ms - reach_ms) / requests, high_ms / requests),
        samples=len(levels),
        mean_waiting=integral_ms / (window.length_ns / NS_PER_MS),
        requests=requests,
    )


def _waiting(sample: Sample) -> float | None:
    """Of all servers; None where that can't be."""
    told = [value for name, value in sample.gauges.items() if name == GAUGE or name.endswith(f"_{GAUGE}")]
    return sum(told) if told and min(told) >= 0 and max(told) <= MAX_WAITING else None


def _weights_ms(times_ns: Sequence[int]) -> list[float]:
    """The time that each but the first and last stands for, half of the way to either neighbour."""
    return [max(0, after - before) / 2 / NS_PER_MS for before, after in zip(times_ns, times_ns[2:], strict=False)]
