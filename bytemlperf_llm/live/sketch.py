"""Figures so far, in bounded memory."""

from __future__ import annotations

import math

SKETCH_STEP = 0.02  # buckets of the live percentiles are 2 % wide; the final ones are exact


class Sketch:
    """Live percentiles in constant memory: logarithmic buckets, 2 % wide. Not for results."""

    def __init__(self) -> None:
        self._buckets: dict[int, int] = {}
        self.count = 0

    def add(self, value_ns: float) -> None:
        """Add one value above 0."""
        key = round(math.log(max(value_ns, 1.0)) / SKETCH_STEP)
        self._buckets[key] = self._buckets.get(key, 0) + 1
        self.count += 1

    def percentile_ms(self, percent: float) -> str:
        """About the percentile, in ms, as text."""
        left = math.ceil(self.count * percent / 100)
        for key in sorted(self._buckets):
            left -= self._buckets[key]
            if left <= 0:
                return f"{math.exp(key * SKETCH_STEP) / 1e6:,.1f}"
        return "–"
