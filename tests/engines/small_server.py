"""A server of one function, for answers that nobody's table has: bytes in, bytes out."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

EVENT = {"choices": [{"index": 0, "delta": {"content": "word"}, "finish_reason": None}]}
END = {"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]}
USAGE = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}}
STREAM = b"".join(b"data: %b\n\n" % json.dumps(event).encode() for event in [*[EVENT] * 4, END, USAGE]) + b"data: [DONE]\n\n"


@dataclass
class Asked:
    """One request as it came."""

    method: str
    target: str
    headers: dict[str, str]
    body: dict[str, Any]


@dataclass
class Small:
    """Where it listens, and what it was asked."""

    url: str = ""
    port: int = 0
    seen: list[Asked] = field(default_factory=list)


PAUSE_S = 0.005
Answer = Callable[[Asked], bytes | list[bytes] | None]


def page(status: str, body: Any, more: str = "", kind: str = "application/json") -> bytes:
    """A plain response."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {len(data)}\r\n{more}\r\n".encode() + data


def error(status: str, message: str) -> bytes:
    """OpenAI's form of an error."""
    return page(status, {"error": {"message": message}})


def stream() -> bytes:
    """Four tokens."""
    return page("200 OK", STREAM, kind="text/event-stream")


def models(*names: str) -> bytes:
    """The list."""
    return page("200 OK", {"object": "list", "data": [{"id": name} for name in names]})


@contextlib.asynccontextmanager
async def answering(answer: Answer) -> AsyncIterator[Small]:
    """`answer` None drops the connection; a list is written in as many parts, with a pause between them."""
    small, tasks = Small(), set[asyncio.Task[None]]()

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while (asked := await _read(reader)) is not None:
                small.seen.append(asked)
                data = answer(asked)
                if data is None:
                    break
                for part in [data] if isinstance(data, bytes) else data:
                    writer.write(part)
                    await writer.drain()
                    await asyncio.sleep(0 if part is data else PAUSE_S)
        writer.close()
        tasks.discard(task)

    server = await asyncio.start_server(converse, "127.0.0.1", 0)
    small.port = server.sockets[0].getsockname()[1]
    small.url = f"http://127.0.0.1:{small.port}"
    try:
        yield small
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _read(reader: asyncio.StreamReader) -> Asked | None:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    method, target, _ = head[0].split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Asked(method, target, headers, json.loads(body) if body else {})
