"""Reading a run folder back: run.json, and every whole record of its logs.

A log that ends in the middle of a line (a crash, a full disk) gives every whole record and a
`Damage` that names the cut; so does a line in the middle that is no record. Nothing here raises
for what a log holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from bytemlperf.runs.files import lines_of, record_logs
from bytemlperf.runs.folder import read_run_json
from bytemlperf_llm.record.record import RequestRecord

MAX_DAMAGES_KEPT = 100


class Damage(NamedTuple):
    """Bytes of a log that are no record."""

    file: str
    offset_bytes: int
    length_bytes: int
    kind: str  # "torn tail" or "not a record"


class RunReader:
    """One run folder. `damages` fills while `records` is walked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.damages: list[Damage] = []
        self.run = read_run_json(folder)

    def logs(self) -> list[Path]:
        """The record logs in the order of their names."""
        return record_logs(self.folder)

    def records(self) -> Iterator[RequestRecord]:
        """Every whole record of every log, in the order written."""
        self.damages.clear()
        for path in self.logs():
            yield from self.records_of(path)

    def records_of(self, path: Path) -> Iterator[RequestRecord]:
        """Every whole record of one log; adds to `damages`."""
        decode = msgspec.json.Decoder(RequestRecord).decode
        offset = 0
        try:
            for line in lines_of(path):
                whole = line.endswith(b"\n")
                try:
                    if whole:
                        yield decode(line)
                    else:
                        self._damaged(path, offset, line, "torn tail")
                except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                    self._damaged(path, offset, line, "not a record")
                offset += len(line)
        except OSError as error:
            self._damaged(path, offset, b"", f"can't be read ({error.strerror})")

    def _damaged(self, path: Path, offset: int, line: bytes, kind: str) -> None:
        if len(self.damages) < MAX_DAMAGES_KEPT:
            self.damages.append(Damage(path.name, offset, len(line), kind))
