"""What every trace reader yields."""

from __future__ import annotations

from decimal import Decimal

import msgspec

from bytemlperf.units import NS_PER_S
from engines.contract import Message

MAX_ROW_TOKENS = 1 << 24
"""Past it a length is another column's value, not a request."""

MAX_TIME_S = Decimal(10) ** 11
"""Three thousand years: past it a time is in another unit than its format's."""


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
