"""Which load to probe next, and what all probes together say. Pure: no I/O, no clock. A load is a rate (requests/s) or a number of
requests in flight.

The higher the load, the fewer requests meet their service levels. So one probe that holds and one that fails bound the capacity:

- the range is found in steps of `STEP`, by short probes whose outcome is plain;
- where in it the capacity is, by an estimate: shares that missed, made monotone by pooling (isotonic regression, weighted by what each
  probe's requests are worth), then a straight line of their logit over the logarithm of the load through the probes near the limit;
- two long probes beside it, as far away as the asked width lets them be. One at half the distance costs four times as many requests, and
  one at the capacity itself never ends. Where the budget doesn't reach for that width, they stand further apart.

The error is split over the probes (`Search._errors`), so that all together keep the confidence that was asked for: half of it for a load
named as holding that doesn't, half for one named as failing that does. A probe may spend a part of what is left on each side; one that is
resolved on a side gives it back (online fallback: Tian and Ramdas, Statistical Methods in Medical Research 30(4), 2021): where that
was right no error was at risk, where it was wrong the one error has been made. What is client-limited, unsteady or too short resolves
nothing.
"""

from __future__ import annotations

import math
from enum import StrEnum
from itertools import takewhile

import msgspec

from bytemlperf.statistics.special import normal_quantile
from bytemlperf_llm.capacity.judge import NO_ERRORS, SETTLING_SHARE, UNITS, Errors, Look, Outcome, first_look, tail_of

STEP = 2.0
CONFIDENCE = 0.95
WITHIN = 0.05
RANGE_SHARE = 0.15
"""Of the error, for what a probe needs at least."""
RANGE_REQUESTS, EDGE_REQUESTS, ESTIMATE_REQUESTS = 1, 5, 10
"""Requests of a probe for the range, at least of one at the edge, and of the first estimate; in units of those that one needs to hold."""
LEAST_LOAD_SHARE = 1 / 1024
"""Of the first load: where even this fails, nothing holds."""
OVERLOADED = 0.99
TURNOVERS = 10
"""Requests of a probe for each of those in flight in a closed loop, which starts with all of them at once."""
MAX_PROBES = 40
LEAST_REQUESTS = 2 * UNITS
"""Of a probe: two for each stretch that sums are kept of."""
MOST_OF_GAP = 0.8
"""Of the distance from the estimate to what is resolved: what can be paid for brings less than a fifth of it, and the search ends."""
LEAST_SLOPE = 1.0
"""Of the logit over the logarithm of the load."""
NEAR, MIN_NEAR, WIDE_GAP = 0.2, 3, 0.35
"""Distances in the logarithm of the load: of probes that a line is fitted through; between two probes that bracket the capacity, from which
on the next one goes near the middle."""
CLEAR_Z = 2.5
"""Standard errors from the limit at which a probe that is to find the range, or the place in it, has said enough."""
HOPE = 1.0
"""Standard deviations of luck that a probe is given to be resolved by its end; with less hope it ends."""
HOPELESS = 0.5
"""Share that missed in a probe that is to fail, from which on an unsteady one is too near the server's own limit to become steady."""
GROWN = 2_000
"""Requests in which a plain overload shows."""
FURTHER = 1.4
"""Distance of a probe, in units of that of the one before that was not resolved on this side, where the requests don't reach for the
width that was asked."""
WIDE_ERROR = 0.08
"""The estimate's standard error from which on a probe there is likely to be resolved."""
LOCATED = 0.6
"""The estimate's standard error, in units of the distance at which probes are placed, from which on it is good enough for that."""
SPARE = 1.6
"""Requests that a probe may take, in units of those that it should need."""


class Goal(msgspec.Struct, frozen=True):
    """What is asked: the share (0 to 1) of requests that must meet every level, with which confidence, how narrow (0.05: fails_at is at
    most 5 % above holds_at), and the most requests in all. `whole` loads are whole numbers from 1. `longest` is the
    most requests that there are for a single probe, those of a data set; None: any number."""

    share: float = 0.95
    confidence: float = CONFIDENCE
    within: float = WITHIN
    max_requests: int = 200_000
    whole: bool = False
    longest: int | None = None

    @property
    def errors(self) -> Errors:
        return Errors((1 - self.confidence) / 2, (1 - self.confidence) / 2)

    @property
    def needed(self) -> int:
        """Requests without which not even one faultless probe could hold."""
        return max(first_look(self.share, self.errors.times(RANGE_SHARE / 2)), LEAST_REQUESTS)


class Purpose(StrEnum):
    """What a probe is for: to find the range, to halve it where it is wide, to say where in it the capacity is, to hold, to fail, to
    confirm the answer."""

    RANGE = "range"
    HALVE = "halve"
    ESTIMATE = "estimate"
    LOW = "holds"
    HIGH = "fails"
    CONFIRM = "confirm"


SPENT_ON_HOLDING = {
    Purpose.RANGE: 0.05,
    Purpose.HALVE: 0.3,
    Purpose.ESTIMATE: 0.02,
    Purpose.LOW: 0.4,
    Purpose.HIGH: 0.005,
    Purpose.CONFIRM: 0.1,
}
SPENT_ON_FAILING = {
    Purpose.RANGE: 0.02,
    Purpose.HALVE: 0.1,
    Purpose.ESTIMATE: 0.02,
    Purpose.LOW: 0.005,
    Purpose.HIGH: 0.4,
    Purpose.CONFIRM: 0.1,
}
"""Shares of what is left of the error of a side, by a probe's purpose."""


class Plan(msgspec.Struct, frozen=True):
    """A probe to run: at `load`, looked at from `first` requests on, up to `limit`."""

    load: float
    first: int
    limit: int
    errors: Errors
    purpose: Purpose


class Probe(msgspec.Struct, frozen=True):
    """A probe that ran. `client_limited` says why the client was the limit, empty where it wasn't; `errors` are what it could spend."""

    load: float
    look: Look
    purpose: Purpose
    client_limited: str = ""
    errors: Errors = NO_ERRORS

    @property
    def outcome(self) -> Outcome:
        return Outcome.UNRESOLVED if self.client_limited else self.look.outcome

    @property
    def missed(self) -> float:
        """The share that misses; in an overload, in which nearly all do in the end, at least `OVERLOADED`."""
        return max(self.look.missed, OVERLOADED) if self.look.overloaded else self.look.missed


class Curve(msgspec.Struct, frozen=True):
    """Where the share of misses crosses the limit: the load's logarithm, its standard error, the logit's slope there, and what share of a
    probe's requests are independent ones' worth there."""

    at: float
    error: float
    slope: float
    efficiency: float


class Search:
    """Takes what probes found (`tell`) and says what to run next (`plan`). `aside` are requests of probes that say nothing."""

    def __init__(self, goal: Goal, first_load: float, probes: list[Probe] | None = None, aside: int = 0) -> None:
        self.goal, self.first_load, self.probes, self._aside = goal, first_load, probes or [], aside

    @property
    def requests(self) -> int:
        in_flight = sum(int(probe.load) for probe in self.probes) if self.goal.whole else 0
        return self._aside + in_flight + sum(probe.look.requests for probe in self.probes)

    @property
    def holds_at(self) -> float | None:
        """The highest load that holds below every one that fails."""
        return max(
            (probe.load for probe in self.probes if probe.outcome is Outcome.HOLDS and probe.load < (self.fails_at or math.inf)),
            default=None,
        )

    @property
    def fails_at(self) -> float | None:
        return min((probe.load for probe in self.probes if probe.outcome is Outcome.FAILS), default=None)

    @property
    def client_limit(self) -> float | None:
        """The lowest load from which on the client was the limit, where nothing failed below it."""
        usable = max((probe.load for probe in self.probes if not probe.client_limited), default=0.0)
        load = min((probe.load for probe in self.probes if probe.client_limited and probe.load > usable), default=None)
        return load if load is not None and load < (self.fails_at or math.inf) else None

    def tell(self, probe: Probe) -> None:
        self.probes.append(probe)

    def confirming(self, requests: int) -> Plan | None:
        """A run of this length at the load that holds; None where none does, or one has been."""
        load = self.holds_at
        if load is None or any(probe.purpose is Purpose.CONFIRM and probe.load == load for probe in self.probes):
            return None
        requests = max(requests, TURNOVERS * int(load) if self.goal.whole else 0)
        return Plan(load, requests, requests, self._errors(Purpose.CONFIRM), Purpose.CONFIRM)

    def stopped_because(self) -> str | None:
        """None while the search goes on."""
        low, high, limit = self.holds_at, self.fails_at, self.client_limit
        step = 1 if self.goal.whole else 0
        if low is not None and high is not None and high <= max(low * (1 + self.goal.within), low + step):
            return "within"
        if limit is not None and (self._unusable(3) or (low is not None and limit <= max(low * STEP**0.5, low + step))):
            return "client"
        if low is None and high is not None and high <= max(self.first_load * LEAST_LOAD_SHARE, step):
            return "nothing holds"
        if self._remaining() < self.goal.needed or len(self.probes) >= MAX_PROBES:
            return "requests"
        return None

    def plan(self) -> Plan | None:
        """The next probe, None when the search is over."""
        if self.stopped_because() is not None:
            return None
        curve = curve_of(self.probes, 1 - self.goal.share)
        if curve is not None:
            return self._fine(curve)
        return self._plan(self._ranging(), RANGE_REQUESTS * self.goal.needed, Purpose.RANGE)

    def _ranging(self) -> float:
        """The load of a probe that is to find the range."""
        loads = [probe.load for probe in self.probes]
        if not loads:
            return self.first_load
        if self.client_limit is not None:
            return math.sqrt(self.client_limit * (self.holds_at or self.client_limit / STEP))
        below = any(probe.missed < 1 - self.goal.share for probe in self.probes)
        return max(loads) * STEP if below else min(loads) / STEP

    def _fine(self, curve: Curve) -> Plan | None:
        floor, ceiling = (math.log(load) if load else None for load in (self.holds_at, self.fails_at))
        half = math.log(1 + self.goal.within) / 2 * 0.98
        wide = min(self._affordable(curve, half), math.log(STEP))
        if curve.error > LOCATED * wide or self._astray():
            near = sum(probe.look.requests for probe in self.probes if abs(math.log(probe.load) - curve.at) < 3 * curve.error)
            more = max(near, ESTIMATE_REQUESTS * self.goal.needed) * min(max((curve.error / (LOCATED * wide)) ** 2, 1.0), 4.0)
            purpose = Purpose.HALVE if curve.error > WIDE_ERROR else Purpose.ESTIMATE
            return self._plan(math.exp(curve.at), round(min(more, self._remaining() / 5)), purpose)
        below = math.inf if floor is None else curve.at - floor
        above = math.inf if ceiling is None else ceiling - curve.at
        if wide > MOST_OF_GAP * max(below, above):
            return None
        limit = round(max(EDGE_REQUESTS * self.goal.needed, SPARE * self._cost(curve, wide)))
        further = FURTHER if wide > half else 1.0
        sides = [(purpose, sign * wide * further ** self._in_vain(purpose)) for purpose, sign in ((Purpose.LOW, -1), (Purpose.HIGH, 1))]
        for purpose, distance in sides if below >= above else reversed(sides):
            plan = self._plan(math.exp(curve.at + distance), limit, purpose)
            if plan is not None and (self.holds_at or 0.0) < plan.load < (self.fails_at or math.inf):
                return plan
        return None

    def _astray(self) -> bool:
        """Whether the estimate is likely worse than it looks: it has just misled two probes."""
        last = self.probes[-1].purpose
        return last in (Purpose.LOW, Purpose.HIGH) and self._in_vain(last) >= 2 and self._in_vain(last) % 2 == 0

    def _in_vain(self, purpose: Purpose) -> int:
        """Probes of this purpose that weren't resolved, since one was."""
        outcomes = [probe.outcome for probe in self.probes if probe.purpose is purpose]
        return sum(1 for _ in takewhile(lambda outcome: outcome is Outcome.UNRESOLVED, reversed(outcomes)))

    def _cost(self, curve: Curve, distance: float) -> float:
        """Requests that a probe needs at this distance from the capacity."""
        limit = 1 - self.goal.share
        z = normal_quantile(1 - self._errors(Purpose.LOW).holds / 4) + 0.5
        worth = z * z / (limit * (1 - limit) * (curve.slope * max(distance, 1e-4)) ** 2)
        return worth / curve.efficiency / (1 - SETTLING_SHARE)

    def _affordable(self, curve: Curve, half: float) -> float:
        """The distance at which two probes can be paid for; `half` where that is enough."""
        requests = min(self._remaining() / 2, self._remaining(self.goal.longest))
        return half * max(1.0, math.sqrt(SPARE * self._cost(curve, half) / max(requests, 1)))

    def _plan(self, load: float, limit: int, purpose: Purpose) -> Plan | None:
        """None where there are no requests left for it."""
        errors, left = self._errors(purpose), self._remaining(self.goal.longest)
        if self.goal.whole:
            load = max(1, (math.floor if purpose is Purpose.LOW else math.ceil if purpose is Purpose.HIGH else round)(load))
            left -= int(load)
        first = max(self.goal.needed // 2, LEAST_REQUESTS, TURNOVERS * int(load) if self.goal.whole else 0)
        return Plan(float(f"{load:.5g}"), first, max(first, min(limit, left)), errors, purpose) if first <= left else None

    def _remaining(self, most: int | None = None) -> int:
        left = self.goal.max_requests - self.requests
        return left if most is None else min(left, most)

    def _errors(self, purpose: Purpose) -> Errors:
        """What the next probe may spend: a part of what is left on each side. One that is resolved on a side has spent nothing there."""
        tested = [probe for probe in self.probes if not probe.client_limited]
        holds = self.goal.errors.holds - sum(probe.errors.holds for probe in tested if probe.outcome is not Outcome.HOLDS)
        fails = self.goal.errors.fails - sum(probe.errors.fails for probe in tested if probe.outcome is not Outcome.FAILS)
        return Errors(holds * SPENT_ON_HOLDING[purpose], fails * SPENT_ON_FAILING[purpose])

    def _unusable(self, count: int) -> bool:
        return len(self.probes) >= count and all(probe.client_limited for probe in self.probes[-count:])


def is_enough(plan: Plan, look: Look, share: float) -> bool:
    """Whether a probe may end before its limit: it is resolved, has said enough for its purpose, or won't be resolved by its limit."""
    if look.outcome is not Outcome.UNRESOLVED or look.overloaded or look.requests >= plan.limit:
        return True
    limit, done = 1 - share, look.requests / plan.limit
    below = look.missed < limit
    z = normal_quantile(1 - min(max(tail_of(look.worth, look.missed, limit), 1e-12), 0.5))
    if plan.purpose in (Purpose.RANGE, Purpose.HALVE, Purpose.ESTIMATE):
        return z > CLEAR_Z and look.steady and not _hopeful(plan, z, done, holds=below)
    low = plan.purpose is Purpose.LOW
    if not low and not look.steady and look.missed > HOPELESS and look.requests >= GROWN:
        return True
    return z > CLEAR_Z if below is not low else done > 0.5 and not _hopeful(plan, z, done, holds=low)


def _hopeful(plan: Plan, z: float, done: float, *, holds: bool) -> bool:
    """Whether a probe that is so many standard errors on one side of the limit may be resolved there by its end."""
    needed = normal_quantile(1 - (plan.errors.holds if holds else plan.errors.fails) / 3)
    return z / math.sqrt(done) + HOPE * math.sqrt(1 / done - 1) >= needed


class _Point(msgspec.Struct, frozen=True):
    """Logarithm of a load, the share that missed there, how many independent requests say so, and of how many."""

    x: float
    missed: float
    worth: float
    judged: int

    @property
    def logit(self) -> float:
        return math.log((self.missed * self.worth + 0.5) / ((1 - self.missed) * self.worth + 0.5))

    @property
    def weight(self) -> float:
        """One over the logit's variance."""
        return max(self.missed * (1 - self.missed) * self.worth, 0.5)


def curve_of(probes: list[Probe], limit: float) -> Curve | None:
    """None where the shares of misses don't cross the limit. A probe that is clearly on one side bounds where they do."""
    points = [_Point(math.log(p.load), p.missed, p.look.worth, p.look.judged) for p in probes if not p.client_limited]
    pools = _monotone(points)
    place = next((place for place, pool in enumerate(pools) if pool.missed >= limit), 0)
    if not place or place == len(pools):
        return None
    low, high = pools[place - 1], pools[place]
    floor = max((point.x for point in points if _z(point, limit) < -CLEAR_Z), default=-math.inf)
    ceiling = min((point.x for point in points if _z(point, limit) > CLEAR_Z), default=math.inf)
    if floor >= ceiling:  # not monotone: what was measured last may be another engine
        floor, ceiling = -math.inf, math.inf
    level, gap = math.log(limit / (1 - limit)), max(high.x - low.x, 1e-6)
    slope = max((high.logit - low.logit) / gap, LEAST_SLOPE)
    share = min(max((level - low.logit) / (slope * gap), 0.0), 1.0)
    error = math.hypot((1 - share) / math.sqrt(low.weight), share / math.sqrt(high.weight)) / slope
    curve = Curve(low.x + share * gap, error, slope, (low.worth + high.worth) / (low.judged + high.judged))
    return _between(_fitted(points, level, curve.at) or curve, floor, ceiling)


def _between(curve: Curve, floor: float, ceiling: float) -> Curve:
    """The curve with its crossing between what is clear, and off the ends of a wide gap, where interpolation says little."""
    gap = ceiling - floor
    if math.isinf(gap):
        return curve
    aside = 0.35 * gap if curve.error > gap / 8 and gap > WIDE_GAP else 0.0 if floor < curve.at < ceiling else 0.5 * gap
    at = min(max(curve.at, floor + aside), ceiling - aside)
    return Curve(at, min(curve.error, gap / 4) if at == curve.at else gap / 4, curve.slope, curve.efficiency)


def _z(point: _Point, limit: float) -> float:
    return (point.missed - limit) * math.sqrt(point.worth / (limit * (1 - limit)))


def _fitted(points: list[_Point], level: float, at: float) -> Curve | None:
    """A weighted straight line of the logit over the load's logarithm, through the probes near the crossing; None where these are few."""
    near = [point for point in points if abs(point.x - at) < NEAR]
    total = sum(point.weight for point in near)
    if len(near) < MIN_NEAR:
        return None
    centre = sum(point.weight * point.x for point in near) / total
    height = sum(point.weight * point.logit for point in near) / total
    spread = sum(point.weight * (point.x - centre) ** 2 for point in near)
    if spread == 0.0:
        return None
    slope = sum(point.weight * (point.x - centre) * (point.logit - height) for point in near) / spread
    crossing = centre + (level - height) / slope if slope > LEAST_SLOPE else math.inf
    if not min(point.x for point in near) - NEAR / 4 < crossing < max(point.x for point in near) + NEAR / 4:
        return None
    error = math.sqrt(1 / total + (crossing - centre) ** 2 / spread) / slope
    return Curve(crossing, error, slope, sum(point.worth for point in near) / sum(point.judged for point in near))


def _monotone(points: list[_Point]) -> list[_Point]:
    """Pool adjacent violators: points in order of x, with shares that don't fall."""
    pools: list[_Point] = []
    for point in sorted(points, key=lambda point: (point.x, point.missed)):
        pools.append(point)
        while len(pools) > 1 and (pools[-2].missed >= pools[-1].missed > 0.0 or pools[-2].x == pools[-1].x):
            pools[-2:] = [_pooled(pools[-2], pools[-1])]
    return pools


def _pooled(a: _Point, b: _Point) -> _Point:
    worth = a.worth + b.worth
    return _Point((a.x * a.worth + b.x * b.worth) / worth, (a.missed * a.worth + b.missed * b.worth) / worth, worth, a.judged + b.judged)
