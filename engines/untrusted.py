"""JSON from outside: a server's bodies and events, files and folders that somebody else wrote.

`decode_json` is the one way in. Whatever the bytes are it ends with a value or with `UntrustedJson`: no recursion
error of a deeply nested value, no Unicode error, no `ValueError` of a number with ten thousand digits. How many
bytes there are is for the caller to limit.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, TypeVar, overload

import msgspec

MAX_DEPTH = 100
"""Arrays and objects inside each other: ten times what any format here has, and a tenth of what Python's recursion allows,
so that a value that was taken can be printed, compared and encoded again."""

MAX_INTEGER = 1 << 53
"""Counts beyond this are none: JSON's numbers are exact up to here (RFC 8259, section 6)."""

MAX_REASON_CHARS = 200

_NOT_NESTING = re.compile(rb'"(?:[^"\\]+|\\.)*"|[^\[\]{}"]+', re.DOTALL)

_BOM = b"\xef\xbb\xbf"

ValueT = TypeVar("ValueT")


class UntrustedJson(ValueError):
    """The bytes are no JSON, not of the shape asked for, or past a bound. The text is one short line."""


@overload
def decode_json(data: bytes | str, *, lenient: bool = False) -> Any: ...
@overload
def decode_json(data: bytes | str, type: type[ValueT], *, lenient: bool = False) -> ValueT: ...
def decode_json(data: bytes | str, type: Any = Any, *, lenient: bool = False) -> Any:
    """The value, of that type, behind a byte order mark or not; raises UntrustedJson alone.

    `lenient` also takes what isn't JSON but is met: NaN and infinities (as None), half a surrogate pair (it stays one in the text:
    see `whole_text`), control characters in strings.
    """
    try:
        raw = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data.removeprefix(_BOM)
        value = _lenient(raw, type) if lenient else msgspec.json.decode(raw, type=type)
        if _is_deeper(raw, MAX_DEPTH):
            raise RecursionError
    except RecursionError:
        raise UntrustedJson(f"nested deeper than {MAX_DEPTH} levels") from None
    except (msgspec.DecodeError, ValueError) as error:  # Unicode's errors are ValueErrors
        raise UntrustedJson(" ".join(str(error).split())[:MAX_REASON_CHARS]) from None
    return value


def _lenient(raw: bytes, type: Any) -> Any:
    try:
        return msgspec.json.decode(raw, type=type)
    except (msgspec.DecodeError, UnicodeDecodeError):
        value = json.loads(raw.decode("utf-8", "surrogatepass"), strict=False, parse_constant=lambda _: None, parse_float=_finite)
        return value if type is Any else msgspec.convert(value, type)


def _finite(digits: str) -> float | None:
    value = float(digits)
    return value if math.isfinite(value) else None


def _is_deeper(raw: bytes, depth: int) -> bool:
    """Whether valid JSON is nested deeper: what is left of its brackets once `depth` times every empty pair was taken away."""
    if raw.count(b"[") + raw.count(b"{") <= depth:
        return False
    brackets = _NOT_NESTING.sub(b"", raw)
    for _ in range(depth):
        if not brackets:
            return False
        brackets = brackets.replace(b"[]", b"").replace(b"{}", b"")
    return bool(brackets)


def whole_text(text: str) -> str:
    """Text that can be encoded: the halves of a surrogate pair joined, a half without its other replaced by U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def count_of(value: object, most: int = MAX_INTEGER) -> int | None:
    """A count out of JSON, also where it is written as 12.0 or "12"; None for whatever is none: a negative or broken number,
    text, more than `most`."""
    if isinstance(value, str):
        value = int(value) if value.isascii() and value.isdigit() and len(value) <= len(str(most)) else None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= most or value != int(value):
        return None
    return int(value)
