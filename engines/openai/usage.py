"""`usage`, in the forms that servers give it: what it reports, and how much of that was streamed.

A count may be 12, 12.0 or "12"; one that is none (negative, text, beyond what an answer can have) isn't taken, and zeros mean
that nobody counted. Reasoning may be part of the output's count (OpenAI) or beside it (xAI): `total_tokens` tells.
"""

from __future__ import annotations

from typing import Any

import msgspec

from engines.contract import Usage
from engines.untrusted import count_of

MAX_TOKENS = 1 << 40
"""More than any answer has, and few enough for a million of them to be added in 64 bits."""


class Details(msgspec.Struct, gc=False):
    reasoning_tokens: int | None = None
    cached_tokens: int | None = None
    accepted_prediction_tokens: int | None = None


class UsageEvent(msgspec.Struct, gc=False):
    """What usage may hold; some servers have details beside the counts (SGLang, DeepSeek, Moonshot), or Anthropic's names."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    prompt_tokens_details: Details | None = None
    completion_tokens_details: Details | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    input_tokens_details: Details | None = None
    output_tokens_details: Details | None = None
    reasoning_tokens: int | None = None
    cached_tokens: int | None = None
    prompt_cache_hit_tokens: int | None = None
    cache_read_input_tokens: int | None = None


_COUNTS = tuple(name for name in UsageEvent.__struct_fields__ if not name.endswith("_details"))
_DETAILS = tuple(name for name in UsageEvent.__struct_fields__ if name.endswith("_details"))
_NONE = Details()


def loose_usage(value: object) -> UsageEvent | None:
    """The same from any JSON value, count by count."""
    if not isinstance(value, dict):
        return None
    fields: dict[str, Any] = {name: count_of(value.get(name), MAX_TOKENS) for name in _COUNTS}
    fields |= {name: _loose_details(value.get(name)) for name in _DETAILS}
    return UsageEvent(**fields)


def _loose_details(value: object) -> Details | None:
    if not isinstance(value, dict):
        return None
    return Details(**{name: count_of(value.get(name), MAX_TOKENS) for name in Details.__struct_fields__})


def read_usage(usage: UsageEvent) -> Usage | None:
    """What a usage object reports; None where it counts no output."""
    prompt = usage.input_tokens if usage.prompt_tokens is None else usage.prompt_tokens
    output = usage.output_tokens if usage.completion_tokens is None else usage.completion_tokens
    if prompt is not None and not 0 < prompt <= MAX_TOKENS:
        prompt = sound(prompt)
    if output is None and usage.total_tokens is not None and prompt is not None:
        output = usage.total_tokens - prompt
    if output is None or not 0 < output <= MAX_TOKENS:
        return None
    output_details = usage.completion_tokens_details or usage.output_tokens_details or _NONE
    prompt_details = usage.prompt_tokens_details or usage.input_tokens_details or _NONE
    reasoning = usage.reasoning_tokens if output_details.reasoning_tokens is None else output_details.reasoning_tokens
    if reasoning is not None:
        reasoning = sound(reasoning)
    if reasoning and (reasoning > output or usage.total_tokens == (prompt or 0) + output + reasoning):
        output += reasoning  # it was counted beside
    cached = prompt_details.cached_tokens if prompt_details.cached_tokens is not None else usage.cached_tokens
    if cached is None:
        cached = usage.prompt_cache_hit_tokens if usage.prompt_cache_hit_tokens is not None else usage.cache_read_input_tokens
    accepted = output_details.accepted_prediction_tokens
    return Usage(
        prompt_tokens=prompt or None,
        output_tokens=output,
        reasoning_tokens=reasoning,
        cached_tokens=None if cached is None else sound(cached),
        accepted_draft_tokens=None if accepted is None else sound(accepted),
    )


def sound(count: int | None) -> int | None:
    """The count where it can be one, else None."""
    return count if count is not None and 0 <= count <= MAX_TOKENS else None


def hidden_tokens(usage: Usage, shown: int, *, reasoning_streamed: bool) -> int:
    """Reasoning tokens that usage counts and that weren't streamed. `shown`: events with content."""
    hidden = usage.reasoning_tokens or 0
    fits = usage.output_tokens is not None and shown <= usage.output_tokens - hidden
    return hidden if fits and not reasoning_streamed else 0
