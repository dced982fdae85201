"""What of an answer continues a chat: its content without the reasoning, and calls of tools put together from their pieces."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from engines.contract import Function, Message, ToolCall
from engines.http.http1 import head_and_body
from engines.http.sse import SseParser
from engines.openai.events import Choice, read_event
from engines.untrusted import UntrustedJson, whole_text

_MORE_THAN_CONTENT = re.compile(rb'"(?:reasoning(?:_content|_text|_details)?|thinking(?:_blocks)?|tool_calls|function_call)"')


def spoken(payloads: Sequence[Any], text: str) -> Message:
    """The message of an answer that was well; `text` is all that was streamed in it."""
    body = head_and_body(payloads)[1]
    if _MORE_THAN_CONTENT.search(body) is None:
        return Message("assistant", text)
    content: list[str] = []
    calls: dict[Any, list[str]] = {}
    for choice in _choices(body):
        delta = choice.delta or choice.message
        if delta is None:
            content.append(choice.text or "")
            continue
        content.append(_content(delta.content))
        for place, piece in enumerate(delta.tool_calls if isinstance(delta.tool_calls, list) else ()):
            if isinstance(piece, dict):
                _add(calls.setdefault(str(piece.get("index", place)), ["", "", ""]), piece)
    return Message("assistant", whole_text("".join(content)), tuple(_call(*parts) for parts in calls.values()))


def _choices(body: bytes) -> Iterator[Choice]:
    for event in SseParser().feed(body):
        try:
            choices = read_event(event.data).choices
        except UntrustedJson:  # [DONE], or an event of the server's own
            continue
        yield from (choices or ())[:1]


def _content(value: str | list[Any] | None) -> str:
    """Text, or the text among blocks (Mistral's have thinking beside it)."""
    if isinstance(value, list):
        return "".join([str(block.get("text", "")) for block in value if isinstance(block, dict) and block.get("type") == "text"])
    return value if isinstance(value, str) else ""


def _add(parts: list[str], piece: dict[str, Any]) -> None:
    """A piece of a call to its id, name and arguments; servers send the first two whole, with the first piece or with each."""
    function = piece.get("function")
    function = function if isinstance(function, dict) else {}
    parts[0] = parts[0] or str(piece.get("id") or "")
    parts[1] = parts[1] or str(function.get("name") or "")
    parts[2] += str(function.get("arguments") or "")


def _call(id: str, name: str, arguments: str) -> ToolCall:
    return ToolCall(whole_text(id), Function(whole_text(name), whole_text(arguments)))
