"""ShareGPT: one JSON list of conversations, often of hundreds of megabytes, read object by object.

As in `vllm bench serve`, a conversation's first question is the prompt and the first answer tells
the output length. Conversations without both are rows without a prompt, which are counted as empty;
those that aren't of the form are left out and counted, the first of them named by number and id.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path
from typing import Any

import msgspec

from bytemlperf.errors import UserError
from bytemlperf_llm.plan.scenario import Trace
from bytemlperf_llm.workload.data_files import NESTED, NOT_TEXT, bad, echo, field_of, is_text, open_data
from bytemlperf_llm.workload.traces.rows import TraceRow
from engines.contract import Message

READ_CHARS = 1 << 20
MAX_OBJECT_CHARS = 64 << 20
FORM = '[{"id": "...", "conversations": [{"from": "human", "value": "..."}, {"from": "gpt", "value": "..."}]}]'
ID = re.compile(r'"id"\s*:\s*"([^"]{1,100})"')
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
    for number, (line, value) in enumerate(objects(path), start=1):
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


def objects(path: Path) -> Iterator[tuple[int, Any]]:
    """(line it starts on, value) of each element of the list. Raises UserError."""
    with open_data(path) as raw, TextIOWrapper(raw, encoding="utf-8-sig", errors="surrogateescape") as file:
        window = _Window(path, file)
        if window.next_char(" \t\r\n") != "[":
            raise bad(path, window.line, "file", "not a JSON list", f"give {FORM}")
        window.skip()
        while (char := window.next_char(" \t\r\n,")) != "]":
            if not char:
                problem = f"the list does not end, after {window.count} conversations"
                raise bad(path, window.line, "file", problem, "the file is cut short: fetch it again")
            line = window.line
            yield line, window.value()


class _Window:
    """A piece of a text file that moves on: at least the element that is being read."""

    def __init__(self, path: Path, file: TextIOWrapper) -> None:
        self._path, self._file = path, file
        self._text, self._at = "", 0
        self._decode = json.JSONDecoder(strict=False).raw_decode
        self.line = 1
        self.count = 0

    def next_char(self, passed_over: str) -> str:
        """The next character that isn't `passed_over`, still unread; empty at the end of the file."""
        while True:
            while self._at < len(self._text) and (char := self._text[self._at]) in passed_over:
                self.line += char == "\n"
                self._at += 1
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._read_more():
                return ""

    def skip(self) -> None:
        """Pass over one character."""
        self._at += 1

    def value(self) -> Any:
        """Read one JSON value. Raises UserError."""
        while True:
            try:
                value, end = self._decode(self._text, self._at)
            except (ValueError, RecursionError) as error:
                # Perhaps only cut in the middle: as much again as there is keeps the work linear.
                if len(self._text) - self._at < MAX_OBJECT_CHARS and self._read_more():
                    continue
                raise self._not_json(error) from None
            self.count += 1
            self.line += self._text.count("\n", self._at, end)
            self._at = end
            return value

    def _not_json(self, error: ValueError | RecursionError) -> UserError:
        problem = NESTED if isinstance(error, RecursionError) else f"not JSON: {getattr(error, 'msg', error)}"
        where = max(self._at, min(getattr(error, "pos", self._at), len(self._text)))
        near = echo(self._text[max(self._at, where - 30) : where + 20])
        found = ID.search(self._text, self._at, where)
        name = f"conversation {self.count + 1}" + (f" (id {echo(found[1])})" if found else "")
        return bad(self._path, self.line, name, f"{problem}, near {near}", f"give a JSON list: {FORM}")

    def _read_more(self) -> bool:
        rest = self._text[self._at :]
        more = self._file.read(max(READ_CHARS, len(rest)))
        self._text, self._at = rest + more, 0
        return bool(more)
