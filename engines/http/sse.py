"""Server-sent events, parsed without I/O: bytes in, frozen events out.

Theory. A stream is lines that end in LF, CR or CRLF, and nothing else ends a line: U+2028, U+0085
and friends are ordinary content, which is why lines are cut as bytes and never as text. A line is
`field: value`; a line that begins with a colon is a comment; a blank line sends off the event
gathered so far. The rules are those of the WHATWG standard, section 9.2.6 "Interpreting an event
stream": https://html.spec.whatwg.org/multipage/server-sent-events.html

Rules of this file:

1. How the bytes were cut into `feed` calls never shows in the events or the fault.
2. Any bytes at all give events, then at most one `fault`. Nothing raises.
3. Memory stays under `max_event_bytes`, plus what one `feed` was given.

Where this differs from a browser: an event's data stays bytes, since JSON is decoded from bytes; nobody reconnects, so `id` and
`retry` say nothing; and a field `error`, which the standard ignores, makes an event of the name `error`, since servers send one.
"""

from __future__ import annotations

import msgspec

MAX_EVENT_BYTES = 16 * 1024 * 1024
"""The largest event taken: a hundred times the largest answer that a model writes in one piece."""

ERROR_EVENT = "error"
"""Name of an event that tells of a failure."""

_BOM = b"\xef\xbb\xbf"
_LF = b"\n"
_CR = b"\r"


class Event(msgspec.Struct, frozen=True):
    """One event. `data` is its data lines joined by LF."""

    data: bytes
    event: str = "message"


class SseParser:
    """One stream. `fault` is None until the stream breaks a limit, then it says which; from there on every byte is ignored."""

    __slots__ = ("_after_cr", "_at_start", "_data", "_event", "_held_bytes", "_line_bytes", "_line_parts", "_max_event_bytes", "fault")

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self.fault: str | None = None
        self._max_event_bytes = max_event_bytes
        self._line_parts: list[bytes] = []  # the line that has no end yet, as it came
        self._line_bytes = 0
        self._data: list[bytes] = []
        self._held_bytes = 0
        self._event = ""
        self._after_cr = False
        self._at_start = True

    def feed(self, data: bytes) -> list[Event]:
        """The events that `data` completes. Never raises; look at `fault` when it matters."""
        events: list[Event] = []
        if self.fault is not None or not data:
            return events
        if self._after_cr and data.startswith(_LF):  # the second half of a CRLF
            data = data[1:]
            if not data:
                self._after_cr = False
                return events
        self._after_cr = data.endswith(_CR)
        lines = data.splitlines()  # of bytes: at LF, CR and CRLF only
        rest = b"" if data.endswith((_LF, _CR)) else lines.pop()
        if lines and self._line_parts:
            lines[0] = b"".join((*self._line_parts, lines[0]))
            self._line_parts.clear()
            self._line_bytes = 0
        for line in lines:
            if self._too_large(len(line)):
                return events
            self._take_line(line, events)
        if rest:
            self._line_parts.append(rest)
            self._line_bytes += len(rest)
        self._too_large(self._line_bytes)
        return events

    def _too_large(self, line_bytes: int) -> bool:
        if self._held_bytes + line_bytes <= self._max_event_bytes:
            return False
        self.fault = f"an event is larger than {self._max_event_bytes} bytes"
        self._line_parts.clear()
        self._line_bytes = 0
        self._forget_event()
        return True

    def _take_line(self, line: bytes, events: list[Event]) -> None:
        if self._at_start:
            self._at_start = False
            line = line.removeprefix(_BOM)
        if line.startswith(b"data: "):  # nearly every line of nearly every stream
            self._data.append(line[6:])
            self._held_bytes += len(line) + 1
        elif line:
            self._take_field(line)
        else:
            if self._data:
                events.append(Event(_LF.join(self._data), self._event or "message"))
            self._forget_event()

    def _take_field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name in (b"data", b"error"):  # llama.cpp of 2025 puts the error there, where a data line belongs
            self._data.append(value)
            self._held_bytes += len(line) + 1
            self._event = ERROR_EVENT if name == b"error" else self._event
        elif name == b"event":
            self._event = value.decode("utf-8", "replace")

    def _forget_event(self) -> None:
        self._data = []
        self._held_bytes = 0
        self._event = ""
