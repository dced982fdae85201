"""ShareGPT: one JSON list of conversations, often of hundreds of megabytes, read object by object.

As in `vllm bench serve`, a conversation's first question is the prompt and the first answer tells
the output length. Conversations without both are rows without a prompt, which are counted as empty;
those that aren't of the form are left out and counted, the first of them named by number and id.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from bytemlperf_llm.plan.scenario import Trace
from bytemlperf_llm.workload.data_files import NOT_TEXT, echo, field_of, is_text
from bytemlperf_llm.workload.json_values import values
from bytemlperf_llm.workload.traces.rows import TraceRow
from engines.contract import Message

FORM = '[{"id": "...", "conversations": [{"from": "human", "value": "..."}, {"from": "gpt", "value": "..."}]}]'
ASKING = ("human", "user")
ANSWERING = ("gpt", "assistant", "chatgpt", "bing", "bard")


class Utterance(msgspec.Struct, frozen=True):
    """One speaker's words."""

    source: str = msgspec.field(name="from")
    value: str


class Conversation(msgspec.Struct, frozen=True):
    """An element of the list."""

    conversations: tuple[Any, ...]


def sharegpt(path: Path, _trace: Trace) -> Iterator[TraceRow]:
    """The first question of every conversation, with the first answer's text."""
    for number, (line, value) in enumerate(values(path, "conversation", FORM), start=1):
        try:
            question, answer = _first_pair(value)
        except ValueError as error:
            yield TraceRow(line=line, unusable=f"{_name(number, value)}: {_problem(error)}")
            continue
        messages = None if question is None else (Message(role="user", content=question),)
        yield TraceRow(line=line, messages=messages, answer=answer)


def _name(number: int, value: Any) -> str:
    key = value.get("id") if isinstance(value, dict) else None
    return f"conversation {number}" + ("" if key is None else f" (id {echo(key)})")


def _problem(error: ValueError) -> str:
    return ": ".join(field_of(error)).removeprefix("line: ") if isinstance(error, msgspec.ValidationError) else str(error)


def _first_pair(value: Any) -> tuple[str | None, str | None]:
    """Later turns aren't looked at. Raises ValueError for a turn before that isn't one."""
    before: Utterance | None = None
    for place, item in enumerate(msgspec.convert(value, Conversation).conversations, start=1):
        try:
            turn = msgspec.convert(item, Utterance)
        except msgspec.ValidationError as error:
            raise ValueError(f"turn {place}: {': '.join(field_of(error))}") from None
        if before is not None and before.source in ASKING and turn.source in ANSWERING and before.value.strip():
            if not is_text(before.value, turn.value):
                raise ValueError(NOT_TEXT)
            return before.value, turn.value
        before = turn
    return None, None
