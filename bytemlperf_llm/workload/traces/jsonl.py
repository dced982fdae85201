"""Traces with one JSON object a line: Mooncake, Bailian, vLLM's timed trace, vLLM's custom prompts.

Times are read as decimal numbers, so that a time in seconds with nine decimals is exact to the
nanosecond.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Annotated

import msgspec

from bytemlperf_llm.plan.scenario import Trace
from bytemlperf_llm.workload.data_files import bad, decode, echo, lines
from bytemlperf_llm.workload.traces.rows import MAX_ROW_TOKENS, TraceRow, file_ns
from engines.contract import Message

Tokens = Annotated[int, msgspec.Meta(ge=0, le=MAX_ROW_TOKENS)]

MILLISECOND = Decimal("0.001")
MOONCAKE_TOKENS = 512
TIMED_FORM = '{"timestamp": 0, "input_length": 512, "output_length": 16, "hash_ids": [0]}'
CUSTOM_FORM = '{"prompt": "...", "output_tokens": 16} or {"messages": [{"role": "user", "content": "..."}]}'


class Timed(msgspec.Struct, frozen=True):
    """Mooncake, Bailian and timed traces have these in common; other fields are passed over."""

    timestamp: Decimal
    input_length: Tokens
    output_length: Tokens
    hash_ids: tuple[int, ...] | None = None


class _Custom(msgspec.Struct, frozen=True):
    prompt: str | None = None
    messages: tuple[Message, ...] | None = None
    output_tokens: Tokens | None = None


def timed(path: Path, trace: Trace) -> Iterator[TraceRow]:
    """Mooncake (FAST'25), in milliseconds; Alibaba Bailian (Qwen), in seconds, where turns of a chat are requests of their own and what
    they share is in the hash ids; vLLM's timed trace, whose time unit is an option, in seconds."""
    unit_s = MILLISECOND if trace.format == "mooncake" else Decimal(repr(trace.timestamp_unit_s))
    decoder = msgspec.json.Decoder(Timed, strict=False)  # 8.0 is 8
    for number, raw in lines(path):
        row: Timed = decode(decoder, raw, path, number, TIMED_FORM)
        yield TraceRow(
            line=number,
            at_ns=file_ns(path, number, "timestamp", row.timestamp, unit_s),
            prompt_tokens=row.input_length,
            output_tokens=row.output_length,
            hash_ids=row.hash_ids or (),
        )


def custom(path: Path, _trace: Trace) -> Iterator[TraceRow]:
    """vLLM's custom prompts: texts without times; `messages` in place of `prompt` works, too."""
    decoder = msgspec.json.Decoder(_Custom, strict=False)
    for number, raw in lines(path):
        row: _Custom = decode(decoder, raw, path, number, CUSTOM_FORM)
        if (row.prompt is None) == (row.messages is None):
            keys = ", ".join(json.loads(raw.decode(errors="replace")))
            problem = f"exactly one of prompt and messages is needed, and the line has {echo(keys)}"
            raise bad(path, number, "prompt", problem, f"give each line as {CUSTOM_FORM}")
        messages = row.messages if row.messages is not None else (Message(role="user", content=row.prompt or ""),)
        yield TraceRow(line=number, messages=messages, output_tokens=row.output_tokens)
