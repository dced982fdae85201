"""One connection of the hostile server: reads requests as plainly as can be, writes whatever it is told."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from dataclasses import dataclass, field
from typing import Any

CRLF = b"\r\n"
OK_HEAD = b"HTTP/1.1 200 OK\r\n"
STREAM_FIELDS = b"content-type: text/event-stream; charset=utf-8\r\n"
CHUNKED = b"transfer-encoding: chunked\r\n"


@dataclass(frozen=True)
class Seen:
    """A request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    def model(self) -> str:
        """The model that the body asks for, or nothing."""
        try:
            asked = json.loads(self.body)
        except ValueError:
            return ""
        return str(asked.get("model", "")) if isinstance(asked, dict) else ""


@dataclass(frozen=True)
class Settings:
    """How much and how slowly: small for quick tests, large for real ones."""

    pace_s: float = 0.001  # between bytes or events of the slow ones; a real drip is 1 s
    long_line_bytes: int = 100 * 1024 * 1024
    bomb_bytes: int = 100 * 1024 * 1024  # once unpacked
    header_bomb_bytes: int = 8 * 1024 * 1024
    retry_after_s: int = 7


@dataclass
class Conn:
    """What a behaviour works with. `number` counts the requests on this connection, from 1."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    settings: Settings
    request: Seen = field(default_factory=lambda: Seen("", "", {}, b""))
    number: int = 0
    closed: bool = False

    async def read_request(self) -> bool:
        """False when the client has gone."""
        try:
            head = await self.reader.readuntil(CRLF + CRLF)
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            return False
        first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        method, path, _ = first.split(" ", 2)
        body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        self.request = Seen(method, path, headers, body)
        self.number += 1
        return True

    async def raw(self, data: bytes) -> None:
        """These bytes, in a write of their own."""
        self.writer.write(data)
        await self.writer.drain()

    async def head(self, fields: bytes = STREAM_FIELDS + CHUNKED, status: bytes = OK_HEAD) -> None:
        await self.raw(status + fields + CRLF)

    async def chunk(self, data: bytes) -> None:
        await self.raw(framed(data))

    async def end(self) -> None:
        """The end of a chunked body."""
        await self.raw(b"0\r\n\r\n")

    async def plain(self, status: str, body: bytes, content_type: str = "application/json", fields: bytes = b"") -> None:
        """A whole response with a length."""
        head = f"HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\ncontent-length: {len(body)}\r\n".encode()
        await self.raw(head + fields + CRLF + body)

    async def refuse(self, status: str, message: str, code: str = "refused", fields: bytes = b"") -> None:
        """An error in OpenAI's form."""
        await self.plain(status, json.dumps({"error": {"message": message, "type": "error", "code": code}}).encode(), fields=fields)

    async def pause(self) -> None:
        await asyncio.sleep(self.settings.pace_s)

    async def until_client_leaves(self) -> None:
        while await self.reader.read(65_536):
            pass

    async def close(self) -> None:
        """Close in the ordinary way (FIN)."""
        self.closed = True
        self.writer.close()

    async def reset(self) -> None:
        """Close at once with RST."""
        self.closed = True
        connection: Any = self.writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


def framed(data: bytes) -> bytes:
    """One HTTP chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)
