"""ShareGPT: one JSON list of conversations, often of hundreds of megabytes, read object by object.

As in `vllm bench serve`, a conversation's first question is the prompt and the first answer tells
the output length. Conversations without both are rows without a prompt, which are counted as empty.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from io import TextIOWrapper
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import msgspec

from bytemlperf_llm.scenario import Trace
from bytemlperf_llm.workload.traces.rows import TraceRow, bad, field_of, open_trace
from engines.contract import Message

READ_CHARS = 1 << 20
MAX_OBJECT_CHARS = 64 << 20
FORM = '[{"id": "...", "conversations": [{"from": "human", "value": "..."}, {"from": "gpt", "value": "..."}]}]'
ROLES: dict[str, Literal["user", "assistant", "system"]] = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}


class _Turn(msgspec.Struct, frozen=True):
    source: str = msgspec.field(name="from")
    value: str


class _Conversation(msgspec.Struct, frozen=True):
    conversations: tuple[_Turn, ...]


def sharegpt(path: Path, _trace: Trace) -> Iterator[TraceRow]:
    """The first question of every conversation, with the first answer's text."""
    for line, value in _objects(path):
        try:
            conversation = msgspec.convert(value, _Conversation)
        except msgspec.ValidationError as error:
            field, problem = field_of(error)
            raise bad(path, line, field, problem, f"give a JSON list: {FORM}") from None
        question, answer = _first_pair(conversation)
        messages = None if question is None else (Message(role="user", content=question),)
        yield TraceRow(line=line, messages=messages, answer=answer)


def _first_pair(conversation: _Conversation) -> tuple[str | None, str | None]:
    turns = conversation.conversations
    for asked, answered in pairwise(turns):
        if ROLES.get(asked.source) == "user" and ROLES.get(answered.source) == "assistant" and asked.value.strip():
            return asked.value, answered.value
    return None, None


def _objects(path: Path) -> Iterator[tuple[int, Any]]:
    """(line it starts on, value) of each element of the list. Raises UserError."""
    with open_trace(path) as raw, TextIOWrapper(raw, encoding="utf-8-sig") as file:
        window = _Window(path, file)
        if window.next_char(" \t\r\n") != "[":
            raise bad(path, window.line, "file", "not a JSON list", f"give {FORM}")
        window.skip()
        while (char := window.next_char(" \t\r\n,")) != "]":
            if not char:
                raise bad(path, window.line, "file", "the list does not end", "the file is cut short: fetch it again")
            line = window.line
            yield line, window.value()


class _Window:
    """A piece of a text file that moves on: at least the element that is being read."""

    def __init__(self, path: Path, file: TextIOWrapper) -> None:
        self._path, self._file = path, file
        self._text, self._at = "", 0
        self._decode = json.JSONDecoder().raw_decode
        self.line = 1

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
                problem = f"not JSON: {getattr(error, 'msg', error)}"
                raise bad(self._path, self.line, "conversation", problem, f"give a JSON list: {FORM}") from None
            self.line += self._text.count("\n", self._at, end)
            self._at = end
            return value

    def _read_more(self) -> bool:
        rest = self._text[self._at :]
        try:
            more = self._file.read(max(READ_CHARS, len(rest)))
        except UnicodeDecodeError as error:
            raise bad(self._path, self.line, "file", f"not UTF-8 text: {error.reason}", "save the trace as UTF-8") from None
        self._text, self._at = rest + more, 0
        return bool(more)
