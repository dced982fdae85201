"""A latency divided among causes: what each rule takes of every request's milliseconds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from bytemlperf.lazy import numpy
from bytemlperf.statistics.columns import Floats, Mask
from bytemlperf_llm.causes.fits import Fit

Cause = Literal["client", "concurrency limit", "pauses", "network", "reaching the engine", "prefill", "kv cache", "queue", "batch"]
Latency = Literal["ttft", "tpot"]
SLOW = 1.25


@dataclass(frozen=True, kw_only=True)
class Part:
    """What a cause accounts for, ms of each request, and the sentence that says so. `slope` is the line whose first coefficient the
    part goes with; `condition` a state that a request met or not."""

    cause: Cause
    ms: Floats
    sentence: str
    slope: Fit | None = None
    condition: Mask | None = None


@dataclass(kw_only=True)
class Ledger:
    """A latency of each request (ms), and what is `left` of it for the next rule, so that no millisecond has two causes."""

    latency: Latency
    ms: Floats
    tokens: Floats  # how often a request has this latency
    left: Floats = field(init=False)
    parts: list[Part] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.left = self.ms.copy()

    def take(self, cause: Cause, ms: Floats, sentence: str, slope: Fit | None = None, condition: Mask | None = None) -> None:
        """As much of it as is left."""
        taken = numpy.clip(ms, 0.0, numpy.maximum(self.left, 0.0))
        self.left = self.left - taken
        self.parts.append(Part(cause=cause, ms=taken, sentence=sentence, slope=slope, condition=condition))

    def slow(self) -> Mask:
        """Of the slowest tenth those that took `SLOW` times as long as the typical request."""
        slow = _between(self.ms, 0.9, 1.0)
        return slow & (self.ms >= min(SLOW * float(self.ms[self.typical()].mean()), float(self.ms.max())))

    def quick(self) -> Mask:
        """The quickest fiftieth."""
        return _between(self.ms, 0.0, 0.02)

    def typical(self) -> Mask:
        """The tenth around the median."""
        return _between(self.ms, 0.45, 0.55)


def _between(ms: Floats, low: float, high: float) -> Mask:
    order = numpy.argsort(ms, kind="stable")
    chosen = numpy.zeros(len(ms), bool)
    chosen[order[int(low * len(order)) : max(int(low * len(order)) + 1, round(high * len(order)))]] = True
    return chosen
