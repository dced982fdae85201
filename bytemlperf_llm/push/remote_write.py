"""Prometheus remote write 1.0: a snappy-compressed protobuf WriteRequest of time series.

The messages are small and fixed (WriteRequest{timeseries=1}, TimeSeries{labels=1, samples=2}, Label{name=1,
value=2}, Sample{value=1, timestamp=2}), so they are written here; snappy's block format allows a body of
literals alone, which is what a few kilobytes a second need.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping

HEADERS = {
    "Content-Type": "application/x-protobuf",
    "Content-Encoding": "snappy",
    "X-Prometheus-Remote-Write-Version": "0.1.0",
}
STALE = struct.unpack("<d", struct.pack("<Q", 0x7FF0000000000002))[0]
"""Prometheus' stale marker: the series has ended."""

LITERAL_BYTES = 1 << 16

Sample = tuple[str, Mapping[str, str], float]
"""Name, labels, value."""


def samples_of(families: Iterable[object], more: Mapping[str, str]) -> list[Sample]:
    """Every sample of a page; `more` are labels for all, which a sample's own go before."""
    return [(sample.name, {**more, **sample.labels}, float(sample.value)) for family in families for sample in family.samples]  # type: ignore[attr-defined]


def encode(samples: Iterable[Sample], at_ms: int) -> bytes:
    """The body of a request."""
    return snappy_literals(b"".join(_field(1, _series(name, labels, value, at_ms)) for name, labels, value in samples))


def snappy_literals(data: bytes) -> bytes:
    """Snappy's block format without a match: the length, then literals of at most 64 kB."""
    blocks = [data[start : start + LITERAL_BYTES] for start in range(0, len(data), LITERAL_BYTES)]
    return _varint(len(data)) + b"".join(b"\xf4" + struct.pack("<H", len(block) - 1) + block for block in blocks)


def _series(name: str, labels: Mapping[str, str], value: float, at_ms: int) -> bytes:
    """Labels are sorted by name, as the protocol asks."""
    ordered = sorted({**labels, "__name__": name}.items())
    label_bytes = b"".join(_field(1, _field(1, key.encode()) + _field(2, text.encode())) for key, text in ordered if text)
    sample = b"\x09" + struct.pack("<d", value) + b"\x10" + _varint(at_ms)
    return label_bytes + _field(2, sample)


def _field(number: int, content: bytes) -> bytes:
    """A length-delimited field."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
