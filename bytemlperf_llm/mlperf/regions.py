"""The regions of concurrency of MLPerf Endpoints (rules 5.3 to 5.7 and 6.2): their bounds, and how long a point of each must run."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

Region = Literal["low_latency", "low_concurrency", "med_concurrency", "high_concurrency", "margin"]
REGIONS: tuple[Region, ...] = ("low_latency", "low_concurrency", "med_concurrency", "high_concurrency", "margin")
CONCURRENCY_REGIONS = REGIONS[1:4]
ULTRA_LOW = 32
"""Points up to here are of ultra low concurrency, whatever the region of the algorithm."""
LEAST_POINTS, MOST_POINTS = 7, 32
"""With the point at C_max elected as the Offline result (rules 5.7.2)."""
ULTRA_LOW_S, OTHER_S = 600, 1200


class Regions(NamedTuple):
    """The last concurrency of each region, in ascending order."""

    low_latency: int
    low_concurrency: int
    med_concurrency: int
    high_concurrency: int
    margin: int

    def of(self, concurrency: int) -> Region | None:
        """None beyond the margin."""
        return next((name for name, last in zip(REGIONS, self, strict=True) if concurrency <= last), None)


def regions(c_max: int, c_min: int) -> Regions | None:
    """By the reference algorithm of rules 5.5; None where it has none (C_max up to 32, C_min beyond)."""
    if not 1 <= c_min <= ULTRA_LOW < c_max:
        return None
    interval = math.log2(c_max - c_min) / 3
    return Regions(c_min, round(c_min + 2**interval), round(c_min + 2 ** (2 * interval)), c_max, math.ceil(1.10 * c_max))


def least_s(concurrency: int) -> int:
    """The shortest steady window of a point, in seconds (rules 6.2)."""
    return ULTRA_LOW_S if concurrency <= ULTRA_LOW else OTHER_S


def uncovered(concurrencies: list[int], c_max: int) -> list[str]:
    """The checker's names of the rules on points that these don't satisfy."""
    bounds = regions(c_max, min(concurrencies))
    found = [] if min(concurrencies) <= ULTRA_LOW else ["ultra-low-concurrency-coverage"]
    if bounds is None:
        found.append("region-computation")
    else:
        there = {bounds.of(concurrency) for concurrency in concurrencies}
        found += [f"{name.partition('_')[0]}-concurrency-coverage" for name in CONCURRENCY_REGIONS if name not in there]
    if len(concurrencies) < LEAST_POINTS:
        found.append("point-count")
    if c_max not in concurrencies:
        found.append("offline-point-present")
    return found


def default_points(c_max: int) -> list[int]:
    """Seven concurrencies from 1 to C_max, one at least in each region, evenly in log space. C_max is at least 8."""
    return sorted({1, *(round(c_max ** (step / 6)) for step in range(1, 6)), c_max})
