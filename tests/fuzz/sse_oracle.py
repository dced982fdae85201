"""The event-stream rules again, written the slow and obvious way, to judge `engines.http.sse` by.

One byte after the other, no fast paths, nothing shared with the parser under test.
"""

from __future__ import annotations


def read_lines(stream: bytes) -> tuple[list[bytes], bytes]:
    """Every finished line, and what is left after the last line end."""
    lines: list[bytes] = []
    line = bytearray()
    previous = 0
    for byte in stream:
        if byte == 0x0A and previous == 0x0D:
            pass
        elif byte in (0x0A, 0x0D):
            lines.append(bytes(line))
            line.clear()
        else:
            line.append(byte)
        previous = byte
    return lines, bytes(line)


def read_events(stream: bytes) -> list[tuple[bytes, str]]:
    """(data, event) of every event that a blank line sent off."""
    events: list[tuple[bytes, str]] = []
    data: bytearray = bytearray()
    kind = ""
    for line in read_lines(stream.removeprefix(b"\xef\xbb\xbf"))[0]:
        if not line:
            if data:
                events.append((bytes(data[:-1]), kind or "message"))
            data, kind = bytearray(), ""
            continue
        colon = line.find(b":")
        field, value = (line, b"") if colon < 0 else (line[:colon], line[colon + 1 :])
        if value[:1] == b" ":
            value = value[1:]
        if field == b"data":
            data += value + b"\n"
        if field == b"error":
            data += value + b"\n"
            kind = "error"
        if field == b"event":
            kind = value.decode("utf-8", "replace")
    return events
