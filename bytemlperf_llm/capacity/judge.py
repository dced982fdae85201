"""One probe: does the share of requests that meet their service levels hold at this rate? Pure: no I/O, no clock.

Requests of one queue are not independent: those behind a long one are late together. How many independent ones they are worth is taken from
batch means (ten batches, and thirty that follow each other as an autoregression: `bytemlperf.statistics.statistics.batched_estimates`),
at Student's t for the degrees of freedom that this variance stands on, and the tail is that of an exact binomial of so many (Korn and
Graubard, Survey Methodology 24(2), 1998). Where (nearly) none missed there is no variance to take; there the requests' latency, which
remembers longer than the misses do, says how far neighbours are alike.

A probe is looked at when its requests have grown by half, and its error is spent over these looks (`bytemlperf.statistics.looks`).

Nothing is resolved before it is steady: a queue just over capacity starts empty, and every request is good until it has grown; one under
capacity has long bad times. What plainly grows fails at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import StrEnum
from itertools import pairwise

import msgspec

from bytemlperf.statistics.columns import Column, sums_between
from bytemlperf.statistics.special import normal_quantile, regularised_beta, t_quantile

SETTLING_SHARE = 0.1
"""Of a probe's requests, the first, which are left out: the engine starts empty."""
UNITS = 120
LEAST_LOOK = 134
"""Requests that can be looked at: one for each stretch, without the first tenth."""
BATCHES = (120, 60, 30)
"""A probe is cut into so many stretches that follow each other, as an autoregression; the one that says most counts: short stretches give a
variance that is well known, long ones outlast the queue's memory (Schmeiser, Operations Research 30(3), 1982: 10 to 30)."""
LEAST_DEGREES = 3
DESCRIBED = 0.975
"""Level at which a probe's worth is stated; a verdict takes it at its own."""
MAX_MEMORY = 0.6
"""Correlation of neighbouring thirtieths of a probe beyond which it is too short for its own memory: it happens by chance once in 2,000."""
MAX_TREND = 3.5
"""Standard errors by which latency may drift over a probe."""
FEW_MISSES = 20
"""Under so many the misses' own variance is not known."""
HOLDS_POWER, FAILS_POWER, MOST_AT_LIMIT = 2 / 3, 1 / 2, 4.0
"""A test asks what would be seen at the limit, where misses come in longer clusters than below it, and a probe that happens to miss little
happens to find them short. The number of requests that count as one grows with the share missed by about this power (M/M/1 near its
limit: 0.62 to 0.71), and is taken at the limit; without that one probe in 25 at the limit held that should be one in 400."""
OVERLOAD_SIGMAS = 4.0
"""Over √requests: seconds of latency for each second of arrivals beyond which it plainly grows. A queue just at capacity walks at
random, by some √2/√requests."""


class Outcome(StrEnum):
    HOLDS = "holds"
    FAILS = "fails"
    UNRESOLVED = "not resolved"


class Errors(msgspec.Struct, frozen=True):
    """Probability of a wrong `holds` and of a wrong `fails`."""

    holds: float
    fails: float

    def times(self, weight: float) -> Errors:
        return Errors(self.holds * weight, self.fails * weight)


NO_ERRORS = Errors(0.0, 0.0)


class Look(msgspec.Struct, frozen=True):
    """What is known of a probe after `requests`, of which `judged` count. `missed` is the share that missed a service level, `worth` how
    many independent requests the judged ones are worth, `steady` whether latency neither drifts nor remembers for longer than the
    probe can tell, `overloaded` whether it plainly grows."""

    outcome: Outcome
    requests: int
    judged: int
    missed: float
    worth: float
    steady: bool
    overloaded: bool


def first_look(share: float, errors: Errors) -> int:
    """Requests before which not even a faultless probe could hold (twice as many as independent ones would need)."""
    return math.ceil(2 * math.log(min(errors.holds, errors.fails) / 10) / math.log(share) / (1 - SETTLING_SHARE))


def look_at(missed: Column, latency: Column, due: Column, share: float, errors: Errors) -> Look:
    """Judge a probe's requests, in order of their planned arrival: 1 or 0 for each that missed a service level or not, its latency (or
    that of its first token) and its planned time, both in the same unit; all one length, from `LEAST_LOOK` on. `errors`: this look's."""
    start = int(len(missed) * SETTLING_SHARE)
    count = len(missed) - start
    edges = [start + count * edge // UNITS for edge in range(UNITS + 1)]
    sizes = [b - a for a, b in pairwise(edges)]
    misses, latencies = sums_between(missed, edges), sums_between(latency, edges)
    rate = sum(misses) / count
    limit = 1.0 - share
    worth, tested = (
        _worth(misses, latencies, sizes, latency[start:], rate, limit, level)
        for level in (DESCRIBED, 1.0 - (errors.holds if rate < limit else errors.fails))
    )
    steady = _is_steady(latencies, sizes)
    overloaded = _overloaded(latencies, sizes, int(due[-1] - due[start]))
    outcome = Outcome.UNRESOLVED
    if overloaded or (rate > limit and steady and tail_of(tested, rate, limit) <= errors.fails):
        outcome = Outcome.FAILS
    elif rate < limit and steady and tail_of(tested, rate, limit) <= errors.holds:
        outcome = Outcome.HOLDS
    return Look(outcome, len(missed), count, rate, worth, steady, overloaded)


def tail_of(worth: float, rate: float, limit: float) -> float:
    """P(so few misses or fewer) where the share of misses is the limit, of a share below it; of one above it, P(so many or more)."""
    if rate <= limit:
        return regularised_beta(max(worth * (1 - rate), 1e-9), worth * rate + 1.0, 1 - limit, limit)
    return regularised_beta(max(worth * rate, 1e-9), worth * (1 - rate) + 1.0, limit, 1 - limit)


def _worth(
    misses: Sequence[int], latencies: Sequence[int], sizes: Sequence[int], latency: Column, rate: float, limit: float, level: float
) -> float:
    """Independent requests that the probe's would be worth if `limit` of them missed, for a statement at this level."""
    count, factors, at_limit = sum(sizes), [1.0], 1.0
    few = min(rate, 1 - rate) * count / FEW_MISSES
    if 0.0 < rate < 1.0:
        at_limit = min((limit / rate) ** (HOLDS_POWER if rate < limit else FAILS_POWER), MOST_AT_LIMIT)
        factors += _factors(misses, sizes, rate * (1 - rate), at_limit, level)
    if few < 1.0:  # the fewer misses, the less they say of how they come at the limit
        variance = float(latency.var())
        factors += _factors(latencies, sizes, variance, 1.0 + (at_limit - 1.0) * few, level) if variance else []
    return count / max(factors)


def _factors(amounts: Sequence[int], sizes: Sequence[int], variance: float, at_limit: float, level: float) -> list[float]:
    """Variance of the mean over that of independent values, for each number of batches: its excess grown to that at the limit, and all
    of it to what Student's t makes of it at this level."""
    factors = []
    for batches in BATCHES:
        _, off, memory = _batched(amounts, sizes, batches)
        memory = min(max(memory + (1 + 3 * memory) / batches, 0.0), MAX_MEMORY)
        growth = (1 + memory) / (1 - memory)
        degrees = max(LEAST_DEGREES, int((batches - 1) / growth))
        spread = sum(each * each for each in off) / (batches - 1) / batches * growth
        excess = max(0.0, spread * sum(sizes) / variance - 1.0)
        factors.append((1.0 + excess * at_limit) * (t_quantile(level, degrees) / normal_quantile(level)) ** 2)
    return factors


def _batched(amounts: Sequence[int], sizes: Sequence[int], batches: int) -> tuple[list[float], list[float], float]:
    """Means of so many batches, how far each is from their mean, and the correlation of neighbours."""
    step = UNITS // batches
    means = [sum(amounts[i : i + step]) / sum(sizes[i : i + step]) for i in range(0, UNITS, step)]
    centre = sum(means) / batches
    off = [mean - centre for mean in means]
    squares = sum(each * each for each in off)
    return means, off, sum(a * b for a, b in pairwise(off)) / squares if squares else 0.0


def _is_steady(latencies: Sequence[int], sizes: Sequence[int]) -> bool:
    batches = BATCHES[-1]
    means, off, memory = _batched(latencies, sizes, batches)
    squares, half = sum(each * each for each in off), (batches - 1) / 2
    if squares <= (1e-6 * sum(means)) ** 2:
        return True
    run = batches * (batches**2 - 1) / 12
    slope = sum((place - half) * each for place, each in enumerate(off)) / run
    rest = max(squares - slope * slope * run, 1e-12 * squares)
    growth = (1 + max(memory, 0.0)) / (1 - min(max(memory, 0.0), MAX_MEMORY))
    return memory <= MAX_MEMORY and abs(slope) <= MAX_TREND * math.sqrt(rest * growth / (batches - 2) / run)


def _overloaded(latencies: Sequence[int], sizes: Sequence[int], span: int) -> bool:
    """Latency grows with the time that passes, from third to third."""
    third = UNITS // 3
    early, middle, late = (sum(latencies[i : i + third]) / sum(sizes[i : i + third]) for i in (0, third, 2 * third))
    wanted = OVERLOAD_SIGMAS / math.sqrt(sum(sizes)) * span / 3
    return middle - early > wanted and late - middle > wanted
