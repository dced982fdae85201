"""The JSON events of an OpenAI-style token stream: their shape, and what one of them says.

An event is decoded into structs where its fields have the types that the API gives them. One that has a field of
another type is read again field by field, so that an odd field costs that field and not the answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from engines.contract import FINISH_REASONS, Usage
from engines.openai.usage import MAX_TOKENS, UsageEvent, loose_usage, read_usage, sound
from engines.untrusted import UntrustedJson, count_of, decode_json

MAX_WORDS_CHARS = 4000  # cut to what is shown once secrets are out
_MAX_NESTED_TEXTS = 8

SAYS, THINKS, EMPTY, LAST_EMPTY = 1, 2, -1, -2
"""What an event is for the count of tokens, besides 0, which is none: it has content; reasoning alone; its content is empty (a token whose
text is still to come, or none: `openai_tokens` tells); the same beside the finish reason `length`."""

_GIVEN_UP = re.compile("error|abort|cancel|fail|timeout|timed_out|interrupt|disconnect")
_NO_REASON = frozenset({"", "null", "none"})
_ERROR_KEYS = (
    "error",
    "errors",
    "message",
    "msg",
    "error_msg",
    "error_message",
    "status_msg",
    "base_resp",
    "detail",
    "details",
    "title",
    "code",
    "error_code",
)
_NO_WORDS = "an error without a message"
_FINE_CODES = (0, 200, "0", "200")
_TEXT_KEYS = (
    *("thinking", "reasoning", "summary", "name", "arguments", "input", "function", "custom", "text", "content", "transcript", "refusal"),
    "data",
)
_OPAQUE = ("reasoning.encrypted", "redacted_thinking")  # blocks for the next turn, sent when the reasoning is over


class Delta(msgspec.Struct, gc=False):
    role: str | None = None
    content: str | list[Any] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: Any = None
    reasoning_details: Any = None
    refusal: Any = None
    thinking: Any = None
    function_call: Any = None
    audio: Any = None
    reasoning_text: Any = None
    thinking_blocks: Any = None

    @property
    def reasons(self) -> Any:
        """Its reasoning; servers send the same under several names."""
        plain = self.reasoning_content or self.reasoning or self.thinking or self.reasoning_text
        return plain or self.reasoning_details or self.thinking_blocks

    def generated(self) -> str:
        """The text of everything in it that a model generates."""
        parts = (self.reasons, self.content, self.refusal, self.audio, self.function_call, self.tool_calls)
        return "".join([words_in(part) for part in parts if part])


class Choice(msgspec.Struct, gc=False):
    delta: Delta | None = None
    message: Delta | None = None
    text: str | None = None
    finish_reason: str | None = None
    usage: UsageEvent | None = None
    error: Any = None

    @property
    def reasons(self) -> Any:
        """Its reasoning, if any."""
        delta = self.delta or self.message
        return None if delta is None else delta.reasons


class Beside(msgspec.Struct, gc=False):
    """What a server has for itself beside the choices."""

    usage: UsageEvent | None = None
    draft_n_accepted: int | None = None


class Drafted(msgspec.Struct, gc=False):
    num_accepted_draft_tokens: int | None = None


class RequestMetrics(msgspec.Struct, gc=False):
    """What vLLM measured of the request (`--per-request-spec-decode-metrics`)."""

    speculative_decoding: Drafted | None = None


class Event(msgspec.Struct, gc=False):
    choices: list[Choice] | None = None
    usage: UsageEvent | None = None
    error: Any = None
    object: str | None = None
    x_groq: Beside | None = None
    timings: Beside | None = None  # llama.cpp's
    metrics: RequestMetrics | None = None  # vLLM's

    @property
    def is_foreign(self) -> bool:
        """Nothing of a token stream: it may be an error in a form of the server's own."""
        return not self.choices and self.usage is None and self.error is None


decode_event = msgspec.json.Decoder(Event).decode
decode_events = msgspec.json.Decoder(Event).decode_lines


def read_event(data: bytes) -> Event:
    """One event, whatever its fields' types. An error in any form is under `error`. Raises UntrustedJson."""
    try:
        event = decode_event(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        event = _loose_event(decode_json(data, lenient=True))
    if event.is_foreign or event.object == "error":
        value = decode_json(data, lenient=True)
        event.error = (foreign_words(value) if isinstance(value, dict) else "") or None
    return event


def _loose_event(value: Any) -> Event:
    if not isinstance(value, dict):
        return Event(choices=[])  # a number or a text: a sign of life
    choices = value.get("choices")
    if isinstance(choices, dict):
        choices = [choices]
    if choices is not None and not isinstance(choices, list):
        raise UntrustedJson("choices are not a list")
    named = value.get("object")
    return Event(
        choices=None if choices is None else [_loose_choice(choice) for choice in choices[:1] if isinstance(choice, dict)],
        object=named if isinstance(named, str) else None,
        usage=loose_usage(value.get("usage")),
        error=value.get("error"),
        x_groq=_loose_beside(value.get("x_groq")),
        timings=_loose_beside(value.get("timings")),
        metrics=_loose_metrics(value.get("metrics")),
    )


def _loose_beside(value: Any) -> Beside | None:
    if not isinstance(value, dict):
        return None
    return Beside(usage=loose_usage(value.get("usage")), draft_n_accepted=count_of(value.get("draft_n_accepted"), MAX_TOKENS))


def _loose_metrics(value: Any) -> RequestMetrics | None:
    drafted = value.get("speculative_decoding") if isinstance(value, dict) else None
    if not isinstance(drafted, dict):
        return None
    return RequestMetrics(Drafted(count_of(drafted.get("num_accepted_draft_tokens"), MAX_TOKENS)))


def _loose_choice(value: dict[str, Any]) -> Choice:
    text, reason = value.get("text"), value.get("finish_reason")
    if isinstance(reason, dict):
        reason = reason.get("type")
    return Choice(
        delta=_loose_delta(value.get("delta")),
        message=_loose_delta(value.get("message")),
        text=None if text is None else words_in(text),
        finish_reason=reason if isinstance(reason, str) else None,
        usage=loose_usage(value.get("usage")),
        error=value.get("error"),
    )


def _loose_delta(value: Any) -> Delta | None:
    if isinstance(value, str):
        value = {"content": value}
    return Delta(**{name: value.get(name) for name in Delta.__struct_fields__}) if isinstance(value, dict) else None


def text_of(choice: Choice) -> tuple[str, int]:
    """The text that an event brings, and what it is for the count of tokens.

    Whatever the model generated is content: text, reasoning, a refusal, a tool call's name and arguments. The event that
    announces the role, and one that only gives the finish reason, aren't tokens.
    """
    delta = choice.delta or choice.message
    content = choice.text if delta is None else delta.content
    if content and content.__class__ is str and (delta is None or delta.tool_calls is None):
        return content, SAYS  # type: ignore[return-value]
    if delta is not None:
        thought = delta.reasoning_content or delta.reasoning
        if thought and not content and thought.__class__ is str and delta.tool_calls is None:
            return thought, THINKS
        rare = delta.tool_calls or delta.refusal or delta.function_call or delta.audio
        if (rare or content or delta.reasons) and (text := delta.generated()):
            return text, SAYS if rare or (content and not _thinks(content)) else THINKS
    if content is None or (delta is not None and delta.role is not None):
        return "", 0
    if finish_of(choice) is None:
        return "", EMPTY
    return "", LAST_EMPTY if choice.finish_reason == "length" else 0


def _thinks(content: str | list[Any]) -> bool:
    """Whether blocks hold reasoning alone, as Mistral's do."""
    return isinstance(content, list) and all(isinstance(block, dict) and block.get("type") == "thinking" for block in content)


def usage_of(event: Event) -> Usage | None:
    """The usage in an event: beside the choices, in the first of them (Moonshot), or under `x_groq`."""
    usage = None if event.usage is None else read_usage(event.usage)
    if usage is None:
        if event.choices and (inside := event.choices[0].usage) is not None:
            usage = read_usage(inside)
        if usage is None and event.x_groq is not None and event.x_groq.usage is not None:
            usage = read_usage(event.x_groq.usage)
    accepted = None if event.timings is None else event.timings.draft_n_accepted
    if accepted is None and event.metrics is not None and event.metrics.speculative_decoding is not None:
        accepted = event.metrics.speculative_decoding.num_accepted_draft_tokens
    if usage is not None and accepted is not None:
        return msgspec.structs.replace(usage, accepted_draft_tokens=sound(accepted))
    return usage


def finish_of(choice: Choice) -> str | None:
    """The finish reason, one of FINISH_REASONS; None where there is none yet."""
    reason = choice.finish_reason
    if not reason or (reason := reason.lower()) in _NO_REASON:
        return None
    if reason in FINISH_REASONS:
        return reason
    return "error" if _GIVEN_UP.search(reason) else "other"


def words_in(value: Any, depth: int = 4) -> str:
    """The text that generated blocks have: those of Mistral, Anthropic and OpenRouter, tool calls, a transcript."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and depth:
        return "".join([words_in(item, depth - 1) for item in value])
    if isinstance(value, dict) and depth and value.get("type") not in _OPAQUE:
        return "".join([words_in(value[key], depth - 1) for key in _TEXT_KEYS if key in value])
    return ""


# -- errors ----------------------------------------------------------------------


def error_words(error: Any) -> str:
    """What the value of an `error` field says, on one line; empty where it says that there is none (null, false, {}, "")."""
    words = " ".join(_telling(error)) or (_NO_WORDS if any(_leaves(error)) else "")
    return " ".join(words.split())[:MAX_WORDS_CHARS]


def foreign_words(value: Any) -> str:
    """The same of an object that is no event of a token stream: an error if it has an error's fields."""
    fine = isinstance(value, dict) and not value.get("error") and value.get("code") in _FINE_CODES
    return "" if fine else " ".join(" ".join(_telling(value)).split())[:MAX_WORDS_CHARS]


def _telling(value: Any, depth: int = 6) -> Iterator[str]:
    """An error's texts, the most telling one of each object."""
    if isinstance(value, list) and depth:
        for item in value[:_MAX_NESTED_TEXTS]:
            yield from _telling(item, depth - 1)
    elif isinstance(value, dict) and depth and value.get("status_code") not in _FINE_CODES:
        for key in _ERROR_KEYS:
            texts = list(_telling(value.get(key), depth - 1))
            yield from texts
            if texts and key != "error":
                yield from _field_at_fault(value, texts)
                return
    elif value and isinstance(value, (str, int)) and value is not True:
        yield str(value)


def _field_at_fault(error: dict[str, Any], texts: Sequence[str]) -> Iterator[str]:
    """Which field of the request is meant, where the words themselves don't say it: FastAPI's `loc`, OpenAI's `param`."""
    place = error.get("loc") or error.get("param")
    name = ".".join(str(part) for part in place[:_MAX_NESTED_TEXTS] if isinstance(part, (str, int))) if isinstance(place, list) else place
    if isinstance(name, str) and name and not any(name.rpartition(".")[2] in text for text in texts):
        yield f"({name})"


def _leaves(value: Any, depth: int = 6) -> Iterator[Any]:
    if isinstance(value, (list, dict)):
        for item in (value.values() if isinstance(value, dict) else value) if depth else ():
            yield from _leaves(item, depth - 1)
    else:
        yield value
