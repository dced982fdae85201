"""Which rates a curve needs: from a light load to the plain overload, starting from what a closed loop carried."""

from __future__ import annotations

import math
from collections.abc import Mapping

SHARES = (0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0, 1.2)
"""Of the ceiling that the probe of `rate: auto` found."""
STEP = 1.25
"""From one rate to the next where none overloads yet."""
LIGHTER = 4.0
"""How much lower the next one is where even the lightest overloads."""
MOST_GAP = 1.3
"""Between the highest rate that is carried and the lowest that isn't."""
LIGHT = 0.25
"""Of the highest rate that is carried: the lightest is no more."""
MOST_RATES = 16
CARRIED = ("valid", "")
"""Verdicts of a rate that is no limit; "" is that of one that no request was due at."""
OVERLOADED = ("overloaded", "failing")
"""Verdicts of a rate above what the server carries: it queues, or it refuses."""


def next_rate(ceiling_rps: float, verdicts: Mapping[float, str]) -> float | None:
    """The next rate to measure, with the verdicts so far by rate; None when the curve is whole, or when more would bring nothing,
    as beyond a rate at which the client was the limit."""
    stop = min((rate for rate, verdict in verdicts.items() if verdict not in CARRIED), default=math.inf)
    carried = max((rate for rate in verdicts if rate < stop), default=None)
    for share in SHARES:
        rate = _rounded(share * ceiling_rps)
        if rate not in verdicts and rate < stop:
            return rate
    if len(verdicts) >= MOST_RATES:
        return None
    if math.isinf(stop):
        return _rounded(max(verdicts) * STEP)
    if verdicts[stop] not in OVERLOADED:
        return None
    if carried is None:
        return _rounded(stop / LIGHTER)
    if stop / carried > MOST_GAP:
        return _rounded(math.sqrt(carried * stop))
    lightest = _rounded(SHARES[0] * carried)
    return lightest if min(verdicts) > LIGHT * carried else None


def _rounded(rate: float) -> float:
    return float(f"{rate:.3g}")
