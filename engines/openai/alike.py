"""Events that differ in their text alone, as nearly all of a token stream do.

One event from the middle of an answer is taken as the template: what stands before and after its text.
The others are shown to match it by comparing bytes (`cast`, which is compiled: without a compiler nothing is taken
here), and only their texts are decoded, in one call; that costs a fraction of parsing each event. What comes before the
first and after the last such event (head, role, finish reason, usage, `[DONE]`) is left over as a short
stream of its own, for a parser that knows more.

The one rule of this file: when anything is odd, answer None, and the whole stream is parsed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from engines.openai.events import SAYS, decode_event, text_of

try:
    from engines.http._stream import cast

    COMPILED = True
except ImportError:  # no compiler where this was installed
    COMPILED = False

MIN_EVENTS = 8
"""Fewer alike events than this aren't worth a template."""

MIN_BYTES = 2048
"""Nor is a whole answer shorter than this."""

MAX_ODD_READS = 4
"""So many reads at either end may hold something else."""

_EVENT_BEGIN = b"\r\ndata: {"
_EVENT_END = b"}\n\n\r\n"
_DONE = b"[DONE]"
_TEXT = re.compile(rb'"(?:content|text)":"((?:[^"\\]|\\.)*)"')
_decode_texts = msgspec.json.Decoder(list[str]).decode


class Alike(NamedTuple):
    """`texts` of the alike events; `all_say`: none of them is empty. `rest` are the reads without them: what came before them
    in the first `reads_before`. `counts` are the alike events in each of the reads between. `parted` is the
    place of a read that was looked at in three parts: before them, they, and after."""

    rest: list[bytes]
    reads_before: int
    counts: list[int]
    texts: list[str]
    all_say: bool
    parted: int | None = None


class Template(NamedTuple):
    """What stands around the text of an event, framing included but for the chunk size's digits.
    `empty_is_token`: whether an event with an empty text may be one."""

    before: bytes
    after: bytes
    empty_is_token: bool


def take_alike(reads: Sequence[bytes]) -> Alike | None:
    """The alike events of a response, of one read or more, that hold whole events, one event a chunk; None where that
    is not certain."""
    if not COMPILED:
        return None
    if len(reads) < MIN_EVENTS:
        largest = max(reads, key=len)
        return None if len(largest) < MIN_BYTES else _take_from(largest, list(reads))
    template = _template(reads[len(reads) // 2])
    if template is None:
        return None
    reads = list(reads)
    first = next((index for index in range(MAX_ODD_READS) if _is_cast(reads, index, template)), None)
    last = next((index for index in range(len(reads) - 1, len(reads) - 1 - MAX_ODD_READS, -1) if _is_cast(reads, index, template)), None)
    if first is None or last is None:
        return None
    matched = cast(reads, first, last + 1, template.before, template.after)
    texts = None if matched is None else _texts(matched, template)
    if matched is None or texts is None or _DONE in b"".join(reads[:first]):
        return None
    return Alike(reads[:first] + reads[last + 1 :], first, matched[0], *texts)


def _take_from(read: bytes, reads: list[bytes]) -> Alike | None:
    """The same where nearly the whole answer came in one of the reads."""
    middle = read.find(_EVENT_BEGIN, len(read) // 2)
    template = (
        _template(read[read.rfind(b"\n", 0, middle + 1) + 1 : read.find(_EVENT_END, middle) + len(_EVENT_END)]) if middle > 0 else None
    )
    if template is None:
        return None
    begin, end = read.find(template.after) + len(template.after), read.rfind(template.after) + len(template.after)
    matched = cast([read[begin:end]], 0, 1, template.before, template.after)
    texts = None if matched is None else _texts(matched, template)
    largest = reads.index(read)
    before = [*reads[:largest], read[:begin]]
    if matched is None or texts is None or _DONE in b"".join(before):
        return None
    return Alike([*before, read[end:], *reads[largest + 1 :]], largest + 1, matched[0], *texts, largest)


def _is_cast(reads: list[bytes], index: int, template: Template) -> bool:
    return cast(reads, index, index + 1, template.before, template.after) is not None


def _template(read: bytes) -> Template | None:
    """From the first event of a read, which must be nothing but a token."""
    start = read.find(_EVENT_BEGIN)
    end = read.find(_EVENT_END, start)
    if start < 0 or end < 0:
        return None
    begin = start + len(_EVENT_BEGIN) - 1
    event = read[begin : end + 1]
    match = _TEXT.search(event)
    if match is None:
        return None
    try:
        parsed = decode_event(event)
        (text,) = _decode_texts(b'["%b"]' % match[1])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if parsed.usage is not None or parsed.error is not None or parsed.object == "error" or not parsed.choices:
        return None
    choice = parsed.choices[0]
    if choice.finish_reason is not None or choice.usage is not None or not text or text_of(choice) != (text, SAYS):
        return None
    empty_is_token = choice.delta is None or choice.delta.role is None
    return Template(read[start : begin + match.start(1)], read[begin + match.end(1) : end + len(_EVENT_END)], empty_is_token)


def _texts(matched: tuple[list[int], int, int, bytes], template: Template) -> tuple[list[str], bool] | None:
    """The texts of a match, and whether all have something in them; None where one is no JSON string, or no token.

    A quote in one of them would make the list longer, and none can swallow the quote behind it (`cast`
    sees to that): so a list of the right length has them one by one.
    """
    _, count, empty, listed = matched
    try:
        texts = _decode_texts(listed)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return (texts, not empty) if len(texts) == count and (template.empty_is_token or not empty) else None
