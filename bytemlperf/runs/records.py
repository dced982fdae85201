"""A run's records, read back as dicts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from bytemlperf.runs.files import lines_of, record_logs

MadeT = TypeVar("MadeT")


class RunRecords:
    """The records of a run folder as dicts, read anew each time they are walked; `damages` then has a
    sentence for each line that is no record. Without `samples` the caller takes figures without them,
    and a kind that has its figures in the summary need not read the records. What is made of all of them is kept for whoever
    needs it next: see `once`."""

    def __init__(self, folder: Path, *, samples: bool = True) -> None:
        self.folder, self.samples = folder, samples
        self.damages: list[str] = []
        self.made: dict[object, Any] = {}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        self.damages.clear()
        return suite_records(self.folder, self.damages)


def once(records: Iterable[dict[str, Any]], make: Callable[[Iterable[dict[str, Any]]], MadeT]) -> MadeT:
    """What `make` makes of the records; of those of a folder a second call has what the first one made."""
    if not isinstance(records, RunRecords):
        return make(records)
    if make not in records.made:
        records.made[make] = make(records)
    made: MadeT = records.made[make]
    return made


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
