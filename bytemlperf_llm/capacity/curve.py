"""Where the capacity is, by all probes: shares that missed, made monotone by pooling (isotonic regression, weighted by what each probe's
requests are worth), then a straight line of their logit over the logarithm of the load through the probes near the limit."""

from __future__ import annotations

import math

import msgspec

LEAST_SLOPE = 1.0
"""Of the logit over the logarithm of the load."""
NEAR, MIN_NEAR, WIDE_GAP = 0.2, 3, 0.35
"""Distances in the logarithm of the load: of probes that a line is fitted through; between two probes that bracket the capacity, from which
on the next one goes near the middle."""
CLEAR_Z = 2.0
"""Standard errors from the limit at which a probe that is to find the range, or the place in it, has said enough."""


class Point(msgspec.Struct, frozen=True):
    """Logarithm of a load, the share that missed there, how many independent requests say so, and of how many. What was neither `steady`
    nor plainly overloaded is on no side for certain."""

    x: float
    missed: float
    worth: float
    judged: int
    steady: bool = True

    @property
    def logit(self) -> float:
        return math.log((self.missed * self.worth + 0.5) / ((1 - self.missed) * self.worth + 0.5))

    @property
    def weight(self) -> float:
        """One over the logit's variance."""
        return max(self.missed * (1 - self.missed) * self.worth, 0.5)


class Curve(msgspec.Struct, frozen=True):
    """Where the share of misses crosses the limit: the load's logarithm, its standard error, the logit's slope there, and what share of a
    probe's requests are independent ones' worth there."""

    at: float
    error: float
    slope: float
    efficiency: float


def curve_of(points: list[Point], limit: float) -> Curve | None:
    """None where the shares of misses don't cross the limit. A point that is clearly on one side bounds where they do."""
    pools = _monotone(points)
    place = next((place for place, pool in enumerate(pools) if pool.missed >= limit), 0)
    if not place or place == len(pools):
        return None
    low, high = pools[place - 1], pools[place]
    floor = max((point.x for point in points if side_of(point, limit) < 0), default=-math.inf)
    ceiling = min((point.x for point in points if side_of(point, limit) > 0), default=math.inf)
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


def side_of(point: Point, limit: float) -> int:
    """-1 where clearly fewer missed than the limit, 1 where more did, 0 where it isn't clear."""
    sigmas = (point.missed - limit) * math.sqrt(point.worth / (limit * (1 - limit)))
    return 0 if not point.steady or abs(sigmas) <= CLEAR_Z else 1 if sigmas > 0 else -1


def _fitted(points: list[Point], level: float, at: float) -> Curve | None:
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


def _monotone(points: list[Point]) -> list[Point]:
    """Pool adjacent violators: points in order of x, with shares that don't fall."""
    pools: list[Point] = []
    for point in sorted(points, key=lambda point: (point.x, point.missed)):
        pools.append(point)
        while len(pools) > 1 and (pools[-2].missed >= pools[-1].missed > 0.0 or pools[-2].x == pools[-1].x):
            pools[-2:] = [_pooled(pools[-2], pools[-1])]
    return pools


def _pooled(a: Point, b: Point) -> Point:
    worth = a.worth + b.worth
    return Point((a.x * a.worth + b.x * b.worth) / worth, (a.missed * a.worth + b.missed * b.worth) / worth, worth, a.judged + b.judged)
