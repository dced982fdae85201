"""A run's records, read back: every whole line of its logs as what the kind of run says it is.

A log that ends in the middle of a line (a crash, a full disk) gives every whole record and a `Damage` that names the cut; so does
a line in the middle that is no record. Nothing here raises for what a log holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Concatenate, Generic, NamedTuple, ParamSpec, TypeVar

import msgspec

from bytemlperf.runs.files import lines_of, record_logs

RecordT = TypeVar("RecordT")
MadeT = TypeVar("MadeT")
KeyT = TypeVar("KeyT")
P = ParamSpec("P")
MAX_DAMAGES_KEPT = 100


class Damage(NamedTuple):
    """Bytes of a log that are no record."""

    file: str
    offset_bytes: int
    length_bytes: int
    kind: str  # "torn tail", "not a record", or why the file can't be read

    def __str__(self) -> str:
        if not self.length_bytes:
            return f"{self.file} {self.kind}"
        return f"{self.file}: {self.kind} of {self.length_bytes} bytes at byte {self.offset_bytes}, left out"


class RunRecords(Generic[RecordT]):
    """The records of a run folder, read anew each time they are walked; `damages` and `count` are of the last walk. Without
    `samples` the caller takes figures without them, and a kind that has its figures in the summary need not read the records.
    `hears` gets each record of the first walk. A type of record that has `beside(folder)` gets from it what completes each record with what
    lies beside the logs, or None. What is made of all of them is kept for whoever needs it next: see `once`."""

    def __init__(
        self, folder: Path, record: Any = dict[str, Any], *, samples: bool = True, hears: Callable[[RecordT], None] | None = None
    ) -> None:
        self.folder, self.samples = folder, samples
        self.damages: list[Damage] = []
        self.notes: list[str] = []  # on files beside the logs
        self.count = 0
        self.log = ""  # whose record is at hand
        self.made: dict[object, Any] = {}
        self._record, self._hears = record, hears

    def __iter__(self) -> Iterator[RecordT]:
        """Every whole record of every log, in the order written."""
        self.damages.clear()
        self.count, hears, self._hears = 0, self._hears, None
        complete = getattr(self._record, "beside", _nothing)(self.folder)
        for path in record_logs(self.folder):
            self.log = path.name
            for record in whole_lines(path, self._record, self.damages):
                self.count += 1
                if complete is not None:
                    complete(record)
                if hears is not None:
                    hears(record)
                yield record


def _nothing(_folder: Path) -> None:
    return None


def whole_lines(path: Path, record: Any, damages: list[Damage]) -> Iterator[Any]:
    """The lines of a log as `record`; those that are none are added to `damages`."""
    decode = msgspec.json.Decoder(record).decode
    offset = 0

    def damaged(length_bytes: int, kind: str) -> None:
        if len(damages) < MAX_DAMAGES_KEPT:
            damages.append(Damage(path.name, offset, length_bytes, kind))

    try:
        for line in lines_of(path):
            whole = line.endswith(b"\n")
            try:
                if whole:
                    yield decode(line)
                else:
                    damaged(len(line), "torn tail")
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                damaged(len(line), "not a record")
            offset += len(line)
    except OSError as error:
        damaged(0, f"can't be read ({error.strerror})")


def with_log_names(records: Iterable[RecordT]) -> Iterator[tuple[str, RecordT]]:
    """Each record with the name of its log; empty where they come from no folder."""
    if isinstance(records, RunRecords):
        for record in records:
            yield records.log, record
    else:
        yield from (("", record) for record in records)


def once(
    records: Iterable[RecordT], make: Callable[Concatenate[Iterable[RecordT], P], MadeT], *arguments: P.args, **named: P.kwargs
) -> MadeT:
    """What `make` makes of the records; of those of a folder a second call has what the first one made."""
    if not isinstance(records, RunRecords):
        return make(records, *arguments, **named)
    if make not in records.made:
        records.made[make] = make(records, *arguments, **named)
    made: MadeT = records.made[make]
    return made


def grouped(records: Iterable[RecordT], key: Callable[[RecordT], KeyT]) -> dict[KeyT, list[RecordT]]:
    """Records by key, in the order in which each key is first seen."""
    groups: dict[KeyT, list[RecordT]] = {}
    for record in records:
        groups.setdefault(key(record), []).append(record)
    return groups
