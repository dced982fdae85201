"""The way to the server: how long a TCP connection takes to open, before and after the measured part."""

from __future__ import annotations

import asyncio
from typing import Any

from bytemlperf_llm.loadgen.recorder import monotonic_ns
from engines.contract import Engine

PART = "connect_ns"
TRIES = 8
TIMEOUT_S = 1.0


class Network:
    """Opens a few connections to each address of an engine that has `addresses`. One that can't be opened is left out."""

    def __init__(self, engine: Engine) -> None:
        self._addresses: list[tuple[str, int]] = getattr(engine, "addresses", list)()
        self._took_ns: list[int] = []

    async def begin(self) -> None:
        """Before the first request."""
        for host, port in self._addresses:
            for _ in range(TRIES):
                began_ns = monotonic_ns()
                try:
                    _, writer = await asyncio.wait_for(asyncio.open_connection(host, port), TIMEOUT_S)
                except (OSError, TimeoutError):
                    return
                self._took_ns.append(monotonic_ns() - began_ns)
                writer.close()

    async def end(self, run: dict[str, Any]) -> None:
        """After the last one: into run.json."""
        await self.begin()
        if self._took_ns:
            run[PART] = self._took_ns
