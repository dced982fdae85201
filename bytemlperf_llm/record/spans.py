"""spans.jsonl: what a server's spans say of the run's requests, a line each, on the records' time axis.

Written when the load has ended, from spans that were joined by trace id. Records are read back with it: their stages and durations.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import msgspec

from bytemlperf.runs.files import SPANS
from bytemlperf.runs.records import Damage, whole_lines
from engines.contract import Ns, ServerFacts, Stages

MAX_JOINED = 500_000
MAX_FILE_BYTES = 1 << 28
"""Of a file with a line for so many requests, and room to spare."""


class JoinedSpans(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A line: of request `id`, the server's durations, and its stamps where they lie between sent and end."""

    id: str
    durations_ns: dict[str, Ns] = {}
    stages: Stages | None = None


def from_spans(folder: Path) -> Callable[[str], JoinedSpans | None] | None:
    """What is known of a request by its id; None where a run has none. Never raises for what the file holds."""
    path = folder / SPANS
    if not os.path.lexists(path) or path.lstat().st_size > MAX_FILE_BYTES:
        return None
    damages: list[Damage] = []
    lines: dict[str, JoinedSpans] = {}
    for line in whole_lines(path, JoinedSpans, damages):
        lines[line.id] = line
        if len(lines) == MAX_JOINED:
            break
    return lines.get


def completed(server: ServerFacts | None, line: JoinedSpans) -> ServerFacts:
    """What the head of the response said, and the spans."""
    server = server or ServerFacts()
    return msgspec.structs.replace(server, durations_ns=server.durations_ns | line.durations_ns)
