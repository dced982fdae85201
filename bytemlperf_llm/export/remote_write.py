"""Prometheus' remote write 1.0: a snappy-framed protobuf message of time series.

The message is small and of four types with scalar fields, so it's encoded here: varints and length-delimited
fields (protobuf's encoding guide), and a snappy block of literals only, which every snappy reader takes.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from bytemlperf.export.http import JOB, below, checked_url, post

if TYPE_CHECKING:
    from bytemlperf.export.prometheus import Exporter

PATH = "/api/v1/write"
NS_PER_MS = 1_000_000
_LITERAL_BYTES = 60  # the longest literal whose length fits its tag


class Series(NamedTuple):
    """One sample of one series; labels in the order of their names, `__name__` among them."""

    labels: tuple[tuple[str, str], ...]
    value: float
    timestamp_ms: int


class RemoteWrite:
    """A receiver of remote write, such as Prometheus with --web.enable-remote-write-receiver."""

    def __init__(self, url: str, instance: str) -> None:
        self.name = "remote write"
        checked = checked_url("--remote-write", url)
        self._url = checked if urlsplit(checked).path else below(checked, PATH)
        self._instance = instance

    def push(self, exporter: Exporter) -> None:
        """One sample of every series, now."""
        body = snappy_block(write_request(series_of(exporter, self._instance, time.time_ns() // NS_PER_MS)))
        headers = {"Content-Encoding": "snappy", "X-Prometheus-Remote-Write-Version": "0.1.0"}
        post(self._url, body, "application/x-protobuf", headers)


def series_of(exporter: Exporter, instance: str, timestamp_ms: int) -> Iterator[Series]:
    """Everything that a scrape would give."""
    for family in exporter.collect():
        for sample in family.samples:
            labels = {**sample.labels, "__name__": sample.name, "job": JOB, "instance": instance}
            yield Series(tuple(sorted(labels.items())), float(sample.value), timestamp_ms)


def write_request(series: Iterable[Series]) -> bytes:
    """prometheus.WriteRequest: timeseries = 1 {labels = 1 {name = 1, value = 2}, samples = 2 {value = 1, timestamp = 2}}."""
    message = bytearray()
    for each in series:
        parts = [_field(1, _field(1, name.encode()) + _field(2, value.encode())) for name, value in each.labels]
        sample = b"\x09" + struct.pack("<d", each.value) + b"\x10" + varint(each.timestamp_ms)
        message += _field(1, b"".join(parts) + _field(2, sample))
    return bytes(message)


def _field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def varint(value: int) -> bytes:
    """Seven bits a byte, lowest first. `value` is not negative."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def snappy_block(content: bytes) -> bytes:
    """The content as literals of a snappy block (its format description, 2.1)."""
    block = bytearray(varint(len(content)))
    for start in range(0, len(content), _LITERAL_BYTES):
        literal = content[start : start + _LITERAL_BYTES]
        block.append(len(literal) - 1 << 2)
        block += literal
    return bytes(block)
