"""The events of OpenAI's Responses API, told as those of a chat stream, so that tokens, texts and failures are judged by one code.

An event has a type: `response.output_text.delta` and every other `….delta` bring what the model generated; `response.completed`,
`.incomplete` and `.failed` end the answer, with its usage; `error` is one. The rest (created, parts and items added and done) repeats.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import msgspec

from engines.contract import FAILED_REASONS, Decoded, Function, Message, ToolCall
from engines.http import sse
from engines.http.http1 import head_and_body
from engines.openai.decode import decode
from engines.openai.events import Choice, Delta, Event, words_in
from engines.openai.usage import UsageEvent, loose_usage
from engines.untrusted import UntrustedJson, decode_json, whole_text

SUMMARY = "response.reasoning_summary"
ENDED = {"response.completed": "stop", "response.incomplete": "length", "response.failed": "failed", "response.cancelled": "cancelled"}


class _Details(msgspec.Struct, gc=False):
    reason: str | None = None


class _Response(msgspec.Struct, gc=False):
    status: str | None = None
    usage: UsageEvent | None = None
    error: Any = None
    incomplete_details: _Details | None = None


class _Said(msgspec.Struct, gc=False):
    type: str = ""
    delta: Any = None
    response: _Response | None = None
    error: Any = None
    message: Any = None


_decode_said = msgspec.json.Decoder(_Said).decode


def decode_responses(payloads: Sequence[Any], *, usage: bool = True) -> Decoded:
    """As `decode.decode`. A summary of the reasoning is no token where usage tells of reasoning; elsewhere it is all that comes of it."""
    seen = set[str]()
    decoded = decode(payloads, usage=usage, meant=partial(meant, seen=seen))
    if any(kind.startswith(SUMMARY) for kind in seen) and not (decoded.usage and decoded.usage.reasoning_tokens):
        decoded = decode(payloads, usage=usage, meant=meant)
    return decoded


def meant(sse_event: sse.Event, seen: set[str] | None = None) -> Event | None:
    """What an event says; None for nothing. `seen` gets the types of those that bring text; a summary is a sign of life then.
    Raises UntrustedJson."""
    if not sse_event.data.strip():
        return None
    try:
        said = _decode_said(sse_event.data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        said = _loose(decode_json(sse_event.data, lenient=True))
    kind = said.type or sse_event.event
    if kind.endswith(".delta"):
        if seen is not None:
            seen.add(kind)
            if kind.startswith(SUMMARY):
                return Event(choices=[])
        return _token(said.delta, reasons="reasoning" in kind)
    if kind in ENDED:
        return _end(kind, said.response or _Response())
    if said.error or kind in ("error", "response.error"):
        return Event(choices=[], error=said.error or said.message or True)
    return None


def spoken_in(payloads: Sequence[Any]) -> Message:
    """The message of an answer that was well: its text without the reasoning, and calls of functions."""
    content: list[str] = []
    calls: list[ToolCall] = []
    for event in sse.SseParser().feed(head_and_body(payloads)[1]):
        try:
            said = decode_json(event.data, lenient=True)
        except UntrustedJson:
            continue
        kind, item = (said.get("type"), said.get("item")) if isinstance(said, dict) else (None, None)
        if kind == "response.output_text.delta":
            content.append(str(said.get("delta") or ""))
        elif kind == "response.output_item.done" and isinstance(item, dict) and item.get("type") == "function_call":
            id, name, arguments = (whole_text(str(item.get(key) or "")) for key in ("call_id", "name", "arguments"))
            calls.append(ToolCall(id, Function(name, arguments)))
    return Message("assistant", whole_text("".join(content)), tuple(calls))


def _token(delta: Any, *, reasons: bool) -> Event:
    text = delta if isinstance(delta, str) else words_in(delta)
    return Event(choices=[Choice(delta=Delta(reasoning_content=text) if reasons else Delta(content=text))])


def _end(kind: str, response: _Response) -> Event:
    details, reason = response.incomplete_details, ENDED[kind]
    if reason == "length" or response.status == "incomplete":
        reason = "content_filter" if details is not None and details.reason == "content_filter" else "length"
    error = response.error or (True if reason in FAILED_REASONS else None)
    return Event(choices=[Choice(finish_reason=reason)], usage=response.usage, error=error)


def _loose(value: Any) -> _Said:
    """The same from any JSON value, field by field."""
    if not isinstance(value, dict):
        return _Said()
    kind, inside = value.get("type"), value.get("response")
    response = None
    if isinstance(inside, dict):
        details = inside.get("incomplete_details")
        reason = details.get("reason") if isinstance(details, dict) else None
        response = _Response(
            status=inside.get("status"),
            usage=loose_usage(inside.get("usage")),
            error=inside.get("error"),
            incomplete_details=_Details(reason) if isinstance(reason, str) else None,
        )
    return _Said(kind if isinstance(kind, str) else "", value.get("delta"), response, value.get("error"), value.get("message"))
