"""What a loss curve says: a target reached, a divergence, a spike."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

SMOOTHED_STEPS = 5
"""A target counts as reached when the mean of so many losses is at or below it: one lucky batch doesn't count."""
SPIKE_WINDOW = 20
SPIKE_DEVIATIONS = 6.0
SPIKE_LEAST = 0.1
"""A spike lies 6 standard deviations above the mean of the 20 losses before it, and at least 10 % above."""


def reached(losses: Sequence[float], target: float | None) -> bool:
    """Whether the curve has come down to `target`."""
    recent = losses[-SMOOTHED_STEPS:]
    return target is not None and len(recent) == SMOOTHED_STEPS and statistics.fmean(recent) <= target


def spikes(losses: Sequence[float]) -> list[int]:
    """Places of losses that stand out above those before them."""
    places = []
    for place in range(SPIKE_WINDOW, len(losses)):
        before = losses[place - SPIKE_WINDOW : place]
        mean = statistics.fmean(before)
        if losses[place] > mean + max(SPIKE_DEVIATIONS * statistics.stdev(before), SPIKE_LEAST * abs(mean)):
            places.append(place)
    return places


def largest_relative_error(losses: Sequence[float], reference: Sequence[float]) -> float:
    """The largest |loss − reference| / |reference| over the steps that both have."""
    return max(abs(loss - wanted) / abs(wanted) for loss, wanted in zip(losses, reference, strict=False))
