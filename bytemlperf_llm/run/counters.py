"""The engine's own counters and histograms over the measured part, into run.json."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from bytemlperf_llm.metrics.counted import PART, counted_of
from engines.contract import Counted, Engine
from engines.counted import grown, joined


class EngineCounters:
    """Asks an engine that has `counted` right before and right after the measured part."""

    def __init__(self, engine: Engine) -> None:
        self._ask: Callable[[], Awaitable[dict[str, Counted]]] = getattr(engine, "counted", _none)
        self._begin: dict[str, Counted] = {}

    async def begin(self) -> None:
        """Before the first request."""
        self._begin = await self._ask()

    async def end(self, run: dict[str, Any]) -> None:
        """Add what they grew by to what earlier parts of the run have."""
        for name, told in (await self._ask()).items():
            run[PART] = msgspec.to_builtins(joined(counted_of(run), _under(name, grown(self._begin.get(name, Counted()), told))))


def _under(name: str, counted: Counted) -> Counted:
    """With a server's name before each of its own."""
    missing = tuple(f"metrics of {name or 'the server'}: {text}" for text in counted.missing)
    before = f"{name}_" if name else ""
    counts = {f"{before}{known}": count for known, count in counted.counts.items()}
    latencies = {f"{before}{known}": histogram for known, histogram in counted.latencies.items()}
    return Counted(counts=counts, latencies=latencies, missing=missing)


async def _none() -> dict[str, Counted]:
    return {}
