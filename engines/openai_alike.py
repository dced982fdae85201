"""Events that differ in their text alone, as nearly all of a token stream do.

One event from the middle of an answer is taken as the mould: what stands before and after its text.
The others are shown to be cast from it by comparing bytes in C, and only their texts are decoded, in
one call; that costs a fifth of parsing each event. What comes before the first and after the last such
event (head, role, finish reason, usage, `[DONE]`) is left over as a short stream of its own, for a
parser that knows more.

The one rule of this file: when anything is odd, answer None, and the whole stream is parsed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import repeat
from typing import NamedTuple

import msgspec

from engines.openai_events import decode_event, text_of

MIN_EVENTS = 8
"""Fewer alike events than this aren't worth the mould."""

_EVENT_BEGIN = b"\r\ndata: {"
_EVENT_END = b"}\n\n\r\n"
_TEXT = re.compile(rb'"(?:content|text)":"((?:[^"\\]|\\.)*)"')
_FRAMING_BYTES = 4  # CR LF behind a chunk's size and behind its data
_MAX_DIGITS = 6
_decode_texts = msgspec.json.Decoder(list[str]).decode


class Alike(NamedTuple):
    """`texts` of the alike events; `rest` is the stream without them, `events_before` how many of its events
    come before them."""

    rest: bytes
    events_before: int
    texts: list[str]


class Mould(NamedTuple):
    """What stands around the text of an event, framing included but for the chunk size's digits.
    `empty_is_token`: whether an event with an empty text counts as one."""

    before: bytes
    after: bytes
    empty_is_token: bool


def take_alike(stream: bytes) -> Alike | None:
    """The alike events of a response with one event a chunk; None where that is not certain."""
    mould = _mould(stream)
    if mould is None:
        return None
    first, *middle, last = stream.split(mould.after)
    if len(middle) < MIN_EVENTS:
        return None
    texts = _cast(middle, mould)
    if texts is None or not (mould.empty_is_token or all(texts)):
        return None
    leading = first + mould.after
    return Alike(leading + last, leading.count(_EVENT_END), texts)


def _mould(stream: bytes) -> Mould | None:
    """From the event in the middle, which must be nothing but a token."""
    start = stream.rfind(_EVENT_BEGIN, 0, len(stream) // 2)
    end = stream.find(_EVENT_END, start)
    if start < 0 or end < 0:
        return None
    begin = start + len(_EVENT_BEGIN) - 1
    event = stream[begin : end + 1]
    found = _TEXT.search(event)
    if found is None:
        return None
    try:
        parsed = decode_event(event)
        (text,) = _decode_texts(b'["%b"]' % found[1])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    if parsed.usage is not None or parsed.error is not None or parsed.object == "error" or not parsed.choices:
        return None
    choice = parsed.choices[0]
    if choice.finish_reason is not None or not text or text_of(choice) != (text, 1):
        return None
    empty_is_token = choice.delta is None or choice.delta.role is None
    return Mould(stream[start : begin + found.start(1)], stream[begin + found.end(1) : end + len(_EVENT_END)], empty_is_token)


def _cast(pieces: Sequence[bytes], mould: Mould) -> list[str] | None:
    """The texts of events, given without what stands behind their texts; None unless all are of the mould."""
    after, before = len(mould.after), len(mould.before)
    lengths = list(map(len, pieces))
    places = [_digits(length + after) + before for length in {min(lengths), max(lengths)}]
    if places[0] == places[-1]:
        place = places[0]
        heads = {piece[:place] for piece in pieces}
        raw = [piece[place:] for piece in pieces]
    else:
        places = [_digits(length + after) + before for length in lengths]
        heads = {piece[:place] for piece, place in zip(pieces, places, strict=True)}
        raw = [piece[place:] for piece, place in zip(pieces, places, strict=True)]
    expected = {_size_digits(length + after) + mould.before for length in set(lengths)}
    return _texts(raw) if heads == expected else None


@lru_cache(maxsize=4096)
def _size_digits(chunk_bytes: int) -> bytes:
    """The hexadecimal size of a chunk that takes so many bytes, size line and line ends included; empty
    where no size fits (one digit more would be needed, and then it is a byte too long)."""
    for digits in range(1, _MAX_DIGITS + 1):
        size = b"%x" % max(chunk_bytes - _FRAMING_BYTES - digits, 0)
        if len(size) == digits:
            return size
    return b""


def _digits(chunk_bytes: int) -> int:
    return len(_size_digits(chunk_bytes))


def _texts(raw: Sequence[bytes]) -> list[str] | None:
    """Insides of JSON strings as texts; None where one is no such thing.

    They are decoded as one list. A quote in one of them makes the list longer, and none can swallow the
    quote behind it, since none ends in a backslash: so a list of the right length has them one by one.
    """
    joined = b'["%b"]' % b'","'.join(raw)
    if b"\\" in joined and any(map(bytes.endswith, raw, repeat(b"\\"))):
        return None
    try:
        texts = _decode_texts(joined)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return texts if len(texts) == len(raw) else None
