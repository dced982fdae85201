"""The way to the server: how long a TCP connection takes to open, before and after the measured part, and once a second during it."""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import Any

from bytemlperf_llm.loadgen.recorder import monotonic_ns
from bytemlperf_llm.run.rebuild import clock_origin_ns
from engines.contract import Engine

PART, MEANWHILE = "connect_ns", "connects"
TRIES = 8
TIMEOUT_S = 1.0
PERIOD_S = 1.0
MOST = 3_600
"""Connections kept; of a longer run every second one, then every fourth, and so on."""


class Network:
    """Opens a few connections to each address of an engine that has `addresses`. One that can't be opened is left out."""

    def __init__(self, engine: Engine) -> None:
        self._addresses: list[tuple[str, int]] = getattr(engine, "addresses", list)()
        self._took_ns: list[int] = []
        self._meanwhile: list[tuple[int, int]] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="bmp-network", daemon=True)

    async def begin(self) -> None:
        """Before the first request."""
        await self._try()
        if self._took_ns:
            self._thread.start()

    async def end(self, run: dict[str, Any]) -> None:
        """After the last one: into run.json."""
        self._ended.set()
        await self._try()
        if self._took_ns:
            run[PART] = self._took_ns
        if self._meanwhile and (origin_ns := clock_origin_ns(run)) is not None:
            run.setdefault(MEANWHILE, []).extend((at_ns - origin_ns, took_ns) for at_ns, took_ns in self._meanwhile)

    async def _try(self) -> None:
        for host, port in self._addresses:
            for _ in range(TRIES):
                began_ns = monotonic_ns()
                try:
                    _, writer = await asyncio.wait_for(asyncio.open_connection(host, port), TIMEOUT_S)
                except (OSError, TimeoutError):
                    return
                self._took_ns.append(monotonic_ns() - began_ns)
                writer.close()

    def _follow(self) -> None:
        """The slowest of the addresses each time; one that isn't there in time took that time."""
        period_s = PERIOD_S
        while not self._ended.wait(period_s):
            began_ns = monotonic_ns()
            took_ns = [took for host, port in self._addresses if (took := _opening_ns(host, port)) is not None]
            if took_ns:
                self._meanwhile.append((began_ns, max(took_ns)))
            if len(self._meanwhile) >= MOST:
                self._meanwhile, period_s = self._meanwhile[::2], 2 * period_s


def _opening_ns(host: str, port: int) -> int | None:
    """None where the server refuses."""
    began_ns = monotonic_ns()
    try:
        socket.create_connection((host, port), TIMEOUT_S).close()
    except TimeoutError:
        pass
    except OSError:
        return None
    return monotonic_ns() - began_ns
