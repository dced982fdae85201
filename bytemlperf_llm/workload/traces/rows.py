"""What every trace reader yields, and how a bad line is told."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import IO, Any

import msgspec

from bytemlperf_llm.errors import UserError
from engines.contract import Message

NS_PER_S = 1_000_000_000
MAX_ROW_TOKENS = 1 << 24
"""Past it a length is another column's value, not a request."""

MAX_LINE_BYTES = 64 << 20
MAX_ECHO_CHARS = 60
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class TraceRow(msgspec.Struct, frozen=True, kw_only=True):
    """One request of a trace.

    `line` is where it stands in its file, from 1. `at_ns` counts from a zero of the file's own; None
    where the format has no times. The prompt is either a number of tokens, to be made up, with
    `hash_ids` for its blocks where the format has them, or it is there as `messages`.
    `output_tokens` None: not said, though `answer` may hold the recorded answer's text.
    """

    line: int
    at_ns: int | None = None
    prompt_tokens: int | None = None
    hash_ids: tuple[int, ...] = ()
    messages: tuple[Message, ...] | None = None
    output_tokens: int | None = None
    answer: str | None = None
    session: str | None = None


def bad(path: Path, line: int, field: str, problem: str, fix: str) -> UserError:
    """The error for one field of one line."""
    return UserError(f"{path}:{line}: {field}: {problem}", fix)


def echo(value: object) -> str:
    """`value` in quotes, on one line, cut to a length that fits it."""
    text = "".join(char if char.isprintable() else " " for char in str(value))
    return f"'{text}'" if len(text) <= MAX_ECHO_CHARS else f"'{text[:MAX_ECHO_CHARS]}...'"


def open_trace(path: Path) -> IO[bytes]:
    """The file, open for reading. Raises UserError."""
    try:
        return path.open("rb")
    except OSError as error:
        raise UserError(f"trace {path} can't be read: {error.strerror}", "give the path of the trace file with --dataset-path") from None


def raw_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """(number, line with its end) of every line; one line in memory. Raises UserError."""
    with open_trace(path) as file:
        number = 0
        while raw := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(raw) > MAX_LINE_BYTES:
                raise bad(path, number, "line", f"longer than {MAX_LINE_BYTES >> 20} MiB", "give a trace with one request a line")
            yield number, raw.removeprefix(BYTE_ORDER_MARK) if number == 1 else raw


def lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """(number, line) of every line that isn't empty. Raises UserError."""
    for number, raw in raw_lines(path):
        if line := raw.strip():
            yield number, line


def seconds_ns(seconds: Decimal, unit_s: Decimal = Decimal(1)) -> int:
    """Nanoseconds, to the nearest one; exact, since decimal."""
    return round(seconds * unit_s * NS_PER_S)


def field_of(error: msgspec.ValidationError) -> tuple[str, str]:
    """(field, problem) of what msgspec says: "Expected `int`, got `str` - at `$.input_length`"."""
    problem, _, where = str(error).partition(" - at ")
    field = where.strip("`").removeprefix("$").lstrip(".")
    if not field and problem.startswith("Object missing required field"):
        field = problem.rsplit("`", 2)[-2]
    return field or "line", problem


def decode(decoder: msgspec.json.Decoder[Any], raw: bytes, path: Path, line: int, form: str) -> Any:
    """One JSON line as the decoder's type. Raises UserError that names the field."""
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError as error:
        field, problem = field_of(error)
        raise bad(path, line, field, problem, f"give each line as {form}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise bad(path, line, "line", f"not JSON: {error}", f"give each line as {form}") from None
