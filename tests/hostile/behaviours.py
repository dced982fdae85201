"""Everything a server can do to a client, by name, with what a correct client makes of it.

`BEHAVIOURS` is the table: a behaviour acts on one request; its outcome is what must be recorded for
that request. An honest answer is the four tokens of `TOKENS`, the first event announcing the role.
"""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from engines.contract import ErrorClass
from tests.hostile.connection import CHUNKED, CRLF, OK_HEAD, STREAM_FIELDS, Conn, framed

TOKENS = ("Hel", "lo", " wor", "ld")
TEXT = "".join(TOKENS)
DONE = b"data: [DONE]\n\n"

Act = Callable[[Conn], Awaitable[None]]
Limit = Literal["first_token", "idle", "total"]


@dataclass(frozen=True)
class Outcome:
    """What a correct client records. `error_class` None: ok, with `text` and `tokens`."""

    error_class: ErrorClass | None = None
    tokens: int | None = None
    text: str | None = None
    retry_after_s: float | None = None


@dataclass(frozen=True)
class Behaviour:
    """`limit` names the timeout that must be set for the request to end. `note` says why it is so."""

    act: Act
    outcome: Outcome
    limit: Limit | None = None
    note: str = ""


def data(payload: Any, end: bytes = b"\n") -> bytes:
    """One event."""
    return b"data: " + json.dumps(payload, ensure_ascii=False).encode() + end * 2


def delta(content: str, reason: str | None = None, **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": {"content": content}, "finish_reason": reason}
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "hostile", "choices": [choice], **more}


def usage(completion_tokens: int) -> dict[str, Any]:
    counts = {"prompt_tokens": 5, "completion_tokens": completion_tokens, "total_tokens": 5 + completion_tokens}
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "hostile", "choices": [], "usage": counts}


def role() -> bytes:
    choice = {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
    return data({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "hostile", "choices": [choice]})


def said(texts: Iterable[str] = TOKENS) -> list[bytes]:
    return [data(delta(text)) for text in texts]


FINISH = data(delta("", "stop"))
HONEST = [role(), *said(), FINISH, data(usage(4)), DONE]


def events(*parts: bytes) -> Act:
    """A chunked stream, one write for each part."""

    async def act(conn: Conn) -> None:
        await conn.head()
        for part in parts:
            await conn.chunk(part)
            await asyncio.sleep(0)
        await conn.end()

    return act


def relined(end: bytes) -> Act:
    return events(*(part.replace(b"\n", end) for part in HONEST))


def refusal(status: str, message: str, code: str = "refused") -> Act:
    async def act(conn: Conn) -> None:
        await conn.refuse(status, message, code)

    return act


async def too_many_requests(conn: Conn) -> None:
    await conn.refuse("429 Too Many Requests", "slow down", fields=b"retry-after: %d\r\n" % conn.settings.retry_after_s)


def redirect(status: str) -> Act:
    async def act(conn: Conn) -> None:
        await conn.plain(status, b"", fields=b"location: /honest/v1/chat/completions\r\n")

    return act


async def html(conn: Conn) -> None:
    await conn.plain("200 OK", b"<!doctype html><title>Welcome to the proxy</title>", "text/html; charset=utf-8")


async def json_instead(conn: Conn) -> None:
    message = {"role": "assistant", "content": TEXT}
    answer = {
        "object": "chat.completion",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": usage(4)["usage"],
    }
    await conn.plain("200 OK", json.dumps(answer).encode())


async def echo_key(conn: Conn) -> None:
    await conn.refuse("401 Unauthorized", f"bad key: {conn.request.headers.get('authorization', '')}")


async def echo_key_in_stream(conn: Conn) -> None:
    error = {"error": {"message": f"bad key: {conn.request.headers.get('authorization', '')}", "code": 401}}
    await events(role(), data(error))(conn)


async def cut_in_chunk(conn: Conn) -> None:
    await conn.head()
    await conn.chunk(b"".join(HONEST[:3]))
    await conn.raw(b"400\r\ndata: {")
    await conn.close()


async def cut_between_chunks(conn: Conn) -> None:
    await conn.head()
    await conn.chunk(b"".join(HONEST[:3]))
    await conn.close()


async def reset_in_stream(conn: Conn) -> None:
    await conn.head()
    await conn.chunk(b"".join(HONEST[:3]))
    await conn.pause()
    await conn.reset()


async def no_answer(conn: Conn) -> None:
    await conn.close()


async def never_answers(conn: Conn) -> None:
    await conn.until_client_leaves()


async def header_then_silence(conn: Conn) -> None:
    await conn.head()
    await conn.until_client_leaves()


async def pings_only(conn: Conn) -> None:
    await conn.head()
    while not conn.writer.is_closing():
        await conn.chunk(b": ping\n\n")
        await conn.pause()


async def stall(conn: Conn) -> None:
    await conn.head()
    await conn.chunk(b"".join(HONEST[:3]))
    await conn.until_client_leaves()


async def endless(conn: Conn) -> None:
    await conn.head()
    while not conn.writer.is_closing():
        await conn.chunk(data(delta("more ")))
        await conn.pause()


async def drip(conn: Conn) -> None:
    for byte in OK_HEAD + STREAM_FIELDS + CHUNKED + CRLF + b"".join(map(framed, HONEST)) + b"0\r\n\r\n":
        await conn.raw(bytes([byte]))
        await conn.pause()


async def every_byte(conn: Conn) -> None:
    await conn.head()
    for byte in b"".join(HONEST):
        await conn.chunk(bytes([byte]))
        await asyncio.sleep(0)
    await conn.end()


async def long_line(conn: Conn) -> None:
    await conn.head()
    await conn.chunk(role() + b'data: {"choices":[{"delta":{"content":"')
    block = framed(b"x" * 65_536)
    for _ in range(conn.settings.long_line_bytes // 65_536):
        await conn.raw(block)
    await conn.chunk(b'"}}]}\n\n' + FINISH + DONE)
    await conn.end()


async def bomb(conn: Conn) -> None:
    await conn.head(STREAM_FIELDS + CHUNKED + b"content-encoding: gzip\r\n")
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    for _ in range(conn.settings.bomb_bytes // 1_048_576):
        if packed := packer.compress(bytes(1_048_576)):
            await conn.chunk(packed)
    await conn.chunk(packer.flush())
    await conn.end()


async def gzip(conn: Conn) -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    packed = packer.compress(b"".join(HONEST)) + packer.flush()
    await conn.plain("200 OK", packed, "text/event-stream", b"content-encoding: gzip\r\n")


async def header_bomb(conn: Conn) -> None:
    await conn.raw(OK_HEAD)
    for i in range(conn.settings.header_bomb_bytes // 1_024):
        await conn.raw(f"x-{i:08d}: ".encode() + b"y" * 1_010 + CRLF)
    await conn.raw(STREAM_FIELDS + CRLF)
    await conn.close()


async def header_line_bomb(conn: Conn) -> None:
    await conn.raw(OK_HEAD + b"x-bomb: ")
    for _ in range(conn.settings.header_bomb_bytes // 65_536):
        await conn.raw(b"y" * 65_536)
    await conn.close()


async def empty(conn: Conn) -> None:
    await conn.plain("200 OK", b"", "text/event-stream")


async def empty_chunked(conn: Conn) -> None:
    await conn.head()
    await conn.end()


async def with_length(conn: Conn) -> None:
    await conn.plain("200 OK", b"".join(HONEST), "text/event-stream")


async def short_of_length(conn: Conn) -> None:
    await conn.raw(OK_HEAD + STREAM_FIELDS + b"content-length: 100000\r\n\r\n" + b"".join(HONEST[:3]))
    await conn.close()


def until_close(*parts: bytes) -> Act:
    async def act(conn: Conn) -> None:
        await conn.head(STREAM_FIELDS + b"connection: close\r\n")
        for part in parts:
            await conn.raw(part)
        await conn.close()

    return act


async def endless_interim(conn: Conn) -> None:
    """As fast as it goes: the client must neither parse them again and again nor keep them."""
    while not conn.writer.is_closing():
        await conn.raw(b"HTTP/1.1 100 Continue\r\n\r\n" * 40)
        await asyncio.sleep(0)


async def one_write(conn: Conn) -> None:
    await conn.raw(OK_HEAD + STREAM_FIELDS + CHUNKED + CRLF + framed(b"".join(HONEST)) + b"0\r\n\r\n")


async def informational(conn: Conn) -> None:
    await conn.raw(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </x>; rel=preload\r\n\r\n")
    await one_write(conn)


async def odd_framing(conn: Conn) -> None:
    """Chunk extensions, leading zeros, capitals and trailers are all allowed."""
    await conn.raw(b"HTTP/1.1 200\r\nContent-Type:text/event-stream\r\nTRANSFER-ENCODING:  Chunked \r\n\r\n")
    for part in HONEST:
        await conn.raw(b'%08X;name="value"\r\n%b\r\n' % (len(part), part))
    await conn.raw(b"000\r\nx-trailer: 1\r\nx-other: 2\r\n\r\n")


async def bad_chunk_size(conn: Conn) -> None:
    await conn.head()
    await conn.chunk(b"".join(HONEST[:3]))
    await conn.raw(b"zz\r\ndata: {}\n\n\r\n0\r\n\r\n")
    await conn.close()


async def not_http(conn: Conn) -> None:
    await conn.raw(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")
    await conn.close()


async def closes_after_answer(conn: Conn) -> None:
    await one_write(conn)
    await conn.close()


async def drops_second_request(conn: Conn) -> None:
    if conn.number == 1:
        await one_write(conn)
    else:
        await conn.close()


def mangled(content: bytes) -> bytes:
    """A token event whose content is exactly these bytes."""
    return data(delta("@")).replace(b"@", content)


OK = Outcome(tokens=4, text=TEXT)
SEPARATORS = "a\u2028b\u2029c\u0085d\x7f"


def fails(error_class: ErrorClass) -> Outcome:
    return Outcome(error_class)


TOO_LONG = "This model's maximum context length is 16 tokens. However, you requested 99 tokens."
FAILURE = {"error": {"message": "out of memory", "type": "server_error", "code": 500}}
WITH_USAGE = [data({**delta(text), "usage": usage(i + 1)["usage"]}) for i, text in enumerate(TOKENS)]

BEHAVIOURS: dict[str, Behaviour] = {
    # honest, in every permitted form
    "honest": Behaviour(events(*HONEST), OK),
    "one_write": Behaviour(one_write, OK),
    "every_byte": Behaviour(every_byte, OK),
    "drip": Behaviour(drip, OK, note="bytes keep coming, so no idle timeout; pace_s=1 is the real thing"),
    "crlf": Behaviour(relined(b"\r\n"), OK),
    "cr": Behaviour(relined(b"\r"), OK),
    "comments": Behaviour(events(b": ping\n\n", *(part + b": ping\n\n" for part in HONEST)), OK),
    "no_space": Behaviour(events(*(part.replace(b"data: ", b"data:", 1) for part in HONEST)), OK),
    "event_lines": Behaviour(events(*(b"event: message\nid: 1\n" + part for part in HONEST)), OK),
    "bom": Behaviour(events(b"\xef\xbb\xbf", *HONEST), OK),
    "split_data_lines": Behaviour(events(*(part.replace(b', "', b',\ndata: "') for part in HONEST)), OK),
    "separators": Behaviour(events(mangled(SEPARATORS.encode()), FINISH, data(usage(1)), DONE), Outcome(tokens=1, text=SEPARATORS)),
    "batched": Behaviour(
        events(data(delta(TEXT[:5])), data(delta(TEXT[5:], "stop")), data(usage(4)), DONE), OK, note="several tokens an event: usage counts"
    ),
    "usage_twice": Behaviour(events(*HONEST[:-1], data(usage(4)), DONE), OK, note="the last one counts, not the sum"),
    "usage_every_event": Behaviour(events(*WITH_USAGE, FINISH, data(usage(4)), DONE), OK, note="continuous usage is cumulative"),
    "usage_null": Behaviour(events(*(data(delta(t, usage=None)) for t in TOKENS), FINISH, DONE), OK, note="no usage: chunks are counted"),
    "no_done_but_finished": Behaviour(events(*HONEST[:-1]), OK),
    "no_last_blank_line": Behaviour(events(*HONEST[:-1], b"data: [DONE]"), OK),
    "with_length": Behaviour(with_length, OK),
    "until_close": Behaviour(until_close(*HONEST), OK),
    "informational": Behaviour(informational, OK),
    "odd_framing": Behaviour(odd_framing, OK),
    "closes_after_answer": Behaviour(closes_after_answer, OK, note="unannounced; the next request must not fail"),
    "odd_usage": Behaviour(events(*HONEST[:-2], data({**usage(4), "usage": {"completion_tokens": "4.0", "prompt_tokens": -3}}), DONE), OK),
    "usage_of_a_billion": Behaviour(events(*HONEST[:-2], data(usage(10**9)), DONE), OK, note="no text has so many tokens"),
    "usage_zero": Behaviour(events(*HONEST[:-2], data(usage(0)), DONE), OK, note="nobody counted"),
    "usage_too_small": Behaviour(events(*HONEST[:-2], data(usage(1)), DONE), OK, note="an event with text was a token when it came"),
    "empty_around": Behaviour(events(data(delta("")), *HONEST[:-2], data(delta("")), DONE), OK, note="no tokens"),
    # refused
    "unauthorized": Behaviour(refusal("401 Unauthorized", "no such key"), fails("http_4xx")),
    "bad_request": Behaviour(refusal("400 Bad Request", "no"), fails("http_4xx")),
    "not_found": Behaviour(refusal("404 Not Found", "no such model"), fails("http_4xx")),
    "context_length": Behaviour(refusal("400 Bad Request", TOO_LONG, "context_length_exceeded"), fails("context_length")),
    "too_many_requests": Behaviour(too_many_requests, Outcome("http_429", retry_after_s=7.0)),
    "server_error": Behaviour(refusal("500 Internal Server Error", "oops"), fails("http_5xx")),
    "unavailable": Behaviour(refusal("503 Service Unavailable", "later"), fails("http_5xx")),
    "echo_key": Behaviour(echo_key, fails("http_4xx"), note="the key must appear nowhere"),
    "redirect_302": Behaviour(redirect("302 Found"), fails("redirect")),
    "redirect_307": Behaviour(redirect("307 Temporary Redirect"), fails("redirect")),
    # not what was asked for
    "html": Behaviour(html, fails("not_a_stream")),
    "json_instead": Behaviour(json_instead, fails("not_a_stream"), note="a whole answer can't be timed by token"),
    "empty": Behaviour(empty, fails("empty_response")),
    "empty_chunked": Behaviour(empty_chunked, fails("empty_response")),
    "bomb": Behaviour(bomb, fails("content_encoding"), note="identity was asked for; never unpacked"),
    "gzip": Behaviour(gzip, fails("content_encoding")),
    # broken
    "error_in_stream": Behaviour(events(*HONEST[:3], data(FAILURE), DONE), fails("error_in_stream")),
    "error_event": Behaviour(events(*HONEST[:3], b"event: error\n" + data(FAILURE)), fails("error_in_stream")),
    "echo_key_in_stream": Behaviour(echo_key_in_stream, fails("error_in_stream"), note="the key must appear nowhere"),
    "error_field": Behaviour(events(role(), b'error: {"code":400,"message":"too long"}\n\n', DONE), fails("error_in_stream")),
    "error_event_of_text": Behaviour(events(*HONEST[:3], b"event: error\ndata: upstream reset\n\n"), fails("error_in_stream")),
    "error_without_the_word": Behaviour(events(data({"code": "Oops", "message": "no"}), DONE), fails("error_in_stream")),
    "aborted": Behaviour(events(*HONEST[:4], data(delta("", "abort")), data(usage(3)), DONE), fails("error_in_stream")),
    "only_done": Behaviour(events(DONE), fails("no_token")),
    "stop_alone": Behaviour(events(role(), FINISH, data(usage(0)), DONE), fails("no_token")),
    "reason_that_is_none": Behaviour(events(*(data(delta(text, "")) for text in TOKENS)), fails("truncated_stream")),
    "nested_too_deep": Behaviour(events(*HONEST[:3], b"data: " + b'{"a":' * 9_999 + b"\n\n", *HONEST[3:]), fails("malformed_stream")),
    "malformed_sse": Behaviour(events(*(part[6:] for part in HONEST)), fails("malformed_stream"), note="JSON lines, no event in them"),
    "malformed_json": Behaviour(events(*HONEST[:3], b'data: {"choices":[{"delta":\n\n', *HONEST[3:]), fails("malformed_stream")),
    "json_of_wrong_shape": Behaviour(events(*HONEST[:3], b'data: {"choices":7}\n\n', *HONEST[3:]), fails("malformed_stream")),
    "invalid_utf8": Behaviour(events(*HONEST[:3], mangled(b"\xff\xc3"), *HONEST[3:]), fails("malformed_stream")),
    "bad_chunk_size": Behaviour(bad_chunk_size, fails("malformed_stream")),
    "endless_interim": Behaviour(endless_interim, fails("too_large"), "first_token", "or, over aiohttp, none before the timeout"),
    "not_http": Behaviour(not_http, fails("malformed_stream")),
    "no_done_no_finish": Behaviour(events(*HONEST[:5]), fails("truncated_stream")),
    "cut_in_event": Behaviour(events(*HONEST[:3], HONEST[3][:40]), fails("truncated_stream")),
    "cut_in_chunk": Behaviour(cut_in_chunk, fails("truncated_stream")),
    "cut_between_chunks": Behaviour(cut_between_chunks, fails("truncated_stream")),
    "short_of_length": Behaviour(short_of_length, fails("truncated_stream")),
    "until_close_cut": Behaviour(until_close(*HONEST[:4]), fails("truncated_stream")),
    "no_answer": Behaviour(no_answer, fails("connection_reset"), note="closed before any byte, on a new connection"),
    "drops_second_request": Behaviour(
        drops_second_request,
        fails("connection_reset"),
        note="the second request on a connection (a client's first, after /v1/models) is lost; it fails, since no retry is hidden",
    ),
    "reset_in_stream": Behaviour(reset_in_stream, fails("connection_reset")),
    # too slow, too much
    "never_answers": Behaviour(never_answers, fails("first_token_timeout"), "first_token"),
    "header_then_silence": Behaviour(header_then_silence, fails("first_token_timeout"), "first_token"),
    "pings_only": Behaviour(pings_only, fails("first_token_timeout"), "first_token", "comments are no token"),
    "stall": Behaviour(stall, fails("idle_timeout"), "idle"),
    "endless": Behaviour(endless, fails("total_timeout"), "total"),
    "long_line": Behaviour(long_line, fails("too_large")),
    "header_bomb": Behaviour(header_bomb, fails("too_large")),
    "header_line_bomb": Behaviour(header_line_bomb, fails("too_large")),
}
