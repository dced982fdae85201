"""Which load to probe next, and what all probes together say. Pure: no I/O, no clock. A load is a rate (requests/s) or a number of
requests in flight.

The higher the load, the fewer requests meet their service levels. So one probe that holds and one that fails bound the capacity:

- the range is found in steps of `LEAP` (of `STEP` where a probe needs the more requests the higher its load), by short probes that end
  once it is clear on which side of the limit they are;
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
from itertools import takewhile

import msgspec

from bytemlperf.statistics.special import normal_quantile
from bytemlperf_llm.capacity.curve import Curve, curve_of, side_of
from bytemlperf_llm.capacity.judge import LEAST_LOOK, SETTLING_SHARE, UNITS, Errors, Outcome, first_look
from bytemlperf_llm.capacity.probe import Plan, Probe, Purpose

STEP, LEAP = 2.0, 4.0
CONFIDENCE = 0.95
WITHIN = 0.05
RANGE_SHARE = 0.15
"""Of the error, for what a probe needs at least."""
RANGE_REQUESTS, EDGE_REQUESTS, ESTIMATE_REQUESTS = 1, 5, 10
"""Requests of a probe for the range, at least of one at the edge, and of the first estimate; in units of those that one needs to hold."""
LAST_REQUESTS = 10
"""Left, in the same units, from which on a search in which nothing holds yet sees to that before it looks closer."""
LEAST_LOAD_SHARE = 1 / 1024
"""Of the first load: where even this fails, nothing holds."""
TURNOVERS, MOST_TURNOVERS = 10, 40
"""Requests of a probe for each of those under way (of users: sessions; of a rate of sessions: as many as are due in a session's time), at
the first look and by its end at least: a closed loop's start all at once, and an engine's batches keep them together, so that each turn is
worth little more than one request; a rate of sessions takes a session's time to be there at all."""
MAX_PROBES = 40
LEAST_REQUESTS = 2 * UNITS
"""That a probe needs to hold: two for each stretch that sums are kept of. It is looked at from a third on."""
MOST_OF_GAP = 0.8
"""Of the distance from the estimate to what is resolved: what can be paid for brings less than a fifth of it, and the search ends."""
FURTHER = 1.4
"""Distance of a probe, in units of that of the one before that was not resolved on this side, where the requests don't reach for the
width that was asked."""
WIDE_ERROR = 0.08
"""The estimate's standard error from which on a probe there is likely to be resolved."""
LOCATED = 0.6
"""The estimate's standard error, in units of the distance at which probes are placed, from which on it is good enough for that."""
SPARE = 1.6
"""Requests that a probe may take, in units of those that it should need."""
SPENT_ON_HOLDING = {
    Purpose.RANGE: 0.02,
    Purpose.HALVE: 0.02,
    Purpose.ESTIMATE: 0.02,
    Purpose.LOW: 0.4,
    Purpose.HIGH: 0.005,
    Purpose.CONFIRM: 0.1,
}
SPENT_ON_FAILING = {
    Purpose.RANGE: 0.02,
    Purpose.HALVE: 0.02,
    Purpose.ESTIMATE: 0.02,
    Purpose.LOW: 0.005,
    Purpose.HIGH: 0.4,
    Purpose.CONFIRM: 0.1,
}
"""Shares of what is left of the error of a side, by a probe's purpose."""


class Goal(msgspec.Struct, frozen=True):
    """What is asked: the share (0 to 1) of requests that must meet every level, with which confidence, how narrow (0.05: fails_at is at
    most 5 % above holds_at), and the most requests in all. `whole` loads are whole numbers from 1, of requests or
    users in a closed loop. `turnover` is how many requests each unit of load has under way: a user a session's turns, a session/s as many
    as are due in a session's time; None: one in a closed loop, none in an open one. `longest` is the most requests that
    there are for a single probe, those of a data set; None: any number."""

    share: float = 0.95
    confidence: float = CONFIDENCE
    within: float = WITHIN
    max_requests: int = 200_000
    whole: bool = False
    longest: int | None = None
    turnover: float | None = None

    def turnovers(self, load: float, count: int = 1) -> int:
        """Requests of so many turnovers."""
        return math.ceil(count * load * (float(self.whole) if self.turnover is None else self.turnover))

    @property
    def errors(self) -> Errors:
        return Errors((1 - self.confidence) / 2, (1 - self.confidence) / 2)

    @property
    def needed(self) -> int:
        """Requests without which not even one faultless probe could hold."""
        return max(first_look(self.share, self.errors.times(RANGE_SHARE / 2)), LEAST_REQUESTS)


class Search:
    """Takes what probes found (`tell`) and says what to run next (`plan`). `aside` are requests of probes that say nothing."""

    def __init__(self, goal: Goal, first_load: float, probes: list[Probe] | None = None, aside: int = 0) -> None:
        self.goal, self.first_load, self.probes, self._aside = goal, first_load, probes or [], aside

    @property
    def requests(self) -> int:
        in_flight = sum(self.goal.turnovers(probe.load) for probe in self.probes)
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
        requests = max(requests, self.goal.turnovers(load, TURNOVERS))
        return Plan(load, requests, requests, self._errors(Purpose.CONFIRM), Purpose.CONFIRM)

    def stopped_because(self) -> str | None:
        """None while the search goes on."""
        low, high, limit = self.holds_at, self.fails_at, self.client_limit
        step = 1 if self.goal.whole else 0
        if low is not None and high is not None and high <= max(low * (1 + self.goal.within), low + step):
            return "within"
        near = low is not None and limit is not None and (limit <= max(low * STEP**0.5, low + step) or self._in_vain(Purpose.LOW) > 0)
        if limit is not None and (self._unusable(3) or (near and self._unresolved_top() is None)):
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
        curve = curve_of([probe.point for probe in self.probes if not probe.client_limited], 1 - self.goal.share)
        if curve is not None:
            return self._fine(curve)
        if (top := self._unresolved_top()) is not None:
            return self._plan(top, EDGE_REQUESTS * self.goal.needed, Purpose.LOW)
        return self._plan(self._ranging(), RANGE_REQUESTS * self.goal.needed, Purpose.RANGE)

    def _unresolved_top(self) -> float | None:
        """Where the client is the limit: the highest load that it could offer, less after each long probe in vain; None once it holds."""
        top = max((probe.load for probe in self.probes if not probe.client_limited), default=None)
        if self.client_limit is None or top is None:
            return None
        load = top / FURTHER ** self._in_vain(Purpose.LOW)
        return load if load > (self.holds_at or 0.0) else None

    def _ranging(self) -> float:
        """The load of a probe that is to find the range."""
        loads = [probe.load for probe in self.probes]
        if not loads:
            return self.first_load
        if self.client_limit is not None:
            return math.sqrt(self.client_limit * (self.holds_at or self.client_limit / STEP))
        below = any(probe.missed < 1 - self.goal.share for probe in self.probes)
        step = STEP if self.goal.turnovers(1) else LEAP
        return max(loads) * step if below else min(loads) / step

    def _fine(self, curve: Curve) -> Plan | None:
        few = max(LAST_REQUESTS * self.goal.needed, 2 * self.goal.turnovers(math.exp(curve.at), MOST_TURNOVERS))
        if self.holds_at is None and self._remaining() < few and (low := self._clearly_below()) is not None:
            return self._plan(low, EDGE_REQUESTS * self.goal.needed, Purpose.LOW)
        floor, ceiling = (math.log(load) if load else None for load in (self.holds_at, self.fails_at))
        half = math.log(1 + self.goal.within) / 2 * 0.98
        wide = min(self._affordable(curve, half), math.log(STEP))
        if (curve.error > LOCATED * wide or self._astray()) and not self._settled(curve):
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

    def _clearly_below(self) -> float | None:
        """The highest load at which clearly fewer missed than may, a step less where high loads need many requests, and less after each
        long probe in vain."""
        limit, step = 1 - self.goal.share, STEP if self.goal.turnovers(1) else 1.0
        load = max((probe.load for probe in self.probes if not probe.client_limited and side_of(probe.point, limit) < 0), default=None)
        return None if load is None else load / step / FURTHER ** self._in_vain(Purpose.LOW)

    def _settled(self, curve: Curve) -> bool:
        """Whether the whole number at the estimate was probed, and is clearly on one side."""
        points = [probe.point for probe in self.probes if self.goal.whole and probe.load == round(math.exp(curve.at))]
        return any(side_of(point, 1 - self.goal.share) for point in points)

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
        left, limit = left - self.goal.turnovers(load), max(limit, self.goal.turnovers(load, MOST_TURNOVERS))
        first = max(self.goal.needed // 3, LEAST_LOOK, self.goal.turnovers(load, TURNOVERS))
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
