"""What passed a recording proxy as rows of a trace, with no network.

A row is Mooncake's: `timestamp` and `delay` in ms, `session_id`, `input_length`, `output_length` and `hash_ids`, one for each block of
the prompt's tokens. An id is a number in order of appearance, the same for equal blocks behind equal blocks, so nothing of a text is in it.
Rows stand in the order of arrival.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

import msgspec

from bytemlperf.units import NS_PER_MS
from bytemlperf_llm.workload.sessions.conversations import FileMessage, Tools

SESSION_HEADERS = ("x-session-id", "x-conversation-id", "x-correlation-id")
"""Headers that name a session: routers' and AIPerf's."""


class Row(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A request. `messages` and `tools`, or `text_input`, only where texts are kept."""

    timestamp: float
    session_id: str
    delay: float | None = None
    input_length: int
    output_length: int
    hash_ids: list[int]
    messages: list[Any] | None = None
    tools: Tools | None = None
    text_input: str | None = None


class Blocks:
    """Ids of the blocks of prompts, `size` tokens each."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._ids: dict[bytes, int] = {}

    def ids(self, words: Sequence[int | str], tokens: int, words_per_token: float = 1.0) -> list[int]:
        """Of a prompt of so many tokens, an id for each block that is begun. `words` are what is compared: the tokens themselves, or words
        where so many are taken for one."""
        count, step = -(-tokens // self.size), max(1, round(self.size * words_per_token))
        state, ids = hashlib.blake2b(digest_size=16), []
        for place in range(count):
            end = None if place == count - 1 else (place + 1) * step
            state.update(repr(words[place * step : end]).encode())
            ids.append(self._ids.setdefault(state.digest(), len(self._ids)))
        return ids


class Sessions:
    """Which session a request is of, by a header, else by a chat that begins with an earlier one and an answer to it; and when each
    session's last answer ended."""

    def __init__(self) -> None:
        self._names: dict[bytes, str] = {}
        self._ends_ns: dict[str, int] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def of(self, headers: Mapping[str, str], messages: Sequence[FileMessage]) -> str:
        """Its name: a number, whatever the header says."""
        told = next((headers[name].encode() for name in SESSION_HEADERS if name in headers), None)
        digests = list(_digests(messages))
        answers = [place for place, message in enumerate(messages) if place and message.role == "assistant"]
        keys = [digests[place - 1] for place in reversed(answers)] if told is None else [b"header " + told]
        name = next((self._names[key] for key in keys if key in self._names), None)
        if name is None:
            self._count += 1
            name = f"session-{self._count}"
        if told is not None:
            self._names[keys[0]] = name
        if digests:
            self._names[digests[-1]] = name
        return name

    def delay_ms(self, name: str, arrived_ns: int) -> float | None:
        """From the end of the session's last answer; None before the first."""
        ended_ns = self._ends_ns.get(name)
        return None if ended_ns is None else max(0.0, milliseconds(arrived_ns - ended_ns))

    def ended(self, name: str, end_ns: int) -> None:
        self._ends_ns[name] = end_ns


def _digests(messages: Sequence[FileMessage]) -> Any:
    """Of each beginning of a chat."""
    state = hashlib.blake2b(digest_size=16)
    for message in messages:
        state.update(msgspec.json.encode(message.message()))
        yield state.digest()


class RowFile:
    """Rows in the order of arrival, each written once all before it have ended. `failure`: why no more can be."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._ended: dict[int, Row | None] = {}
        self._next = 0
        self.written = 0
        self.failure = ""

    def put(self, number: int, row: Row | None) -> None:
        """Request `number`, from 0, has ended; None: without a row."""
        self._ended[number] = row
        while self._next in self._ended:
            self._write(self._ended.pop(self._next))
            self._next += 1

    def close(self) -> None:
        """Write what waits for requests that never ended."""
        for number in sorted(self._ended):
            self._write(self._ended.pop(number))
        self._file.close()

    def _write(self, row: Row | None) -> None:
        if row is None or self.failure:
            return
        try:
            self._file.write(msgspec.json.encode(row) + b"\n")
            self._file.flush()
            self.written += 1
        except OSError as error:
            self.failure = error.strerror or str(error)


def milliseconds(ns: int) -> float:
    """To the microsecond."""
    return round(ns / NS_PER_MS, 3)
