"""How far another machine's clock is from this one's: several round trips, the fastest one counts.

The other clock is read somewhere between asking (t0) and the answer (t1). If it read c, its offset
is c − (t0 + t1)/2, and wrong by at most (t1 − t0)/2, whatever the two ways took (Cristian,
Probabilistic clock synchronization, 1989). The round trip that took least bounds it best.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from bytemlperf.units import NS_PER_MS
from bytemlperf_llm.loadgen.recorder import ClockNs, monotonic_ns

ROUND_TRIPS = 32


class Offset(NamedTuple):
    """The other clock is this clock plus `offset_ns`, give or take `uncertainty_ns`."""

    offset_ns: int
    uncertainty_ns: int

    def text(self) -> str:
        """In ms."""
        return f"{self.offset_ns / NS_PER_MS:+,.3f} ms ± {self.uncertainty_ns / NS_PER_MS:.3f} ms"

    @property
    def is_nothing(self) -> bool:
        """Whether the two may be one clock."""
        return abs(self.offset_ns) <= self.uncertainty_ns


async def measure_offset(ask: Callable[[], Awaitable[int]], now: ClockNs = monotonic_ns, round_trips: int = ROUND_TRIPS) -> Offset:
    """`ask` reads the other clock, in ns."""
    found = [await _round_trip(ask, now) for _ in range(round_trips)]
    return min(found, key=lambda offset: offset.uncertainty_ns)


async def _round_trip(ask: Callable[[], Awaitable[int]], now: ClockNs) -> Offset:
    asked_ns = now()
    read_ns = await ask()
    answered_ns = now()
    half_ns = (answered_ns - asked_ns + 1) // 2
    return Offset(read_ns - asked_ns - half_ns, half_ns)
