"""Reading a run folder back: run.json, and every whole record of its logs.

A log that ends in the middle of a line (a crash, a full disk) gives every whole record and a
`Damage` that names the cut; so does a line in the middle that is no record. Nothing here raises
for what a log holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from bytemlperf.errors import UserError
from bytemlperf.runs.files import UNREADABLE, json_of, lines_of, record_logs, why
from bytemlperf_llm.metrics.recount import Counted
from bytemlperf_llm.record.record import RequestRecord

FORMAT_VERSION = 1
RECOUNT = "recount.json"
MAX_DAMAGES_KEPT = 100

SHAPE: dict[str, Any] = {
    "config": {},
    "facts": {},
    "end": {},
    "environment": {"packages": {}, "git": {}, "hardware": {"cpu": {}, "memory": {}, "gpus": [], "accelerators": []}},
}
"""Objects of every run.json, and those in them; [] is a list of objects."""


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


def read_recount(folder: Path) -> tuple[Counted | None, str]:
    """What recount.json holds (None: there is none), and a sentence where it can't be used."""
    try:
        counted = json_of(folder / RECOUNT, Counted)
    except FileNotFoundError:
        return None, ""
    except UNREADABLE as error:
        return None, f"{RECOUNT} can't be used: {why(error)}"
    return counted, f"answers were not recounted: {counted.problem}" if counted.problem else ""


def misshapen(value: dict[str, Any], shape: dict[str, Any] | None = None, path: str = "") -> list[str]:
    """What every run has and this one has otherwise: each is replaced by an empty object or list, and named."""
    found = []
    for name, inner in (SHAPE if shape is None else shape).items():
        if name not in value or (path + name in ("end", "environment.git") and value[name] is None):
            continue
        if inner == []:
            if not isinstance(value[name], list) or not all(isinstance(each, dict) for each in value[name]):
                value[name] = []
                found.append(f"run.json: {path}{name} is no list of objects")
        elif isinstance(value[name], dict):
            found += misshapen(value[name], inner, f"{path}{name}.")
        else:
            value[name] = {}
            found.append(f"run.json: {path}{name} is no object")
    return found


def read_run_json(folder: Path) -> dict[str, Any]:
    """run.json of a folder. Raises UserError when the folder is no run, or of a newer format."""
    path = folder / "run.json"
    try:
        run: dict[str, Any] = json_of(path)
    except FileNotFoundError:
        what = "has no run.json" if folder.is_dir() else "does not exist"
        raise UserError(f"{folder} is not a run folder: it {what}", "name a folder below the runs directory") from None
    except UNREADABLE as error:
        raise UserError(f"{path} can't be read: {why(error)}", "the run can't be summarised without it") from None
    version = run.get("format_version") if isinstance(run, dict) else None
    if not isinstance(version, int):
        raise UserError(f"{path} is not a run description", "name a folder below the runs directory")
    if version > FORMAT_VERSION:
        raise UserError(f"{path} has format version {version}, this program reads up to {FORMAT_VERSION}", "update bytemlperf-llm")
    return run
