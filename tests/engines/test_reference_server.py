"""The reference server over real sockets: OpenAI's shapes, its own truth, and what it refuses."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from typing import Any

import pytest

from engines.contract import BadOption
from engines.http.sse import SseParser
from engines.reference.connection import MAX_BODY_BYTES, MAX_HEADER_BYTES
from engines.reference.engine import words
from engines.reference.server import ReferenceServer, is_loopback
from engines.reference.wire import Ask, StreamFormat, WireError, parse_ask

FAST = {"ttft_ms": "2", "itl_ms": "1"}
MS = 1_000_000


class Client:
    """A keep-alive HTTP/1.1 client of twenty lines."""

    def __init__(self, server: ReferenceServer) -> None:
        self._server = server

    async def __aenter__(self) -> Client:
        self.reader, self.writer = await asyncio.open_connection(self._server.host, self._server.port)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.writer.close()

    async def read(self) -> tuple[int, dict[str, str], bytes]:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
        if "content-length" in headers:
            body = await self.reader.readexactly(int(headers["content-length"]))
        elif headers.get("transfer-encoding") == "chunked":
            parts = []
            while size := int(await self.reader.readline(), 16):
                parts.append((await self.reader.readexactly(size + 2))[:-2])
            await self.reader.readline()
            body = b"".join(parts)
        else:
            body = await self.reader.read()
        return int(head[0].split()[1]), headers, body

    async def send(self, method: str, path: str, body: bytes = b"", headers: str = "", version: str = "1.1") -> None:
        self.writer.write(f"{method} {path} HTTP/{version}\r\nhost: x\r\ncontent-length: {len(body)}\r\n{headers}\r\n".encode() + body)
        await self.writer.drain()

    async def ask(self, *args: Any, **kwargs: Any) -> tuple[int, dict[str, str], bytes]:
        await self.send(*args, **kwargs)
        return await asyncio.wait_for(self.read(), 30)


def chat(tokens: int = 4, **more: Any) -> bytes:
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": "one two three"}], "max_tokens": tokens, **more}).encode()


def objects(stream: bytes) -> list[Any]:
    events = SseParser().feed(stream)
    assert stream.endswith(b"\n\n")
    assert events[-1].data == b"[DONE]"
    return [json.loads(event.data) for event in events[:-1]]


async def test_a_chat_stream() -> None:
    async with ReferenceServer(FAST) as server, Client(server) as client:
        body = chat(5, stream=True, stream_options={"include_usage": True}, ignore_eos=True)
        status, headers, stream = await client.ask("POST", "/v1/chat/completions", body, "x-request-id: abc\r\n")
    *said, usage = objects(stream)
    assert status == 200
    assert headers["content-type"].startswith("text/event-stream")
    assert headers["x-request-id"] == "abc"
    assert "".join(one["choices"][0]["delta"]["content"] for one in said) == words(0, 5)
    assert said[0]["choices"][0]["delta"]["role"] == "assistant"
    assert [one["choices"][0]["finish_reason"] for one in said] == [None] * 4 + ["length"]
    assert usage["choices"] == []
    assert usage["usage"] == {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}
    assert {one["model"] for one in said} == {"m"}


async def test_a_completion_stream_and_whole_answers() -> None:
    async with ReferenceServer(FAST) as server, Client(server) as client:
        prompt = json.dumps({"prompt": "a b", "max_completion_tokens": 3, "max_tokens": 9, "stream": True}).encode()
        stream = (await client.ask("POST", "/v1/completions", prompt))[2]
        text = json.loads((await client.ask("POST", "/v1/completions", json.dumps({"prompt": [[1, 2], [3]]}).encode()))[2])
        whole = json.loads((await client.ask("POST", "/v1/chat/completions", chat(6)))[2])
    assert "".join(one["choices"][0]["text"] for one in objects(stream)) == words(0, 3)
    assert (text["choices"][0]["text"], text["usage"]["prompt_tokens"]) == (words(0, 16), 3)
    assert whole["choices"][0]["message"] == {"role": "assistant", "content": words(0, 6)}


@pytest.mark.parametrize("chunked", [True, False])
@pytest.mark.parametrize(("per_event", "per_write"), [(1, 1), (1, 1000), (3, 1), (3, 2), (100, 100)])
@pytest.mark.parametrize("is_chat", [True, False])
def test_every_cut_of_an_answer_says_the_same(is_chat: bool, per_event: int, per_write: int, chunked: bool) -> None:
    ask = Ask(chat=is_chat, model='a "quoted" \u2028 name', prompt_tokens=2, tokens=20, stream=True, include_usage=True)
    made = StreamFormat(ask, 7, per_event, per_write, chunked)
    stream = b"".join(made.step(i) for i in range(-(-20 // made.tokens_per_step)))
    if chunked:
        rest, stream = stream, b""
        while rest != b"0\r\n\r\n":
            size, _, rest = rest.partition(b"\r\n")
            stream += rest[: int(size, 16)]
            assert rest[int(size, 16) : int(size, 16) + 2] == b"\r\n"
            rest = rest[int(size, 16) + 2 :]
    *said, usage = objects(stream)
    texts = [one["choices"][0]["delta"]["content"] if is_chat else one["choices"][0]["text"] for one in said]
    assert "".join(texts) == words(0, 20)
    assert len(texts) == -(-20 // per_event)
    assert usage["usage"]["completion_tokens"] == 20
    assert said[-1]["choices"][0]["finish_reason"] == "length"


async def test_it_tells_the_truth_about_itself() -> None:
    async with ReferenceServer(FAST) as server, Client(server) as client:
        await client.ask("POST", "/v1/chat/completions", chat(8, stream=True), "x-request-id: mine\r\n")
        stats = json.loads((await client.ask("GET", "/stats"))[2])
        await client.ask("POST", "/reset")
        empty = json.loads((await client.ask("GET", "/stats"))[2])
    account = stats["requests"]["mine"]
    assert account["first_write_ns"] - account["arrival_ns"] >= 2 * MS
    assert account["last_write_ns"] - account["arrival_ns"] >= 9 * MS
    assert (account["tokens"], account["status"], account["done"]) == (8, 200, True)
    assert stats["totals"]["tokens"] == stats["totals"]["writes"] == stats["write_error_us"]["count"] == 8
    assert 0 <= stats["write_error_us"]["p50"] <= stats["write_error_us"]["max"]
    assert (stats["options"]["ttft_ms"], stats["load"]["running"]) == (2.0, 0)
    assert (empty["requests"], empty["totals"]["requests"]) == ({}, 0)


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with ReferenceServer({"ttft_ms": "0", "itl_ms": "0", "slots": "1"}) as server, Client(server) as client:
        body = chat(2, stream=True)
        for i in range(300):
            client.writer.write(
                f"POST /v1/chat/completions HTTP/1.1\r\nx-request-id: r{i}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body
            )
        answers = [await client.read() for _ in range(300)]
    assert [headers["x-request-id"] for _, headers, _ in answers] == [f"r{i}" for i in range(300)]
    assert all(len(objects(stream)) == 2 for _, _, stream in answers)


async def test_a_slow_reader_gets_everything_and_is_not_buffered_without_bound() -> None:
    async with ReferenceServer({"ttft_ms": "0", "itl_ms": "0"}) as server, Client(server) as client:
        client.writer.transport.pause_reading()
        await client.send("POST", "/v1/chat/completions", chat(100_000, stream=True))
        (connection,) = server.connections
        while connection._job is None or not connection._job.parked:  # noqa: ASYNC110 - ends when the socket is full
            await asyncio.sleep(0.005)
        assert connection._transport.get_write_buffer_size() < 1 << 20
        client.writer.transport.resume_reading()
        _, _, stream = await asyncio.wait_for(client.read(), 60)
    assert len(objects(stream)) == 100_000


async def test_a_client_that_leaves_frees_its_slot() -> None:
    async with ReferenceServer({"ttft_ms": "60000", "slots": "1"}) as server:
        async with Client(server) as client:
            await client.send("POST", "/v1/chat/completions", chat(stream=True))
            await client.reader.readuntil(b"\r\n\r\n")
            assert server.schedule.running == 1
        while server.connections:  # noqa: ASYNC110 - ends with the connection
            await asyncio.sleep(0.005)
        assert (server.schedule.running, server.truth.aborted) == (0, 1)


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("POST", "/v1/chat/completions", b"{", 400, "invalid_request"),
        ("POST", "/v1/chat/completions", b"\xff\xfe", 400, "invalid_request"),
        ("POST", "/v1/chat/completions", b"[]", 400, "invalid_request"),
        ("POST", "/v1/chat/completions", b'{"messages":[]}', 400, "invalid_request"),
        ("POST", "/v1/chat/completions", chat(0), 400, "invalid_request"),
        ("POST", "/v1/chat/completions", chat(200_000), 400, "context_length_exceeded"),
        ("POST", "/v1/completions", b'{"messages":[]}', 400, "invalid_request"),
        ("GET", "/v1/completions", b"", 405, "method_not_allowed"),
        ("DELETE", "/stats", b"", 405, "method_not_allowed"),
        ("GET", "/nowhere", b"", 404, "not_found"),
    ],
)
async def test_refusals_are_json_and_keep_the_connection(method: str, path: str, body: bytes, status: int, code: str) -> None:
    async with ReferenceServer(FAST) as server, Client(server) as client:
        answer = await client.ask(method, path, body)
        assert answer[0] == status
        assert json.loads(answer[2])["error"]["code"] == code
        assert (await client.ask("GET", "/health"))[0] == 200


@pytest.mark.parametrize("how", ["declared", "chunked"])
async def test_a_body_over_the_cap_is_413(how: str) -> None:
    async with ReferenceServer(FAST) as server, Client(server) as client:
        if how == "declared":
            client.writer.write(b"POST /v1/completions HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % (MAX_BODY_BYTES + 1))
        else:
            client.writer.write(b"POST /v1/completions HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n")
            client.writer.write((b"10000\r\n" + b"x" * 65_536 + b"\r\n") * 17)
        status, headers, _ = await asyncio.wait_for(client.read(), 30)
    assert (status, headers["connection"]) == (413, "close")


async def test_a_header_bomb_is_431_and_no_http_is_400() -> None:
    async with ReferenceServer(FAST) as server:
        async with Client(server) as client:
            client.writer.write(b"GET / HTTP/1.1\r\nx: " + b"y" * (MAX_HEADER_BYTES + 10))
            assert (await asyncio.wait_for(client.read(), 30))[0] == 431
        async with Client(server) as client:
            client.writer.write(b"\x16\x03\x01\x02\x00\x01\x00 hello\r\n\r\n")
            assert (await asyncio.wait_for(client.read(), 30))[0] == 400


async def test_large_bodies_on_one_connection_are_not_taken_for_headers() -> None:
    async with ReferenceServer({"ttft_ms": "0", "itl_ms": "0"}) as server, Client(server) as client:
        body = json.dumps({"prompt": "word " * 100_000, "max_tokens": 1}).encode()
        for _ in range(3):
            status, _, answer = await client.ask("POST", "/v1/completions", body)
            assert status == 200
            assert json.loads(answer)["usage"]["prompt_tokens"] == 100_000


async def test_http_1_0_and_connection_close_and_expect() -> None:
    async with ReferenceServer(FAST) as server:
        async with Client(server) as client:
            _, headers, stream = await client.ask("POST", "/v1/chat/completions", chat(3, stream=True), version="1.0")
            assert headers["connection"] == "close"
            assert len(objects(stream)) == 3
        async with Client(server) as client:
            _, headers, stream = await client.ask("POST", "/v1/chat/completions", chat(3, stream=True), "connection: close\r\n")
            assert len(objects(stream)) == 3
            assert await client.reader.read() == b""
        async with Client(server) as client:
            await client.send("POST", "/v1/chat/completions", headers="expect: 100-continue\r\n", version="1.1")
            assert await client.reader.readline() == b"HTTP/1.1 100 Continue\r\n"


async def test_models_health_and_every_nth_failure() -> None:
    async with ReferenceServer({**FAST, "fail_every": "2", "max_model_len": "99"}) as server, Client(server) as client:
        models = json.loads((await client.ask("GET", "/v1/models"))[2])
        statuses = [(await client.ask("POST", "/v1/chat/completions", chat(1)))[0] for _ in range(4)]
    assert models["data"][0]["max_model_len"] == 99
    assert statuses == [200, 500, 200, 500]


async def test_the_key_is_required_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFERENCE_KEY", "canary-key")
    async with ReferenceServer({**FAST, "require_key_env": "REFERENCE_KEY"}) as server, Client(server) as client:
        assert (await client.ask("GET", "/v1/models"))[0] == 401
        assert (await client.ask("GET", "/stats", headers="authorization: Bearer canary\r\n"))[0] == 401
        assert (await client.ask("GET", "/health"))[0] == 200
        status, _, stats = await client.ask("GET", "/stats", headers="authorization: Bearer canary-key\r\n")
    assert status == 200
    assert b"canary" not in stats


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"require_key_env": "REFERENCE_KEY_UNSET"}, "REFERENCE_KEY_UNSET"),
        ({"itl_ms": "-3"}, "itl_ms='-3'"),
        ({"events_per_write": "0"}, "events_per_write='0'"),
        ({"event_per_write": "1"}, "events_per_write"),
    ],
)
def test_bad_options(options: dict[str, str], said: str) -> None:
    with pytest.raises(BadOption, match=said):
        ReferenceServer(options)


async def test_a_port_in_use_is_an_os_error() -> None:
    async with ReferenceServer(FAST) as server:
        with pytest.raises(OSError, match="address already in use"):
            async with ReferenceServer(FAST, port=server.port):
                pass


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("::", False), ("my.host", False)],
)
def test_what_counts_as_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_context_error_names_the_numbers() -> None:
    with pytest.raises(WireError, match="maximum context length is 10 tokens; asked for 3 in the prompt and 8 in the answer"):
        parse_ask(chat(8), chat=True, max_model_len=10)


def test_serve_prints_its_url_warns_off_loopback_and_ends_on_sigterm() -> None:
    code = "from engines.reference.server import serve; serve('0.0.0.0', 0, {})"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("http://0.0.0.0:")
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "WARNING: 0.0.0.0 is not loopback" in errors
    assert "Traceback" not in errors
