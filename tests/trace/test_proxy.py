"""The recording proxy in front of servers that stream, fail, hang and answer at once; everything on loopback."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from bytemlperf_llm.trace.proxy import RecordingProxy
from bytemlperf_llm.trace.recording import Recording
from engines.reference.server import ReferenceServer
from tests.engines.small_server import Asked, answering, page
from tests.hostile.server import HostileServer, Settings

FAST = {"ttft_ms": "2", "itl_ms": "1"}
SECRET = "sk-very-secret-key"


class Proxied:
    """A client behind the proxy."""

    def __init__(self, upstream: str, path: Path, tokenizer: str | None, keep_text: bool, block_tokens: int) -> None:
        self.path = path
        self.recording = Recording(path.open("xb"), tokenizer, block_tokens, keep_text=keep_text)
        self.proxy = RecordingProxy(upstream, 0, self.recording)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.proxy.port}"

    async def ask(self, body: Any, path: str = "/v1/chat/completions", **headers: str) -> tuple[int, bytes]:
        headers = {"Authorization": f"Bearer {SECRET}"} | headers
        async with aiohttp.ClientSession() as session, session.post(self.url + path, json=body, headers=headers) as answer:
            return answer.status, await answer.read()

    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.path.read_bytes().splitlines()]


@asynccontextmanager
async def proxied(
    upstream: str, tmp_path: Path, *, tokenizer: str | None = "words", keep_text: bool = False, block_tokens: int = 4
) -> AsyncIterator[Proxied]:
    """Ends with everything written."""
    client = Proxied(upstream, tmp_path / "trace.jsonl", tokenizer, keep_text, block_tokens)
    await client.proxy.start()
    try:
        yield client
    finally:
        await client.proxy.close()
        client.recording.rows.close()


@asynccontextmanager
async def streaming(client: Proxied, body: Any) -> AsyncIterator[aiohttp.ClientResponse]:
    async with aiohttp.ClientSession() as session, session.post(f"{client.url}/v1/chat/completions", json=body) as answer:
        yield answer


def chat(*texts: str, tokens: int = 3, **more: Any) -> dict[str, Any]:
    messages = [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(texts)]
    return {"model": "m", "messages": messages, "max_tokens": tokens, "stream": True, **more}


async def test_a_conversation_becomes_rows_of_a_session(tmp_path: Path) -> None:
    async with ReferenceServer(FAST) as server, proxied(server.url + "/v1", tmp_path) as client:
        await client.ask(chat("a b c d e"))
        await client.ask(chat("other one", tokens=5))
        await client.ask(chat("a b c d e", "yes", "more", stream=False))
        await client.ask({"prompt": "a b c d e", "max_tokens": 2, "stream": True}, "/v1/completions", **{"X-Session-ID": "Ann"})
    rows = client.rows()
    assert [(row["session_id"], row["input_length"], row["output_length"], row["hash_ids"]) for row in rows] == [
        ("session-1", 5, 3, [0, 1]),
        ("session-2", 2, 5, [2]),
        ("session-1", 7, 3, [0, 3]),
        ("session-3", 5, 2, [0, 1]),
    ]
    assert [row["timestamp"] for row in rows] == sorted(row["timestamp"] for row in rows)
    assert [row.get("delay") is not None for row in rows] == [False, False, True, False]
    written = client.path.read_text()
    assert not any(word in written for word in ("yes", SECRET, "Ann", "messages", "text_input"))


async def test_texts_are_kept_on_request_alone_and_never_a_key(tmp_path: Path) -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    async with ReferenceServer(FAST) as server, proxied(server.url, tmp_path, keep_text=True) as client:
        await client.ask(chat("a b", tools=tools))
        await client.ask({"prompt": "c", "max_tokens": 1}, "/v1/completions")
    first, second = client.rows()
    assert (first["messages"], first["tools"], second["text_input"]) == ([{"role": "user", "content": "a b"}], tools, "c")
    assert SECRET not in client.path.read_text()


async def test_chunks_are_passed_on_as_they_come(tmp_path: Path) -> None:
    """The server holds back the end of its answer until the client says that it has the beginning."""
    seen = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        event = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        writer.write(b"%x\r\n%b\r\n" % (len(event), event))
        await seen.wait()
        end = event + b"data: [DONE]\n\n"
        writer.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(end), end))
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listener:
        upstream = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        async with proxied(upstream, tmp_path) as client, streaming(client, chat("x y")) as answer:
            first = await asyncio.wait_for(answer.content.readany(), 30)
            seen.set()
            rest = await answer.read()
    assert first.count(b"data:") == 1
    assert rest.endswith(b"data: [DONE]\n\n")
    assert [(row["input_length"], row["output_length"]) for row in client.rows()] == [(2, 2)], "counted where the server doesn't"


@pytest.mark.parametrize("name", ["server_error", "too_many_requests", "reset_in_stream", "error_in_stream"])
async def test_failures_are_passed_on_and_counted(tmp_path: Path, name: str) -> None:
    async with HostileServer(Settings(pace_s=0.0005)) as server, proxied(server.url, tmp_path) as client:
        direct, through = [], []
        for url, told in ((server.url, direct), (client.url, through)):
            async with aiohttp.ClientSession() as session:
                try:
                    async with session.post(f"{url}/v1/chat/completions", json=chat("x", model=name)) as answer:
                        told.append(answer.status)
                        told.append(await answer.read())
                except aiohttp.ClientError as error:
                    told.append(isinstance(error, aiohttp.ClientPayloadError | aiohttp.ClientOSError))
        assert through == direct
    assert client.recording.outcomes.failed == 1
    assert client.rows() == []


async def test_a_server_that_is_not_there_is_502(tmp_path: Path) -> None:
    async with proxied("http://127.0.0.1:9", tmp_path) as client:
        status, answer = await client.ask(chat("x"))
    assert (status, json.loads(answer)["error"]["type"]) == (502, "upstream_error")
    assert client.recording.outcomes.failed == 1


async def test_a_client_that_leaves_ends_its_request_at_the_server(tmp_path: Path) -> None:
    ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
        writer.write(b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n')
        await reader.read()
        while not reader.at_eof():
            await reader.read(1000)
        ended.set()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listener:
        upstream = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        async with proxied(upstream, tmp_path) as client:
            async with streaming(client, chat("x y z")) as answer:
                await answer.content.readany()
                answer.close()
            await asyncio.wait_for(ended.wait(), 30)
    assert client.recording.outcomes.cut == 1
    assert [(row["input_length"], row["output_length"]) for row in client.rows()] == [(3, 1)], "what was generated was load"


async def test_other_paths_and_bodies_are_passed_on_unread(tmp_path: Path) -> None:
    async with ReferenceServer(FAST) as server, proxied(server.url, tmp_path) as client, aiohttp.ClientSession() as session:
        async with session.get(f"{client.url}/v1/models?x=1") as through, session.get(f"{server.url}/v1/models?x=1") as direct:
            assert (through.status, await through.read()) == (direct.status, await direct.read())
        async with session.post(f"{client.url}/v1/chat/completions", data=b"{") as answer:
            assert answer.status == 400
    assert client.recording.outcomes.unreadable == 1
    assert client.rows() == []


async def test_words_stand_for_tokens_where_no_tokenizer_is_known(tmp_path: Path) -> None:
    """Three tokens for two words: blocks of six tokens are four words."""

    def counting(asked: Asked) -> bytes:
        words = len(asked.body["messages"][0]["content"].split())
        usage = {"prompt_tokens": words * 3 // 2, "completion_tokens": 7}
        return page("200 OK", {"choices": [{"message": {"content": "x"}}], "usage": usage})

    async with answering(counting) as server, proxied(server.url, tmp_path, tokenizer=None, block_tokens=6) as client:
        for tail in "xy":
            await client.ask(chat(f"a b c d e {tail}"))
    assert not client.recording.exact
    assert [(row["input_length"], row["output_length"], row["hash_ids"]) for row in client.rows()] == [(9, 7, [0, 1]), (9, 7, [0, 2])]
