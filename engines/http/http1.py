"""HTTP/1.1 responses without I/O: bytes in, framing out.

A load generator must not think while bytes arrive. So the live side (`ResponseWatcher`) answers
one question only, "is the response complete?", and the bytes themselves are kept as they came;
`parse_response` takes them apart afterwards, when the request is over.

Two rules for this file:
1. Any bytes give a result or one `HttpParseError`, nothing else.
2. The watcher looks at a read only if it could be the last one. A chunked body ends with CRLF CRLF
   over the whole stream, so a read that does not end so can't be the last (reads shorter than that
   are looked at always, since the ending may lie across two reads). A caller that knows this too
   holds back reads that end with `QUIET_READ` once `quiet` is set, and hands them in with the next one.

Grammar: RFC 9112 sections 4, 6 and 7.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import Enum
from functools import lru_cache
from typing import Any, NamedTuple

MAX_HEAD_BYTES = 64 * 1024
MAX_CHUNK_HEAD_BYTES = 4 * 1024
CRLF = b"\r\n"
_END = b"\r\n\r\n"
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9]\d\d)(?: [^\r\n]*)?")
_HEX = re.compile(rb"[0-9a-fA-F]{1,15}")


class HttpParseError(ValueError):
    """The bytes are not an HTTP/1.1 response."""


class HttpTooLarge(HttpParseError):
    """A head, a chunk-size line or trailers over their limit."""


class Framing(Enum):
    """How the end of the body is known (RFC 9112 section 6.3)."""

    NONE = "none"
    CHUNKED = "chunked"
    LENGTH = "length"
    UNTIL_CLOSE = "until_close"


class Head(NamedTuple):
    """A response head. Header names are lower case; the last of equal names wins, but
    for Server-Timing, a list over all of them. Heads are shared
    between equal responses: don't change `headers`."""

    status: int
    headers: dict[str, str]
    framing: Framing
    content_length: int
    keep_alive: bool


class Response(NamedTuple):
    """A response taken apart. `spans` are the (start, end) places of the body's pieces in the
    joined reads, in order; `complete` is False when the bytes ended before the framing did."""

    head: Head
    spans: list[tuple[int, int]]
    complete: bool


def parse_head(data: bytes, start: int = 0) -> tuple[Head, int] | None:
    """The first final head in `data`, and where its body begins; None while it is incomplete.

    Interim responses (1xx) are skipped; with them the head may have `MAX_HEAD_BYTES`. Raises HttpParseError.
    """
    head, end = _final_head(data, start)
    return None if head is None else (head, end)


def _final_head(data: bytes, start: int, bytes_before: int = 0) -> tuple[Head | None, int]:
    """The first final head and its end; where there is none yet, None and the end of the interim heads before it."""
    begin = start - bytes_before
    while True:
        end = data.find(_END, start)
        if (len(data) if end < 0 else end) - begin > MAX_HEAD_BYTES:
            raise HttpTooLarge("response head is over 64 KiB")
        if end < 0:
            if not b"HTTP/1.".startswith(data[start : start + 7]):
                raise HttpParseError("not an HTTP/1.1 response")
            return None, start
        head = _head(data[start:end])
        start = end + len(_END)
        if head.status >= 200:
            return head, start


@lru_cache(maxsize=256)
def _head(block: bytes) -> Head:
    """Cached, since a server's heads repeat (but for a date or an id)."""
    lines = block.split(CRLF)
    match = _STATUS_LINE.fullmatch(lines[0])
    if match is None:
        raise HttpParseError("not an HTTP/1.1 response")
    headers: dict[str, str] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(b":")
        if not colon or not name or name != name.strip() or b"\n" in line:
            raise HttpParseError("malformed response header")
        headers[name.decode("latin-1").lower()] = value.strip().decode("latin-1")
    if "server-timing" in headers:
        headers["server-timing"] = ", ".join(_values(lines, b"server-timing"))
    status = int(match[2])
    framing, length = _framing(status, headers)
    connection = headers.get("connection", "").lower()
    keep_alive = "close" not in connection if match[1] == b"1" else "keep-alive" in connection
    return Head(status, headers, framing, length, keep_alive and framing is not Framing.UNTIL_CLOSE)


def _values(lines: Sequence[bytes], name: bytes) -> list[str]:
    """Of a header that may come several times."""
    pairs = (line.partition(b":") for line in lines)
    return [value.strip().decode("latin-1") for key, _, value in pairs if key.lower() == name]


def _framing(status: int, headers: dict[str, str]) -> tuple[Framing, int]:
    if status < 200 or status in (204, 304):
        return Framing.NONE, 0
    coding = headers.get("transfer-encoding", "identity")
    if coding.lower() != "identity":
        if coding.lower().split(",")[-1].strip() != "chunked":
            raise HttpParseError("transfer coding is not chunked")
        return Framing.CHUNKED, 0
    length = headers.get("content-length")
    if length is None:
        return Framing.UNTIL_CLOSE, 0
    if not length.isascii() or not length.isdigit() or len(length) > 15:
        raise HttpParseError("malformed Content-Length")
    return (Framing.LENGTH, int(length)) if int(length) else (Framing.NONE, 0)


class ChunkScanner:
    """Walks a chunked body: `scan` goes as far as the bytes allow and can be called again.

    `spans` collects the places of the chunk data when asked to keep them.
    """

    __slots__ = ("done", "missing", "position", "spans")

    def __init__(self, start: int) -> None:
        self.position = start  # of the next chunk-size line
        self.missing = 0  # bytes without which another walk would find nothing new
        self.done = False
        self.spans: list[tuple[int, int]] = []

    def scan(self, data: bytes) -> bool:
        """True when the terminating chunk and its trailers are all there. Raises HttpParseError."""
        find, length = data.find, len(data)
        self.missing = 0
        while not self.done:
            line_end = find(CRLF, self.position)
            if line_end < 0:
                if length - self.position > MAX_CHUNK_HEAD_BYTES:
                    raise HttpTooLarge("chunk size line is over 4 KiB")
                return False
            size = _chunk_size(data, self.position, line_end)
            if size == 0:
                return self._trailers(data, line_end)
            begin = line_end + 2
            end = begin + size
            if length < end + 2:
                self.missing = end + 2 - length
                return False
            if data[end : end + 2] != CRLF:
                raise HttpParseError("chunk data does not end where its size says")
            self.spans.append((begin, end))
            self.position = end + 2
        return True

    def _trailers(self, data: bytes, line_end: int) -> bool:
        """Trailers are header lines up to an empty one; with none the empty line follows at once."""
        if data.startswith(CRLF, line_end + 2):
            end = line_end + 4
        else:
            blank_line = data.find(_END, line_end + 2)
            if blank_line < 0:
                if len(data) - line_end > MAX_HEAD_BYTES:
                    raise HttpTooLarge("trailers are over 64 KiB")
                return False
            end = blank_line + 4
        self.position = end
        self.done = True
        return True

    def partial_span(self, data: bytes) -> tuple[int, int] | None:
        """The data of an unfinished last chunk, for telling what a cut stream had delivered."""
        line_end = data.find(CRLF, self.position)
        if self.done or line_end < 0:
            return None
        size = _chunk_size(data, self.position, line_end)
        begin = line_end + 2
        return (begin, min(begin + size, len(data))) if size and begin < len(data) else None


def _chunk_size(data: bytes, start: int, line_end: int) -> int:
    digits, _, _extension = data[start:line_end].partition(b";")
    match = _HEX.fullmatch(digits.strip(b" \t"))
    if match is None:
        raise HttpParseError("malformed chunk size")
    return int(match[0], 16)


_LAST_CHUNK = b"0\r\n\r\n"
QUIET_READ = b"\n\n\r\n"
"""How nearly every read of an event stream ends: an event's blank line, a chunk's CRLF. Not CRLF CRLF,
so never the end of a chunked body."""


class ResponseWatcher:
    """Tells, read by read, whether the response is complete. See rule 2 above.

    `ending` is content after which nothing of meaning can follow (an event stream's `[DONE]`): a
    chunk that ends so, followed by the last chunk, ends the response without a walk over all chunks.
    Were that ever wrong, the bytes that still came would meet a connection that expects none.
    """

    __slots__ = (
        "_ending",
        "_interim_bytes",
        "_length_left",
        "_missing",
        "_pending",
        "_scanned",
        "_scanner",
        "_whole_ending",
        "head",
        "quiet",
    )

    def __init__(self, ending: bytes = b"") -> None:
        self.head: Head | None = None
        self.quiet = False
        self._pending: list[bytes] = []
        self._interim_bytes = 0  # of heads that are done with
        self._scanner: ChunkScanner | None = None
        self._scanned = 0  # of the pending reads
        self._missing = 0  # of the chunk that they begin
        self._length_left = 0
        self._ending = ending + CRLF
        self._whole_ending = ending + CRLF + _LAST_CHUNK if ending else b""

    def feed(self, data: bytes, held_back: Sequence[bytes] = ()) -> bool:
        """True when `data` completed the response; `held_back` are quiet reads that came before it.
        Raises HttpParseError."""
        head = self.head
        if head is None:
            return self._feed_head(data)
        if head.framing is Framing.CHUNKED:
            self._pending += held_back
            if data.endswith(_END) or len(data) < len(_END):
                return self._ends_surely(data) or self._scan(data)
            self._pending.append(data)
            return False
        if head.framing is Framing.LENGTH:
            self._length_left -= len(data)
            if self._length_left < 0:
                raise HttpParseError("body is longer than its Content-Length")
            return self._length_left == 0
        return head.framing is Framing.NONE

    def _ends_surely(self, data: bytes) -> bool:
        whole = self._whole_ending
        if not whole:
            return False
        return data.endswith(whole) or (data == _LAST_CHUNK and bool(self._pending) and self._pending[-1].endswith(self._ending))

    def _feed_head(self, data: bytes) -> bool:
        joined = b"".join((*self._pending, data)) if self._pending else data
        head, start = _final_head(joined, 0, self._interim_bytes)
        if head is None:
            self._interim_bytes += start
            self._pending = [joined[start:]]
            return False
        self.head = head
        self._pending.clear()
        if self.head.framing is Framing.CHUNKED:
            self.quiet = True
            if self._whole_ending and joined.endswith(self._whole_ending):
                return True
            self._scanner = ChunkScanner(0)
            return start < len(joined) and self._scan(joined[start:])
        if self.head.framing is Framing.LENGTH:
            self._length_left = self.head.content_length - (len(joined) - start)
            if self._length_left < 0:
                raise HttpParseError("body is longer than its Content-Length")
            return self._length_left == 0
        return self.head.framing is Framing.NONE

    def _scan(self, data: bytes) -> bool:
        """Walk over what came since the last walk, unless it can't have ended the chunk that was open then; what is left
        over stays for the next."""
        scanner, pending = self._scanner, self._pending
        assert scanner is not None
        pending.append(data)
        self._missing -= sum(map(len, pending[self._scanned :]))
        self._scanned = len(pending)
        if self._missing > 0:
            return False
        data = b"".join(pending)
        done = scanner.scan(data)
        if done and data[scanner.position :].strip(b"\r\n"):
            raise HttpParseError("bytes after the end of the response")
        self._pending = [data[scanner.position :]]
        self._scanned, self._missing = 1, scanner.missing
        scanner.position = 0
        scanner.spans.clear()
        return done

    def finished_by_close(self) -> bool:
        """Whether a closed connection is a proper end here."""
        return self.head is not None and self.head.framing is Framing.UNTIL_CLOSE


def parse_response(data: bytes) -> Response | None:
    """Take a whole response apart; None when not even its head is complete. Raises HttpParseError."""
    parsed = parse_head(data)
    if parsed is None:
        return None
    head, start = parsed
    if head.framing is Framing.CHUNKED:
        scanner = ChunkScanner(start)
        complete = scanner.scan(data)
        tail = None if complete else scanner.partial_span(data)
        return Response(head, scanner.spans + ([tail] if tail else []), complete)
    if head.framing is Framing.LENGTH:
        end = min(len(data), start + head.content_length)
        return Response(head, [(start, end)], end - start == head.content_length)
    spans = [(start, len(data))] if head.framing is Framing.UNTIL_CLOSE else []
    return Response(head, spans, True)


def head_and_body(payloads: Sequence[Any]) -> tuple[Head, bytes]:
    """The reads of a response, head included, or a `Head` followed by reads of its body, put together. Raises HttpParseError."""
    if payloads and isinstance(payloads[0], Head):
        return payloads[0], b"".join(payloads[1:])
    joined = b"".join(payloads)
    response = parse_response(joined)
    if response is None:
        raise HttpParseError("no response head")
    return response.head, b"".join([joined[start:end] for start, end in response.spans])
