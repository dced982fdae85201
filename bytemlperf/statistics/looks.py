"""Looking at data more than once while they come: when, and how much of an error each look may spend.

Looks at sizes that grow by `LOOK_GROWTH`; where the last one is known, the error is spent over them as a power of the share of the data
(Lan and DeMets, Biometrika 70(3), 1983; the power family: Kim and DeMets, Biometrika 74(1), 1987). Where there is no last one, look
k = 0, 1, … spends 1/((k + 1)(k + 2)), which sums to 1 (epochs that grow geometrically: Howard, Ramdas, McAuliffe and Sekhon, Annals of
Statistics 49(2), 2021, section 3.1). Looks are added up by Bonferroni, which needs no joint distribution of tails with estimated variances
and costs little between looks so far apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import count

LOOK_GROWTH = 1.5
SPENDING_POWER = 0.7


def looks(first: int, limit: int) -> list[int]:
    """Numbers of requests to look at, ascending, the last of which is the limit."""
    sizes = [min(first, limit)]
    while sizes[-1] < limit:
        larger = math.ceil(sizes[-1] * LOOK_GROWTH)
        sizes.append(limit if larger * math.sqrt(LOOK_GROWTH) > limit else larger)
    return sizes


def spent(sizes: Sequence[int], place: int) -> float:
    """Share of the error that look number `place` may spend."""
    before = (sizes[place - 1] / sizes[-1]) ** SPENDING_POWER if place else 0.0
    return float((sizes[place] / sizes[-1]) ** SPENDING_POWER) - before


def endless_looks(first: int) -> Iterator[tuple[int, float]]:
    """Numbers of requests to look at, each with the share of the error that it may spend."""
    size = first
    for look in count():
        yield size, 1 / ((look + 1) * (look + 2))
        size = math.ceil(size * LOOK_GROWTH)
