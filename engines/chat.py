"""A chat with tools as a model's template takes it: one rule for engines in this process and for counting tokens.

A template that names `tool_calls` gets calls, results and tools as they are, arguments as objects. For any other they are text: calls
follow the assistant's words as JSON, a result is a user's message, and tools stand in the system prompt. `developer` is `system` to a
template that doesn't name it. A server renders its own template, and one that leaves calls out there doesn't count them either.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from engines.contract import Message
from engines.untrusted import UntrustedJson, decode_json


def takes_tools(template: object) -> bool:
    """Whether a template (its text, or texts by name) renders calls of tools."""
    return "tool_calls" in str(template)


def for_template(messages: Sequence[Message], tools: str, template: object) -> tuple[list[dict[str, Any]], list[Any] | None]:
    """Messages and tools (None: none) as a template takes them."""
    if all(message.role in ("system", "user", "assistant") and not message.tool_calls for message in messages) and not tools:
        return msgspec.to_builtins(messages), None
    known = takes_tools(template)
    told = msgspec.json.decode(msgspec.json.encode(messages if known else folded(messages, tools)))
    developer = "developer" in str(template)
    for message in told:
        if message["role"] == "developer" and not developer:
            message["role"] = "system"
        for call in message.get("tool_calls", ()):
            call["function"]["arguments"] = _arguments(call["function"]["arguments"])
    return told, decode_json(tools) if known and tools else None


def folded(messages: Sequence[Message], tools: str) -> list[Message]:
    """The same chat without tools: all of them as text."""
    plain = [_folded(message) for message in messages]
    if not tools:
        return plain
    if plain and plain[0].role in ("system", "developer"):
        return [Message(plain[0].role, f"{plain[0].content}\n\n{tools}"), *plain[1:]]
    return [Message("system", tools), *plain]


def _folded(message: Message) -> Message:
    if not message.tool_calls and message.role != "tool":
        return message
    calls = [msgspec.json.encode(message.tool_calls).decode()] if message.tool_calls else []
    return Message("user" if message.role == "tool" else message.role, "\n".join([*filter(None, [message.content]), *calls]))


def _arguments(text: str) -> Any:
    """As an object, which templates write out as their model knows it; text that is no JSON stays text."""
    try:
        return decode_json(text)
    except UntrustedJson:
        return text
