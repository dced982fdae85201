"""A run's records, read back as dicts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from bytemlperf.runs.files import lines_of, record_logs


class RunRecords:
    """The records of a run folder as dicts, read anew each time they are walked; `damages` then has a
    sentence for each line that is no record. Without `samples` the caller takes figures without them,
    and a kind that has its figures in the summary need not read the records."""

    def __init__(self, folder: Path, *, samples: bool = True) -> None:
        self.folder, self.samples = folder, samples
        self.damages: list[str] = []

    def __iter__(self) -> Iterator[dict[str, Any]]:
        self.damages.clear()
        return suite_records(self.folder, self.damages)


def suite_records(folder: Path, damages: list[str] | None = None) -> Iterator[dict[str, Any]]:
    """Every whole record of every log as a dict, in the order written; a sentence for each line that is none."""
    decode = msgspec.json.Decoder(dict[str, Any]).decode
    damages = [] if damages is None else damages
    for path in record_logs(folder):
        offset = 0
        try:
            for line in lines_of(path):
                record = None
                if line.endswith(b"\n"):
                    with suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                        record = decode(line)
                if record is not None:
                    yield record
                else:
                    damages.append(f"{path.name}: {len(line)} bytes at byte {offset} are not a record, left out")
                offset += len(line)
        except OSError as error:
            damages.append(f"{path.name} can't be read: {error.strerror}")
