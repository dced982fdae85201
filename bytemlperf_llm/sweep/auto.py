"""Which rates a curve needs: from a light load to the plain overload, starting from what a closed loop carried."""

from __future__ import annotations

import math
from collections.abc import Mapping

from bytemlperf.runs.verdicts import SOUND
from bytemlperf_llm.sweep.row import CLIENT

SHARES = (0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0, 1.2)
"""Of the ceiling that the probe of `rate: auto` found."""
STEP = 1.5
"""From one rate to the next where none overloads yet."""
LIGHTER = 4.0
"""How much lower the next one is where even the lightest overloads."""
MOST_GAP = 1.3
"""Between the highest rate that is carried and the lowest that isn't."""
LIGHT = 0.25
"""Of the highest rate that is carried: the lightest is no more."""
MOST_RATES = 16
CLIENT_TRIES = 3
"""Rates in a row at which the client is the limit, before it is taken to be so at any higher one: a busy machine may disturb one."""
OVERLOADED = ("overloaded", "failing")
"""Verdicts of a rate above what the server carries: it queues, or it refuses."""


def next_rate(ceiling_rps: float, verdicts: Mapping[float, str]) -> float | None:
    """The next rate to measure, with the verdicts so far by rate ("" of one at which no request was due); None when the curve is whole,
    or when more would bring nothing."""
    over = min((rate for rate, verdict in verdicts.items() if verdict in OVERLOADED), default=math.inf)
    carried = max((rate for rate, verdict in verdicts.items() if verdict in SOUND and rate < over), default=None)
    highest = sorted(verdicts)[-CLIENT_TRIES:]
    if len(verdicts) >= MOST_RATES or (len(highest) == CLIENT_TRIES and all(verdicts[rate] in CLIENT for rate in highest)):
        return None
    for share in SHARES:
        rate = _rounded(share * ceiling_rps)
        if rate not in verdicts and rate < over:
            return rate
    if math.isinf(over):
        return _rounded(max(verdicts) * STEP)
    if carried is None:
        return _rounded(min(verdicts) / LIGHTER)
    between = _rounded(math.sqrt(carried * over))
    if over / carried > MOST_GAP and between not in verdicts:
        return between
    lightest = _rounded(SHARES[0] * carried)
    return lightest if min(verdicts) > LIGHT * carried else None


def _rounded(rate: float) -> float:
    return float(f"{rate:.3g}")
