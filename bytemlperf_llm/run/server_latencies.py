"""The server's own histograms of latency over the measured part."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from bytemlperf_llm.metrics.server import grown
from engines.contract import Engine, Histogram

PART = "server_histograms"


class ServerLatencies:
    """Asks an engine that has `latencies` before and after the measured part."""

    def __init__(self, engine: Engine) -> None:
        self._ask: Callable[[], Awaitable[dict[str, Histogram]]] = getattr(engine, "latencies", _none)
        self._begin: dict[str, Histogram] = {}

    async def begin(self) -> None:
        """Before the first request."""
        self._begin = await self._ask()

    async def end(self, run: dict[str, Any]) -> None:
        """Into run.json; of a run that was resumed the last part alone."""
        if told := grown(self._begin, await self._ask()):
            run[PART] = msgspec.to_builtins(told)


async def _none() -> dict[str, Histogram]:
    return {}
