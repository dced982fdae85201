"""The proxy that records: HTTP on loopback, everything passed on as it comes.

aiohttp serves and asks. Only hop-by-hop headers are taken off (RFC 9110, section 7.6.1); the answers of requests that are recorded are
asked for uncompressed, so that they can be read. A failure of the server is passed on as it is: its status, or a connection that is cut in
the middle; where there is no answer, 502. A client that hangs up ends its request at the server.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from bytemlperf_llm.trace.recording import Exchange, Recording

if TYPE_CHECKING:
    from aiohttp import ClientResponse, web
    from multidict import CIMultiDict, CIMultiDictProxy

RECORDED = ("/chat/completions", "/completions")
MAX_BODY_BYTES = 1 << 28
DRAIN_S = 30.0
_HOP_BY_HOP = frozenset(
    ("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer", "transfer-encoding", "upgrade", "host")
)
LOOPBACK = "127.0.0.1"


class _ClientLeft(Exception):
    """Nobody takes the answer any more."""


class RecordingProxy:
    """Listens at `port` of 127.0.0.1; 0 takes a free one."""

    def __init__(self, upstream: str, port: int, recording: Recording) -> None:
        self._upstream, self.port, self._recording = upstream.removesuffix("/v1"), port, recording
        self._tasks: set[asyncio.Task[None]] = set()
        self.listens = self._closing = False

    async def start(self) -> None:
        """Raises OSError when the port is taken."""
        from aiohttp import ClientSession, ClientTimeout, TCPConnector, web

        self._session = ClientSession(
            connector=TCPConnector(limit=0),
            timeout=ClientTimeout(total=None, sock_read=None),
            auto_decompress=False,
            trust_env=urlsplit(self._upstream).hostname not in (LOOPBACK, "localhost", "::1"),
        )
        app = web.Application(client_max_size=MAX_BODY_BYTES)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=DRAIN_S)
        await self._runner.setup()
        await web.TCPSite(self._runner, LOOPBACK, self.port).start()
        self.port, self.listens = self._runner.addresses[0][1], True

    async def close(self) -> None:
        """Requests under way have `DRAIN_S`."""
        try:
            await self._runner.cleanup()
            await asyncio.gather(*self._tasks)
        finally:
            self._closing = True
            await self._session.close()

    # -- one request ---------------------------------------------------------------------

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        from aiohttp import ClientError

        arrived_ns = time.monotonic_ns()
        body = await request.read()
        exchange = None
        if request.method == "POST" and request.path.endswith(RECORDED):
            headers = {name.lower(): value for name, value in request.headers.items()}
            exchange = self._recording.arrived(headers, body, arrived_ns)
        passing = _Passing(request)
        try:
            async with self._session.request(
                request.method,
                f"{self._upstream}{request.rel_url}",
                headers=_request_headers(request, uncompressed=exchange is not None),
                data=body or None,
                allow_redirects=False,
            ) as answer:
                response = await passing.on(answer, keep=exchange is not None)
            self._record(exchange, passing, failed=answer.status >= 300)
        except ClientError as error:
            self._record(exchange, passing, failed=True)
            return passing.broken(error)
        except (_ClientLeft, asyncio.CancelledError):
            self._record(exchange, passing, cut=True)
            raise
        return response

    def _record(self, exchange: Exchange | None, passing: _Passing, *, failed: bool = False, cut: bool = False) -> None:
        if exchange is None:
            return
        cut = cut or self._closing
        self._recording.outcomes.cut += cut
        if failed and not cut:
            self._recording.failed(exchange)
            return
        now_ns = time.monotonic_ns()
        self._later(self._recording.ended(exchange, passing.chunks, stream=passing.stream, cut=cut, now_ns=now_ns))

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class _Passing:
    """An answer on its way to the client; `chunks` of it, where they are kept."""

    def __init__(self, request: web.Request) -> None:
        self._request = request
        self._response: web.StreamResponse | None = None
        self.chunks: list[bytes] = []
        self.stream = False

    async def on(self, answer: ClientResponse, *, keep: bool) -> web.StreamResponse:
        """Pass it on to its end. Raises ClientError of the server, and _ClientLeft."""
        from aiohttp import web

        self.stream = answer.content_type == "text/event-stream"
        self._response = response = web.StreamResponse(status=answer.status, reason=answer.reason, headers=_passed(answer.headers))
        await self._to_client(response.prepare(self._request))
        async for chunk in answer.content.iter_any():
            if keep:
                self.chunks.append(chunk)
            await self._to_client(response.write(chunk))
        await self._to_client(response.write_eof())
        return response

    async def _to_client(self, writing: Coroutine[Any, Any, object]) -> None:
        try:
            await writing
        except ConnectionError as error:
            raise _ClientLeft from error

    def broken(self, error: Exception) -> web.StreamResponse:
        """What the client gets of a server that can't be reached, or broke off: then its own connection breaks, too."""
        from aiohttp import web

        if self._response is None or not self._response.prepared:
            detail = {"error": {"message": f"the upstream server can't be reached: {type(error).__name__}", "type": "upstream_error"}}
            return web.json_response(detail, status=502)
        if self._request.transport is not None:
            self._request.transport.abort()
        return self._response


def _request_headers(request: web.Request, *, uncompressed: bool) -> CIMultiDict[str]:
    headers = _passed(request.headers)
    headers.popall("Content-Length", None)
    if uncompressed:
        headers["Accept-Encoding"] = "identity"
    return headers


def _passed(headers: CIMultiDictProxy[str]) -> CIMultiDict[str]:
    """Without those that are of one connection alone."""
    dropped = _HOP_BY_HOP | {name.strip().lower() for name in headers.get("Connection", "").split(",")}
    kept = headers.copy()
    for name in {name for name in kept if name.lower() in dropped}:
        kept.popall(name)
    return kept
