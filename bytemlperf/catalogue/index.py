"""The index of a runs directory: a DuckDB file beside the folders, brought up to date at every use.

It holds nothing that the folders don't: deleting it loses nothing, and `bmp runs index --rebuild` makes it anew.
A run is read again when the size or time of its run.json, summary.json or tags.json has changed. Where
the directory can't be written, or another process holds the index, it is built in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from bytemlperf.catalogue.tags import NAME as TAGS
from bytemlperf.catalogue.tags import read_tags
from bytemlperf.errors import UserError
from bytemlperf.hardware.measured import device_text, hardware_of
from bytemlperf.report.gather import RunView, part, view_run
from bytemlperf.report.run_page import headlines, name_of
from bytemlperf.report.text import number, unit
from bytemlperf.runs.files import damage_said

FILE = ".catalogue.duckdb"
SCHEMA = 1
INSTALL_COMMAND = "pip install 'bytemlperf-llm[catalogue]'"
SIGNED = ("run.json", "summary.json", TAGS)
HEADLINES_SHOWN = 3

_TABLES = """
CREATE TABLE runs (
    folder VARCHAR PRIMARY KEY, path VARCHAR, kind VARCHAR, label VARCHAR, started_at TIMESTAMP, verdict VARCHAR, reasons VARCHAR,
    subject VARCHAR, model VARCHAR, device VARCHAR, machine VARCHAR, duration_s DOUBLE, seed BIGINT, schedule VARCHAR,
    tags VARCHAR[], headlines VARCHAR, problems VARCHAR, signature VARCHAR
);
CREATE TABLE figures (
    folder VARCHAR, key VARCHAR, metric VARCHAR, label VARCHAR, unit VARCHAR, value DOUBLE, low DOUBLE, high DOUBLE,
    count BIGINT, better VARCHAR, headline BOOLEAN, reason VARCHAR
);
CREATE TABLE about (schema_version INTEGER, version VARCHAR);
"""
RUN_COLUMNS = (
    *("folder", "path", "kind", "label", "started_at", "verdict", "reasons", "subject", "model", "device", "machine"),
    *("duration_s", "seed", "schedule", "tags", "headlines", "problems"),
)


class Update(NamedTuple):
    """What bringing the index up to date did. `strangers` are folders that are no runs."""

    read: int
    kept: int
    removed: int
    strangers: list[str]
    note: str = ""


class Catalogue:
    """An open index. Use as a context manager."""

    def __init__(self, runs_dir: Path, *, rebuild: bool = False) -> None:
        self.runs_dir = runs_dir
        if not runs_dir.is_dir():
            raise UserError(f"{runs_dir} is no folder", "name a runs directory with --dir")
        self._duckdb = _duckdb()
        self.note = ""
        self.connection = self._open(rebuild=rebuild)

    def __enter__(self) -> Catalogue:
        return self

    def __exit__(self, *_error: object) -> None:
        self.connection.close()

    def _open(self, *, rebuild: bool) -> Any:
        path = self.runs_dir / FILE
        if rebuild:
            with suppress(OSError):
                path.unlink(missing_ok=True)
        try:
            connection = self._connect(str(path))
            if self._usable(connection):
                return connection
            connection.close()
            path.unlink()  # another version's, or damaged: it holds nothing that the folders don't
            connection = self._connect(str(path))
        except (self._duckdb.Error, OSError) as error:
            if _damaged(error):
                with suppress(OSError):
                    path.unlink()
                    return self._prepared(self._connect(str(path)))
            self.note = "the index can't be kept (read-only, or in use by another process): built in memory"
            connection = self._connect(":memory:")
        return self._prepared(connection)

    def _connect(self, place: str) -> Any:
        return self._duckdb.connect(place, config={"enable_external_access": "false", "threads": "2"})

    def _prepared(self, connection: Any) -> Any:
        connection.execute(_TABLES)
        connection.execute("INSERT INTO about VALUES (?, ?)", [SCHEMA, _version()])
        return connection

    def _usable(self, connection: Any) -> bool:
        try:
            return bool(connection.execute("SELECT schema_version, version FROM about").fetchall() == [(SCHEMA, _version())])
        except self._duckdb.Error:
            return False

    # -- bringing up to date --------------------------------------------------------------

    def update(self) -> Update:
        """Read what is new or changed, forget what is gone."""
        known = dict(self.connection.execute("SELECT folder, signature FROM runs").fetchall())
        folders, strangers = find_runs(self.runs_dir)
        names = {str(folder.relative_to(self.runs_dir)): folder for folder in folders}
        gone = [name for name in known if name not in names]
        fresh = {name: folder for name, folder in names.items() if known.get(name) != signature(folder)}
        if gone or fresh:
            self.connection.begin()  # one write to the disk, not one a row
            for name in (*gone, *fresh):
                for table in ("runs", "figures"):
                    self.connection.execute(f"DELETE FROM {table} WHERE folder = ?", [name])  # noqa: S608  # our own two names
            for name, folder in fresh.items():
                self._add(name, folder)
            self.connection.commit()
        return Update(read=len(fresh), kept=len(names) - len(fresh), removed=len(gone), strangers=strangers, note=self.note)

    def _add(self, name: str, folder: Path) -> None:
        try:
            with damage_said(folder):
                view = view_run(folder, sections=False, samples=False)
                row, rows = _run_row(name, view), list(_figure_rows(name, view))
        except UserError as error:
            row, rows = _run_row(name, RunView(folder=folder, run={}, problems=[error.cause])), []
        marks = ", ".join("?" * len(row))
        self.connection.execute(f"INSERT INTO runs VALUES ({marks})", row)  # noqa: S608  # question marks only
        if rows:
            self.connection.executemany("INSERT INTO figures VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)

    # -- asking -----------------------------------------------------------------------------

    def ask(self, statement: str, values: Sequence[Any] = ()) -> tuple[list[str], list[tuple[Any, ...]]]:
        """Columns and rows of one SELECT. Raises UserError for anything else, and for what DuckDB refuses."""
        try:
            parsed = self._duckdb.extract_statements(statement)
            if len(parsed) != 1 or parsed[0].type != self._duckdb.StatementType.SELECT:
                raise UserError("only one SELECT can be asked", "leave out semicolons and statements that change something")
            found = self.connection.execute(statement, list(values))
            return [column[0] for column in found.description], found.fetchall()
        except self._duckdb.Error as error:
            raise UserError(f"DuckDB doesn't understand it: {str(error).splitlines()[0]}", f"columns: {', '.join(RUN_COLUMNS)}") from None


def find_runs(runs_dir: Path) -> tuple[list[Path], list[str]]:
    """Run folders of a directory, up to two levels down, and the names of folders on the first level that hold none."""
    found = sorted({path.parent for pattern in ("*/run.json", "*/*/run.json") for path in runs_dir.glob(pattern)})
    holding = {folder.relative_to(runs_dir).parts[0] for folder in found}
    strangers = [
        path.name for path in sorted(runs_dir.iterdir()) if path.is_dir() and path.name not in holding and not path.name.startswith(".")
    ]
    return found, strangers


def signature(folder: Path) -> str:
    """Changes when anything that the index holds may have changed."""
    parts = []
    for name in SIGNED:
        with suppress(OSError):
            state = (folder / name).stat()
            parts.append(f"{name} {state.st_size} {state.st_mtime_ns}")
    return "; ".join(parts)


def _run_row(name: str, view: RunView) -> list[Any]:
    subject, run = view.subject, view.run
    told = [
        f"{name_of(figure)} {number(figure.value)} {unit(figure.unit)}" for figure in headlines(view.figures) if figure.value is not None
    ]
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
        " · ".join(told[:HEADLINES_SHOWN]),
        "; ".join(view.problems),
        signature(view.folder),
    ]


def _figure_rows(name: str, view: RunView) -> Iterator[list[Any]]:
    for figure in view.figures:
        fields = (figure.key, figure.metric, figure.label, figure.unit, figure.value, figure.low, figure.high, figure.count)
        yield [name, *fields, figure.better, figure.headline, figure.reason]


def _text(value: object) -> str | None:
    return None if value in (None, "", "none") else str(value)


def _timestamp(value: object) -> str | None:
    """UTC, as DuckDB reads it; None for what is no time."""
    from datetime import UTC, datetime

    try:
        return datetime.fromisoformat(str(value)).astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")
    except ValueError:
        return None


def _duckdb() -> Any:
    try:
        import duckdb
    except ImportError:
        raise UserError("the catalogue needs duckdb, which is not installed", INSTALL_COMMAND) from None
    return duckdb


def _damaged(error: Exception) -> bool:
    return any(word in str(error) for word in ("not a valid DuckDB", "Corrupt", "corrupt", "serialization", "version number"))


def _version() -> str:
    from bytemlperf.version import __version__

    return __version__


class Wanted(NamedTuple):
    """Which runs, in which order, with a column for each of `metrics`. `where` are conditions in SQL."""

    metrics: Sequence[str] = ()
    where: Sequence[str] = ()
    kind: str | None = None
    tags: Sequence[str] = ()
    sort: str | None = None
    limit: int | None = None


_METRIC_COLUMN = "(SELECT first(value ORDER BY key) FROM figures WHERE figures.folder = runs.folder AND (metric = ? OR label = ?)) AS "


def selection(wanted: Wanted) -> tuple[str, list[Any]]:
    """The statement for a list of runs, and its values."""
    columns = ["runs.* EXCLUDE (signature)", *(_METRIC_COLUMN + _quoted(metric) for metric in wanted.metrics)]
    values: list[Any] = [metric for metric in wanted.metrics for _ in range(2)]
    conditions = [*([] if wanted.kind is None else ["kind = ?"]), *("list_contains(tags, ?)" for _ in wanted.tags), *wanted.where]
    values += [*([] if wanted.kind is None else [wanted.kind]), *wanted.tags]
    parts = [
        f"SELECT * FROM (SELECT {', '.join(columns)} FROM runs)",  # noqa: S608  # a user's own question; nothing can be read or written by it
        "WHERE true" + "".join(f" AND ({condition})" for condition in conditions),
        f"ORDER BY {_order(wanted.sort)}",
        *([f"LIMIT {wanted.limit}"] if wanted.limit else []),
    ]
    return " ".join(parts), values


def _order(sort: str | None) -> str:
    if not sort:
        return "started_at DESC NULLS LAST, folder"
    descending, name = sort.startswith("-"), sort.lstrip("-")
    return f"{_quoted(name)} {'DESC' if descending else 'ASC'} NULLS LAST, folder"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
