"""Values of a JSON file that may be of hundreds of megabytes, read one by one: those of a list, or one after another."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path
from typing import Any

import msgspec

from bytemlperf.errors import UserError
from bytemlperf_llm.workload.data_files import NESTED, bad, decode, echo, lines, open_data

READ_CHARS = 1 << 20
MAX_OBJECT_CHARS = 64 << 20
ANY = msgspec.json.Decoder(Any)
ID = re.compile(r'"id"\s*:\s*"([^"]{1,100})"')


def values(path: Path, noun: str, form: str) -> Iterator[tuple[int, Any]]:
    """(line it starts on, value) of each element of a JSON list, or of JSON values one after another. Raises UserError, which calls a value
    `noun` and gives the `form` of the file."""
    if _is_a_line(next(lines(path), (1, b""))[1]):
        for number, text in lines(path):
            yield number, decode(ANY, text, path, number, form)
        return
    with open_data(path) as raw, TextIOWrapper(raw, encoding="utf-8-sig", errors="surrogateescape") as file:
        window = _Window(path, file, noun, form)
        listed = window.next_char(" \t\r\n") == "["
        if listed:
            window.skip()
        while (char := window.next_char(" \t\r\n,")) != ("]" if listed else ""):
            if not char:
                problem = f"the list does not end, after {window.count} {noun}s"
                raise bad(path, window.line, "file", problem, "the file is cut short: fetch it again")
            line = window.line
            yield line, window.value()


def _is_a_line(raw: bytes) -> bool:
    """Whether a value stands on a line of its own, as the others then do: quicker to decode."""
    try:
        return raw.startswith(b"{") and ANY.decode(raw) is not None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return False


class _Window:
    """A piece of a text file that moves on: at least the element that is being read."""

    def __init__(self, path: Path, file: TextIOWrapper, noun: str, form: str) -> None:
        self._path, self._file, self._noun, self._form = path, file, noun, form
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
        name = f"{self._noun} {self.count + 1}" + (f" (id {echo(found[1])})" if found else "")
        return bad(self._path, self.line, name, f"{problem}, near {near}", f"give {self._form}")

    def _read_more(self) -> bool:
        rest = self._text[self._at :]
        more = self._file.read(max(READ_CHARS, len(rest)))
        self._text, self._at = rest + more, 0
        return bool(more)
