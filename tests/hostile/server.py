"""A server that misbehaves on request, on a port of its own.

    async with HostileServer() as server:
        # POST {server.url}/v1/chat/completions with "model": "reset_in_stream", or
        # anything, GET included, under {server.url}/reset_in_stream/

The behaviours and what a correct client makes of each: `BEHAVIOURS`. What was received is kept in
`server.seen`. A path prefix outranks the model name; a GET without prefix gets an honest answer, so
that a client can look at `/v1/models` first. With `tls=` it speaks TLS with a certificate of that
kind (`TLS_OUTCOMES`), and `ca_file` is the authority that a client should trust.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

from tests.hostile.behaviours import BEHAVIOURS, OK, TEXT, TOKENS, Behaviour, Outcome, fails
from tests.hostile.certificates import Kind, make_certificates
from tests.hostile.connection import Conn, Seen, Settings

__all__ = ["BEHAVIOURS", "TEXT", "TLS_OUTCOMES", "TOKENS", "Behaviour", "HostileServer", "Outcome", "Settings"]

TLS_OUTCOMES: dict[str, Outcome] = {
    "good": OK,
    "expired": fails("tls"),
    "wrong_host": fails("tls"),
    "unknown_authority": fails("tls"),
    "cut": fails("tls"),
}
"""`cut`: the connection closes in the middle of the handshake."""

Converse = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

_HALF_A_SERVER_HELLO = bytes.fromhex("160303007a020000760303") + bytes(20)


class HostileServer:
    """Listens on loopback while the block lasts; everything still open at its end is cut off."""

    def __init__(self, settings: Settings | None = None, tls: str | None = None) -> None:
        if tls is not None and tls not in TLS_OUTCOMES:
            raise ValueError(f"tls={tls!r}: one of {', '.join(TLS_OUTCOMES)}")
        self.settings = settings or Settings()
        self.seen: list[Seen] = []
        self.connections = 0
        self.port = 0
        self.ca_file: Path | None = None
        self._tls = tls
        self._tasks: set[asyncio.Task[None]] = set()
        self._folder = contextlib.ExitStack()
        self._listener: asyncio.Server | None = None

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    async def __aenter__(self) -> HostileServer:
        context = None
        if self._tls not in (None, "cut"):
            context = self._make_context(self._tls)
        handle = self._cut_handshake if self._tls == "cut" else self._converse
        self._listener = await asyncio.start_server(self._tracked(handle), "127.0.0.1", 0, ssl=context, limit=1 << 24)
        self.port = self._listener.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        assert self._listener is not None
        self._listener.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._folder.close()

    def _make_context(self, kind: Kind) -> ssl.SSLContext:
        folder = Path(self._folder.enter_context(tempfile.TemporaryDirectory()))
        made = make_certificates(folder, kind)
        self.ca_file = made.ca_file
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(made.certificate_file, made.key_file)
        return context

    def _tracked(self, handle: Converse) -> Converse:
        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.connections += 1
            task = asyncio.current_task()
            assert task is not None
            self._tasks.add(task)
            try:
                with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError, ssl.SSLError):
                    await handle(reader, writer)
            finally:
                self._tasks.discard(task)
                writer.close()

        return connected

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        conn = Conn(reader, writer, self.settings)
        while not conn.closed and await conn.read_request():
            self.seen.append(conn.request)
            await self._answer(conn)

    async def _answer(self, conn: Conn) -> None:
        prefix = conn.request.path.split("/")[1]
        if prefix in BEHAVIOURS:
            await BEHAVIOURS[prefix].act(conn)
        elif conn.request.method == "GET":
            models = [{"id": name, "object": "model", "created": 1, "owned_by": "hostile"} for name in BEHAVIOURS]
            await conn.plain("200 OK", json.dumps({"object": "list", "data": models}).encode())
        elif (model := conn.request.model()) in BEHAVIOURS:
            await BEHAVIOURS[model].act(conn)
        else:
            await conn.refuse("404 Not Found", f"no behaviour is called {model!r}", "model_not_found")

    async def _cut_handshake(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(5)
        writer.write(_HALF_A_SERVER_HELLO)
        await writer.drain()
