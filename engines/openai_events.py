"""The JSON events of an OpenAI-style token stream: their shape, and what one of them says."""

from __future__ import annotations

from typing import Any

import msgspec


class Delta(msgspec.Struct, gc=False):
    role: str | None = None
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class Choice(msgspec.Struct, gc=False):
    delta: Delta | None = None
    text: str | None = None
    finish_reason: str | None = None


class UsageEvent(msgspec.Struct, gc=False):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class Event(msgspec.Struct, gc=False):
    choices: list[Choice] = []
    usage: UsageEvent | None = None
    error: Any = None
    object: str | None = None
    message: Any = None


decode_event = msgspec.json.Decoder(Event).decode
decode_events = msgspec.json.Decoder(Event).decode_lines


def text_of(choice: Choice) -> tuple[str, int]:
    """The text of an event and whether it carries a token.

    An empty text is a token in mid-answer (a detokenizer that waits for the rest of a character),
    but not in the event that announces the role, nor in one that only gives the finish reason.
    """
    delta = choice.delta
    if delta is None:
        text = choice.text or ""
        return text, 1 if text or (choice.text is not None and choice.finish_reason is None) else 0
    text = delta.content or delta.reasoning_content or delta.reasoning or ""
    if text:
        return text, 1
    return "", 1 if delta.content is not None and delta.role is None and choice.finish_reason is None else 0
