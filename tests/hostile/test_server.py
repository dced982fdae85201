"""The hostile server serves what it says; seen through a bare socket, and the standard library's client."""

from __future__ import annotations

import asyncio
import json
import ssl
import typing
import zlib

import pytest

from engines.contract import ErrorClass
from engines.http.sse import SseParser
from tests.hostile.behaviours import HONEST, SEPARATORS
from tests.hostile.server import BEHAVIOURS, TEXT, TLS_OUTCOMES, HostileServer, Settings

SMALL = Settings(pace_s=0.0001, long_line_bytes=1 << 20, bomb_bytes=4 << 20, header_bomb_bytes=1 << 18)
ENDLESS = {name for name, behaviour in BEHAVIOURS.items() if behaviour.limit}


def request_bytes(model: str, path: str = "/v1/chat/completions") -> bytes:
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "hi"}], "stream": True}).encode()
    return f"POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer canary\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


async def everything(server: HostileServer, model: str) -> bytes:
    """All bytes of one answer, asked for with nothing after it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        writer.write(request_bytes(model))
        writer.write_eof()
        return await asyncio.wait_for(reader.read(), 60)
    finally:
        writer.close()


def body_of(answer: bytes) -> bytes:
    """The body, whichever way it was framed."""
    head, _, rest = answer.partition(b"\r\n\r\n")
    while head.startswith(b"HTTP/1.1 1"):
        head, _, rest = rest.partition(b"\r\n\r\n")
    if b"chunked" not in head.lower():
        return rest
    body = b""
    while size := int(rest.partition(b"\r\n")[0].partition(b";")[0], 16):
        rest = rest.partition(b"\r\n")[2]
        body, rest = body + rest[:size], rest[size + 2 :]
    return body


def content_of(body: bytes) -> str:
    payloads = [json.loads(event.data.decode()) for event in SseParser().feed(body) if event.data != b"[DONE]"]
    return "".join(choice["delta"].get("content", "") for payload in payloads for choice in payload["choices"])


@pytest.mark.parametrize("name", [name for name, b in BEHAVIOURS.items() if b.outcome.error_class is None])
async def test_every_ok_behaviour_says_its_text(name: str) -> None:
    async with HostileServer(SMALL) as server:
        answer = await everything(server, name)
    assert content_of(body_of(answer)) == BEHAVIOURS[name].outcome.text


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("unauthorized", 401),
        ("bad_request", 400),
        ("not_found", 404),
        ("too_many_requests", 429),
        ("server_error", 500),
        ("unavailable", 503),
        ("redirect_302", 302),
        ("redirect_307", 307),
        ("html", 200),
        ("empty", 200),
    ],
)
async def test_statuses(name: str, status: int) -> None:
    async with HostileServer(SMALL) as server:
        answer = await everything(server, name)
        prefixed = await everything_at(server, f"/{name}/v1/models")
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert prefixed == answer
    assert (b"retry-after: 7" in answer) == (status == 429)
    assert (b"location: " in answer) == (status in (302, 307))


async def everything_at(server: HostileServer, path: str) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
    writer.write_eof()
    try:
        return await asyncio.wait_for(reader.read(), 60)
    finally:
        writer.close()


async def test_a_plain_get_lists_the_behaviours_and_an_unknown_one_is_404() -> None:
    async with HostileServer(SMALL) as server:
        models = json.loads(body_of(await everything_at(server, "/v1/models")))
        unknown = await everything(server, "nonsense")
        assert [seen.path for seen in server.seen] == ["/v1/models", "/v1/chat/completions"]
    assert {model["id"] for model in models["data"]} == set(BEHAVIOURS)
    assert unknown.startswith(b"HTTP/1.1 404")


async def test_the_ways_to_cut_an_answer() -> None:
    async with HostileServer(SMALL) as server:
        in_chunk = await everything(server, "cut_in_chunk")
        between = await everything(server, "cut_between_chunks")
        short = await everything(server, "short_of_length")
        nothing = await everything(server, "no_answer")
        with pytest.raises(ConnectionResetError):
            await everything(server, "reset_in_stream")
    assert in_chunk.endswith(b"400\r\ndata: {")
    assert between.endswith(b"\r\n")
    assert not between.endswith(b"0\r\n\r\n")
    assert short.endswith(HONEST[2])
    assert nothing == b""


@pytest.mark.parametrize("name", sorted(ENDLESS))
async def test_the_slow_ones_do_not_end_by_themselves(name: str) -> None:
    async with HostileServer(SMALL) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(request_bytes(name))
        await writer.drain()
        if name == "never_answers":
            while not server.seen:  # noqa: ASYNC110 - ends when the request is in
                await asyncio.sleep(0.001)
        else:
            assert (await reader.readline()).startswith((b"HTTP/1.1 200", b"HTTP/1.1 100"))
        assert not reader.at_eof()
        writer.close()


async def test_wrong_bytes_are_wrong() -> None:
    async with HostileServer(SMALL) as server:
        utf8 = SseParser().feed(body_of(await everything(server, "invalid_utf8")))
        broken = SseParser().feed(body_of(await everything(server, "malformed_json")))
        lines = SseParser().feed(body_of(await everything(server, "malformed_sse")))
        separators = SseParser().feed(body_of(await everything(server, "separators")))
        echoed = await everything(server, "echo_key")
    with pytest.raises(UnicodeDecodeError):
        utf8[3].data.decode()
    with pytest.raises(json.JSONDecodeError):
        json.loads(broken[3].data)
    assert lines == []
    assert json.loads(separators[0].data.decode())["choices"][0]["delta"]["content"] == SEPARATORS
    assert b"Bearer canary" in echoed


async def test_the_large_ones_are_as_large_as_asked() -> None:
    async with HostileServer(SMALL) as server:
        line = body_of(await everything(server, "long_line"))
        bomb = body_of(await everything(server, "bomb"))
        headers = await everything(server, "header_bomb")
        header_line = await everything(server, "header_line_bomb")
    assert len(max(line.split(b"\n"), key=len)) > SMALL.long_line_bytes
    assert len(bomb) < 10_000
    assert zlib.decompress(bomb, 31) == bytes(SMALL.bomb_bytes)
    assert len(headers) > SMALL.header_bomb_bytes
    assert header_line.count(b"\n") == 1


async def test_a_reused_connection_is_dropped_on_its_second_request() -> None:
    async with HostileServer(SMALL) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(request_bytes("drops_second_request"))
        assert (await reader.readuntil(b"0\r\n\r\n")).startswith(b"HTTP/1.1 200")
        writer.write(request_bytes("drops_second_request"))
        assert await asyncio.wait_for(reader.read(), 60) == b""
        writer.close()
        assert (server.connections, len(server.seen)) == (1, 2)


@pytest.mark.parametrize("kind", sorted(TLS_OUTCOMES))
async def test_tls(kind: str) -> None:
    async with HostileServer(SMALL, tls=kind) as server:
        context = ssl.create_default_context(cafile=None if server.ca_file is None else str(server.ca_file))
        opening = asyncio.open_connection("127.0.0.1", server.port, ssl=context)
        if kind == "good":
            reader, writer = await opening
            writer.write(request_bytes("one_write"))
            assert content_of(body_of(await reader.readuntil(b"0\r\n\r\n"))) == TEXT
            writer.close()
            return
        said = {"expired": "expired", "wrong_host": "mismatch", "unknown_authority": "unable to get"}.get(kind)
        with pytest.raises((ssl.SSLError, ConnectionError), match=said):
            await opening


def test_the_table_names_error_classes_of_the_contract() -> None:
    classes = set(typing.get_args(ErrorClass))
    assert {b.outcome.error_class for b in BEHAVIOURS.values()} <= classes | {None}
    only_elsewhere = {"name_not_found", "connection_refused", "client_limit", "stale_connection", "connect_timeout", "engine_failed", "tls"}
    only_elsewhere.add("invalid_output")  # of embeddings and rerank
    assert classes - {b.outcome.error_class for b in BEHAVIOURS.values()} == only_elsewhere
