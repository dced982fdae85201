"""The index of a runs directory: an SQLite file beside the folders, brought up to date at every use.

It holds nothing that the folders don't: deleting it loses nothing, and `bmp runs index --rebuild` makes it anew.
A run is read again when the size or time of its run.json, summary.json or tags.json has changed. Where
the directory can't be written, or another process writes the index, it is built in memory.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

from bytemlperf.catalogue.flags import Selection
from bytemlperf.catalogue.tags import NAME as TAGS
from bytemlperf.catalogue.tags import read_tags
from bytemlperf.errors import UserError
from bytemlperf.hardware.measured import device_text, hardware_of
from bytemlperf.report.gather import RunView, view_run
from bytemlperf.report.run_page import headlines_text
from bytemlperf.runs.files import damage_said
from bytemlperf.runs.folder import part
from bytemlperf.version import __version__

Value = str | int | float | datetime | list[str] | None
Row = tuple[Value, ...]
"""A row of a table, and what may be in its cells."""
FILE = ".catalogue.sqlite"
SIGNED = ("run.json", "summary.json", TAGS)
BUSY_S = 2.0  # how long another process's writing is waited for
MAX_INTEGER = 2**63 - 1

_RUNS = (
    "folder TEXT PRIMARY KEY, path TEXT, kind TEXT, label TEXT, started_at MOMENT, verdict TEXT, reasons TEXT, subject TEXT, model TEXT, "
    "device TEXT, machine TEXT, duration_s REAL, seed INTEGER, schedule TEXT, tags WORDS, headlines TEXT, problems TEXT, signature TEXT"
)
_FIGURES = (
    "folder TEXT, key TEXT, metric TEXT, label TEXT, unit TEXT, value REAL, low REAL, high REAL, "
    "count INTEGER, better TEXT, headline TRUTH, reason TEXT"
)
*RUN_COLUMNS, _ = (column.split()[0] for column in _RUNS.split(", "))  # the signature is the index's own
_, *FIGURE_COLUMNS = (column.split()[0] for column in _FIGURES.split(", "))
_TABLES = f"CREATE TABLE runs ({_RUNS}); CREATE TABLE figures ({_FIGURES}); CREATE INDEX figures_folder ON figures (folder);"
_FORM = crc32(f"{_TABLES} {__version__}".encode()) & 0x7FFFFFFF
"""Marks an index as one of this version's."""
sqlite3.register_converter("moment", lambda text: datetime.fromisoformat(text.decode()))
sqlite3.register_converter("words", json.loads)
sqlite3.register_adapter(list, lambda words: json.dumps(words, ensure_ascii=False))
sqlite3.register_converter("truth", lambda text: text != b"0")
_QUOTED = re.compile(r"""'(?:[^']|'')*'|(\bas\s+)?"((?:[^"]|"")*)\"""", re.IGNORECASE)
_READING = (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE)


class Update(NamedTuple):
    """What bringing the index up to date did. `not_runs` are folders that hold none."""

    read: int
    kept: int
    removed: int
    not_runs: list[str]
    note: str = ""


class Catalogue:
    """An open index. Use as a context manager."""

    def __init__(self, runs_dir: Path, *, rebuild: bool = False) -> None:
        self.runs_dir = runs_dir
        if not runs_dir.is_dir():
            raise UserError(f"{runs_dir} is not a folder", "name a runs directory with --runs-dir")
        self.note = ""
        self.connection = self._open(rebuild=rebuild)

    def __enter__(self) -> Catalogue:
        return self

    def __exit__(self, *_error: object) -> None:
        self.connection.close()

    def _open(self, *, rebuild: bool) -> sqlite3.Connection:
        path = self.runs_dir / FILE
        try:
            if not rebuild and path.exists():
                connection = _connected(path)
                if _usable(connection):
                    return connection
                connection.close()
            path.unlink(missing_ok=True)  # another version's, or damaged: it holds nothing that the folders don't
            return _prepared(_connected(path))
        except (sqlite3.Error, OSError):
            return self._in_memory()

    def _in_memory(self) -> sqlite3.Connection:
        self.note = "the index can't be kept (read-only, or in use by another process): built in memory"
        return _prepared(_connected(":memory:"))

    # -- bringing up to date --------------------------------------------------------------

    def update(self) -> Update:
        """Read what is new or changed, forget what is gone."""
        try:
            return self._update()
        except sqlite3.Error as error:  # written by another process, on a full or read-only disk, damaged
            self.connection.close()
            if not isinstance(error, sqlite3.OperationalError):
                (self.runs_dir / FILE).unlink(missing_ok=True)
            self.connection = self._in_memory()
            return self._update()

    def _update(self) -> Update:
        self.connection.execute("BEGIN IMMEDIATE")
        known = dict(self.connection.execute("SELECT folder, signature FROM runs").fetchall())
        folders, not_runs = find_runs(self.runs_dir)
        names = {str(folder.relative_to(self.runs_dir)): folder for folder in folders}
        gone = [name for name in known if name not in names]
        fresh = {name: folder for name, folder in names.items() if known.get(name) != signature(folder)}
        for name in (*gone, *fresh):
            for table in ("runs", "figures"):
                self.connection.execute(f"DELETE FROM {table} WHERE folder = ?", [name])  # noqa: S608  # our own two names
        for name, folder in fresh.items():
            self._add(name, folder)
        self.connection.execute("COMMIT")
        return Update(read=len(fresh), kept=len(names) - len(fresh), removed=len(gone), not_runs=not_runs, note=self.note)

    def _add(self, name: str, folder: Path) -> None:
        try:
            with damage_said(folder):
                view = view_run(folder, sections=False, samples=False)
                row = _run_row(name, view)
                rows = [[name, *(getattr(figure, column) for column in FIGURE_COLUMNS)] for figure in view.figures]
        except UserError as error:
            row, rows = _run_row(name, RunView(folder=folder, run={}, problems=[error.cause])), []
        for table, values in (("runs", [row]), ("figures", rows)):
            if values:
                marks = ", ".join("?" * len(values[0]))
                self.connection.executemany(f"INSERT INTO {table} VALUES ({marks})", [[*map(_storable, row)] for row in values])  # noqa: S608  # question marks only

    # -- asking -----------------------------------------------------------------------------

    def ask(self, statement: str, values: Sequence[Value] = ()) -> tuple[list[str], list[Row]]:
        """Columns and rows of one SELECT. Raises UserError for anything else, and for what SQLite refuses."""
        _check_names(statement)
        self.connection.set_authorizer(lambda action, *_: sqlite3.SQLITE_OK if action in _READING else sqlite3.SQLITE_DENY)
        try:
            cursor = self.connection.execute(statement, list(values))
            return [column[0] for column in cursor.description or ()], cursor.fetchall()
        except (sqlite3.Error, sqlite3.Warning) as error:
            if "authorized" in str(error) or "one statement" in str(error):
                raise UserError("only one SELECT is allowed", "leave out semicolons and statements that change something") from None
            raise UserError(f"SQLite doesn't understand it: {error}", f"columns: {', '.join(RUN_COLUMNS)}") from None
        finally:
            self.connection.set_authorizer(None)


def asked(runs_dir: Path, statement: str, values: Sequence[Value] = ()) -> tuple[list[str], list[Row], Update]:
    """Columns and rows of one SELECT over the index, brought up to date before. Raises UserError."""
    with Catalogue(runs_dir) as catalogue:
        update = catalogue.update()
        return *catalogue.ask(statement, values), update


def _connected(database: Path | str) -> sqlite3.Connection:
    return sqlite3.connect(database, timeout=BUSY_S, isolation_level=None, detect_types=sqlite3.PARSE_DECLTYPES)


def _prepared(connection: sqlite3.Connection) -> sqlite3.Connection:
    connection.executescript(f"BEGIN IMMEDIATE; {_TABLES} PRAGMA user_version = {_FORM}; COMMIT;")
    return connection


def _usable(connection: sqlite3.Connection) -> bool:
    try:
        return bool(connection.execute("PRAGMA user_version").fetchone() == (_FORM,))
    except sqlite3.OperationalError:  # in use
        raise
    except sqlite3.DatabaseError:
        return False


def _check_names(statement: str) -> None:
    """SQLite takes a name in double quotes that no column has for a text. Raises UserError for one."""
    quoted = [(bool(new), name.replace('""', '"')) for new, name in _QUOTED.findall(statement) if name]
    known = {*RUN_COLUMNS, *FIGURE_COLUMNS, "runs", "figures", *(name for new, name in quoted if new)}
    if unknown := next((name for new, name in quoted if name not in known), None):
        raise UserError(f"there is no column {unknown!r}", f"take one of {', '.join(RUN_COLUMNS)}; a figure is one after --metric")


def _storable(value: Value) -> Value:
    """A value as SQLite takes it: no number or character beyond what it holds."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    return None if isinstance(value, int) and abs(value) > MAX_INTEGER else value


def find_runs(runs_dir: Path) -> tuple[list[Path], list[str]]:
    """Run folders of a directory, up to two levels down, and the names of folders on the first level that hold none. Runs that another
    one is made of are that run's own."""
    found = {path.parent for pattern in ("*/run.json", "*/*/run.json") for path in runs_dir.glob(pattern)}
    runs = sorted(folder for folder in found if folder.parent not in found)
    holding = {folder.relative_to(runs_dir).parts[0] for folder in runs}
    folders = (path.name for path in sorted(runs_dir.iterdir()) if path.is_dir() and not path.name.startswith("."))
    return runs, [name for name in folders if name not in holding]


def signature(folder: Path) -> str:
    """Changes when anything that the index holds may have changed."""
    parts = []
    for name in SIGNED:
        with suppress(OSError):
            state = (folder / name).stat()
            parts.append(f"{name} {state.st_size} {state.st_mtime_ns}")
    return "; ".join(parts)


def _run_row(name: str, view: RunView) -> list[Value]:
    subject, run = view.subject, view.run
    hardware = hardware_of(run)
    duration = part(run, "end").get("duration_ns")
    return [
        name,
        str(view.folder.absolute()),
        view.kind,
        view.label,
        _timestamp(run.get("started_at")),
        view.verdict,
        "; ".join(view.reasons),
        _text(subject.get("name")),
        _text(subject.get("model")),
        _text(device_text(run, subject)),
        _text(part(hardware, "cpu").get("model")),
        duration / 1e9 if isinstance(duration, int | float) else None,
        run.get("seed") if isinstance(run.get("seed"), int) else None,
        _text(run.get("schedule_sha256")),
        read_tags(view.folder),
        headlines_text(view.figures),
        "; ".join(view.problems),
        signature(view.folder),
    ]


def _text(value: object) -> str | None:
    return None if value in (None, "", "none") else str(value)


def _timestamp(value: object) -> str | None:
    """UTC, in a form that sorts; None for what is no time."""
    try:
        return datetime.fromisoformat(str(value)).astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")
    except ValueError:
        return None


_METRIC_COLUMN = "(SELECT value FROM figures WHERE folder = runs.folder AND (metric = ? OR label = ?) ORDER BY key LIMIT 1) AS "


def selection(selected: Selection) -> tuple[str, list[Value]]:
    """The statement for a list of runs, and its values."""
    columns = [*RUN_COLUMNS, *(_METRIC_COLUMN + _quoted(metric) for metric in selected.metrics)]
    values: list[Value] = [metric for metric in selected.metrics for _ in range(2)]
    conditions = [*([] if selected.kind is None else ["kind = ?"]), *("instr(tags, ?)" for _ in selected.tags), *selected.where]
    values += [*([] if selected.kind is None else [selected.kind]), *(json.dumps(tag, ensure_ascii=False) for tag in selected.tags)]
    parts = [
        f"SELECT * FROM (SELECT {', '.join(columns)} FROM runs)",  # noqa: S608  # a user's own question; nothing can be read or written by it
        "WHERE true" + "".join(f" AND ({condition})" for condition in conditions),
        f"ORDER BY {_order(selected.sort)}",
        *([f"LIMIT {selected.limit}"] if selected.limit else []),
    ]
    return " ".join(parts), values


def _order(sort: str | None) -> str:
    if not sort:
        return "started_at DESC NULLS LAST, folder"
    descending, name = sort.startswith("-"), sort.lstrip("-")
    return f"{_quoted(name)} {'DESC' if descending else 'ASC'} NULLS LAST, folder"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
