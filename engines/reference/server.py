"""The reference engine behind an OpenAI-compatible HTTP server that keeps the truth about itself.

It exists to calibrate clients, so it is bare: one `asyncio.Protocol` a connection, httptools for the
request, prepared bytes for the answer, one heap and one timerfd for all tokens that are due (see
`engines.reference.schedule`). An event is written straight to the socket, so that the stamp taken right
after it says when the kernel had it; the transport is used only when the socket is full.

`GET /stats` tells the truth: for each request, by its x-request-id header, when it arrived, and when its
first and last token were written, in ns of CLOCK_MONOTONIC; and how late writes were against the plan.
`/reset` forgets. Other paths: `/v1/chat/completions`, `/v1/completions`, `/v1/models`, `/health`.
"""

from __future__ import annotations

import asyncio
import gc
import ipaddress
import signal
import sys
from collections.abc import Mapping

from engines.reference.connection import Connection, ServerState
from engines.reference.schedule import Schedule

LISTEN_BACKLOG = 4096


class ReferenceServer(ServerState):
    """`async with ReferenceServer({"ttft_ms": "5"}) as server:` listens at `server.url` until the block ends.

    Port 0 takes a free one. Raises BadOption when made, OSError when the port is taken.
    """

    def __init__(self, options: Mapping[str, str] | None = None, host: str = "127.0.0.1", port: int = 0) -> None:
        super().__init__(options or {})
        self.host = host
        self.port = port
        self._listener: asyncio.Server | None = None

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    async def __aenter__(self) -> ReferenceServer:
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(lambda: Connection(self), self.host, self.port, backlog=LISTEN_BACKLOG)
        self.schedule = Schedule(loop, self.options.slots)
        self.port = self._listener.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        assert self._listener is not None
        self._listener.close()
        for connection in tuple(self.connections):
            connection.abort()
        await asyncio.sleep(0)  # lets the transports say connection_lost
        self.schedule.close()


def is_loopback(host: str) -> bool:
    """Whether listening on `host` can be reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def serve(host: str, port: int, options: Mapping[str, str]) -> None:
    """Serve until SIGINT or SIGTERM. The first line on standard output is the URL.

    Raises BadOption, and OSError when the address can't be listened on.
    """
    server = ReferenceServer(options, host, port)
    if not is_loopback(host):
        print(f"WARNING: {host} is not loopback: anyone who reaches this machine can use the server", file=sys.stderr, flush=True)
    gc.freeze()  # what was imported is never garbage; collections stay short
    import uvloop

    uvloop.run(_serve_until_signal(server))


async def _serve_until_signal(server: ReferenceServer) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with server:
        print(server.url, flush=True)
        options = server.options
        print(f"reference server: TTFT {options.ttft_ms:g} ms, ITL {options.itl_ms:g} ms; Ctrl-C ends it", file=sys.stderr, flush=True)
        await stop.wait()
