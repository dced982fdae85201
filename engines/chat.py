"""A chat with tools as a model's template takes it: one rule for engines in this process and for counting tokens.

A template gets roles, calls, results and tools as they are, arguments as objects, and what it leaves out is in no prompt; one that doesn't
name `developer` gets that as `system`, in one message at the beginning. So does vLLM's server (`renderers/hf.py`). A template that refuses
calls gets them as text: they follow the assistant's words as JSON, a result is a user's message, and tools stand in the system prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import msgspec

from engines.contract import Message
from engines.untrusted import UntrustedJson, decode_json

Render = Callable[[Sequence[dict[str, Any]], list[Any] | None], str]
"""A template: of messages and tools (None: none)."""


_PLAIN_ROLES: dict[str, Literal["system", "user"]] = {"developer": "system", "tool": "user"}


def templated(render: Render, template: object, messages: Sequence[Message], tools: str) -> str:
    """The prompt by a template, given as function and as text (or texts by name). Raises what it raises."""
    if not tools and all(message.role in ("system", "user", "assistant") and not message.tool_calls for message in messages):
        return render(msgspec.to_builtins(messages), None)
    if not any(name in str(template) for name in ("'developer'", '"developer"')):
        messages = _without_developer(messages)
    told = msgspec.json.decode(msgspec.json.encode(messages))
    for message in told:
        for call in message.get("tool_calls", ()):
            call["function"]["arguments"] = _arguments(call["function"]["arguments"])
    try:
        return render(told, decode_json(tools) if tools else None)
    except Exception:  # a template is a program of the model's author: it can raise anything
        return render(msgspec.to_builtins(folded(messages, tools)), None)


def folded(messages: Sequence[Message], tools: str) -> list[Message]:
    """The same chat without tools: all of them as text."""
    plain = [_folded(message) for message in messages]
    if not tools:
        return plain
    if plain and plain[0].role == "system":
        return [Message("system", f"{plain[0].content}\n\n{tools}"), *plain[1:]]
    return [Message("system", tools), *plain]


def _folded(message: Message) -> Message:
    calls = [msgspec.json.encode(message.tool_calls).decode()] if message.tool_calls else []
    role = _PLAIN_ROLES.get(message.role, message.role)
    return Message(role, "\n".join([message.content, *calls] if message.content else calls))


def _without_developer(messages: Sequence[Message]) -> Sequence[Message]:
    """With one system message, at the beginning, in place of a developer's and those beside it."""
    if not any(message.role == "developer" for message in messages):
        return messages
    first = [message.content for message in messages if message.role in ("system", "developer") and message.content]
    return [Message("system", "\n\n".join(first)), *(message for message in messages if message.role not in ("system", "developer"))]


def _arguments(text: str) -> Any:
    """As an object, which templates write out as their model knows it; empty where the text is no JSON."""
    try:
        return decode_json(text)
    except UntrustedJson:
        return {}
