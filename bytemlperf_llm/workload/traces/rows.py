"""What every trace reader yields."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import msgspec

from bytemlperf.units import NS_PER_S
from bytemlperf_llm.workload.data_files import bad, echo
from engines.contract import Message

MAX_ROW_TOKENS = 1 << 24
"""Past it a length is another column's value, not a request."""

MAX_TIME_S = Decimal(10) ** 11
"""Three thousand years: past it a time is in another unit than its format's."""

BLOCK_SIZE_FIX = "give the tokens of one hash id with --trace-block-size"


class TraceRow(msgspec.Struct, frozen=True, kw_only=True):
    """One request of a trace.

    `line` is where it stands in its file, from 1. `at_ns` counts from a zero of the file's own; None
    where the format has no times. The prompt is either a number of tokens, to be made up, with
    `hash_ids` for its blocks where the format has them, or it is there as `messages`.
    `output_tokens` None: not said, though `answer` may hold the recorded answer's text. `unusable` says which
    and why where the row can't be sent: such rows are left out and counted.
    """

    line: int
    at_ns: int | None = None
    prompt_tokens: int | None = None
    hash_ids: tuple[int, ...] = ()
    messages: tuple[Message, ...] | None = None
    output_tokens: int | None = None
    answer: str | None = None
    session: str | None = None
    unusable: str = ""


def seconds_ns(seconds: Decimal, unit_s: Decimal = Decimal(1)) -> int:
    """Nanoseconds, to the nearest one; exact, since decimal."""
    return round(seconds * unit_s * NS_PER_S)


def file_ns(path: Path, line: int, field: str, value: Decimal, unit_s: Decimal) -> int:
    """A time of a row in ns. Raises UserError where it is none."""
    if not value.is_finite() or not 0 <= value <= MAX_TIME_S / unit_s:
        raise bad(path, line, field, f"{echo(value)} is not a time", "give 0 or more")
    return seconds_ns(value, unit_s)


def misfit(ids: int, tokens: int, size: int) -> str:
    """What is wrong where so many tokens aren't so many blocks of `size`; a last one that isn't full may have an id. Empty: nothing."""
    blocks = -(-tokens // size)
    return f"{ids} ids, and {tokens} prompt tokens are {blocks} blocks of {size}" if ids and abs(ids - blocks) > 1 else ""
