"""One row per request: CSV with the standard library, Parquet with polars.

Both hold the record's own fields, the engine's stages as columns, and the per-request metrics of
`metrics.definitions` in nanoseconds. In CSV a text that a spreadsheet would run as a formula gets
a `'` in front, and lists are JSON; Parquet keeps text as it is and lists as lists.
"""

from __future__ import annotations

import csv
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import msgspec

from bytemlperf.extras import require
from bytemlperf.report.text import guard_formula
from bytemlperf.runs.files import writing
from bytemlperf_llm.metrics.definitions import chunk_gaps_ns, due_ns, last_ns, ntpot_ns, token_times, tpot_ns
from bytemlperf_llm.record.record import RequestRecord

if TYPE_CHECKING:
    import polars

_TEXT = (
    *("id", "class_name", "endpoint", "session", "outcome", "error_class", "error_detail"),
    *("token_source", "finish_reason", "output_sha256", "output", "server_request_id", "server_durations_ns"),
)
_LISTS = ("parents", "chunk_ns", "tokens_per_chunk")
_STAGES = ("queued_ns", "scheduled_ns", "first_token_ns", "last_token_ns")
_METRICS = ("ttft_ns", "service_ttft_ns", "tpot_ns", "e2e_ns", "service_e2e_ns", "ntpot_ns", "max_stall_ns", "schedule_lateness_ns")
_RECORD = tuple(field for field in RequestRecord.__struct_fields__ if field not in ("stages", "server", "chunk_gaps_ns"))
COLUMNS = (*_RECORD, *(f"stage_{name}" for name in _STAGES), *_METRICS, "server_request_id", "server_durations_ns")

_ROWS_PER_WRITE = 20_000
FIX = "give another folder with --result-dir"


def row_of(record: RequestRecord) -> dict[str, Any]:
    """The record as one flat row with the keys of COLUMNS."""
    row = {name: getattr(record, name) for name in _RECORD}
    row.update({f"stage_{name}": getattr(record.stages, name, None) for name in _STAGES})
    row.update(_metrics_of(record))
    durations_ns = "" if record.server is None else msgspec.json.encode(record.server.durations_ns).decode()
    return row | {"server_request_id": record.server and record.server.request_id, "server_durations_ns": durations_ns}


class CsvTable:
    """One line per record, with a header. Raises UserError where it can't be written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with writing(path, FIX):
            self._file = path.open("w", encoding="utf-8", errors="backslashreplace", newline="")
            self._writer = csv.writer(self._file)
            self._writer.writerow(COLUMNS)

    def add(self, record: RequestRecord) -> None:
        row = row_of(record)
        with writing(self._path, FIX):
            self._writer.writerow([_cell(row[name]) for name in COLUMNS])

    def close(self, run: dict[str, Any] | None = None) -> None:  # noqa: ARG002
        with writing(self._path, FIX):
            self._file.close()


class Frame:
    """All records as one polars DataFrame with the columns COLUMNS. Raises UserError without polars."""

    def __init__(self) -> None:
        require("a DataFrame", "analysis", "polars")
        import polars

        self._polars = polars
        types = {**dict.fromkeys(_TEXT, polars.String), **dict.fromkeys(_LISTS, polars.List(polars.Int64))}
        self._schema = {name: types.get(name, polars.Int64) for name in COLUMNS}
        self._frames: list[Any] = []
        self._rows: list[dict[str, Any]] = []

    def add(self, record: RequestRecord) -> None:
        self._rows.append(row_of(record))
        if len(self._rows) == _ROWS_PER_WRITE:
            self._next_frame()

    def _next_frame(self) -> None:
        self._frames.append(self._polars.DataFrame(self._rows, schema=self._schema))
        self._rows = []

    def whole(self) -> polars.DataFrame:
        """Of all that were added."""
        self._next_frame()
        return self._polars.concat(self._frames)


class ParquetTable(Frame):
    """All records as one Parquet file. Raises UserError without polars, or where the file can't be written."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        with writing(path, FIX):
            self._folder = TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent)
        self._parts: list[Path] = []

    def _next_frame(self) -> None:
        """On disk at once: a million requests aren't held in memory."""
        super()._next_frame()
        self._parts.append(Path(self._folder.name, str(len(self._parts))))
        with writing(self._path, FIX):
            self._frames.pop().write_parquet(self._parts[-1])

    def close(self, run: dict[str, Any] | None = None) -> None:  # noqa: ARG002
        self._next_frame()
        with self._folder, writing(self._path, FIX):
            self._polars.scan_parquet(self._parts).sink_parquet(self._path)


def _cell(value: object) -> object:
    if isinstance(value, str):
        return guard_formula(value)
    return msgspec.json.encode(value).decode() if isinstance(value, list) else value


def _metrics_of(record: RequestRecord) -> dict[str, int | None]:
    times, due, sent = token_times(record), due_ns(record), record.sent_ns
    first, last = times.stamps_ns[0] if times.stamps_ns else None, last_ns(record)
    e2e = _minus(last, due)
    values = (
        _minus(first, due),
        _minus(first, sent),
        None if first is None or last is None else tpot_ns(first, last, record.output_tokens),
        e2e,
        _minus(last, sent),
        None if e2e is None else ntpot_ns(e2e, record.output_tokens),
        max(chunk_gaps_ns(times), default=None),
        _minus(sent, record.planned_ns),
    )
    return dict(zip(_METRICS, values, strict=True))


def _minus(later: int | None, earlier: int | None) -> int | None:
    return None if later is None or earlier is None else later - earlier
