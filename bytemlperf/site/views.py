"""Tables of the site as plain values: what each cell says, what it sorts by, where it leads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from typing import NamedTuple, TypeVar

from bytemlperf.report.run_page import headlines_text
from bytemlperf.report.text import interval, number, unit, visible
from bytemlperf.site.gather import BoardRow, SiteRun, name_of

RowT = TypeVar("RowT")
COMPARE_DEVICES, COMPARE_RUNS = "compare.html", "compare-runs.html"
MAX_METRICS = 30
"""Columns of a leaderboard; a run of strangers may name as many as it likes."""
UNKNOWN = "–"
PER_PRICE = "value ÷ (purchase price of the devices ÷ 1,000)"
PER_RENT = "value × 3,600 s ÷ price per hour of the devices"
PER_WATT = "value ÷ TDP of the devices; measured power may be less"
RANKS = "Rank: 1 + the number of valid runs of the same model, case and load that are better by the whole of both intervals."
OPEN_LOOP = (
    "Open-loop runs, and searches in which no load failed, have no rank: their figure is the load they were given. "
    "bmp-llm capacity finds what a server holds."
)


class Column(NamedTuple):
    """`choose` offers the column's values as a filter, set to `chosen` at first."""

    title: str
    numeric: bool = False
    choose: bool = False
    chosen: str = ""
    about: str = ""


class Cell(NamedTuple):
    """`sort` orders numeric columns; None is last. `small` stands below the text."""

    text: str
    sort: float | None = None
    link: str = ""
    small: str = ""


class TableView(NamedTuple):
    """`pick` are the rows' names for a comparison on the page `compare`, in the order of the rows; empty without one. `empty` stands in
    place of rows."""

    name: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    pick: Sequence[str] = ()
    notes: Sequence[str] = ()
    compare: str = COMPARE_DEVICES
    empty: str = "nothing here yet"


def numeric(value: float | None, small: str = "") -> Cell:
    return Cell(number(value), value, small=small) if value is not None else Cell(UNKNOWN, None, small=small)


def words(text: str, link: str = "", small: str = "") -> Cell:
    return Cell(visible(text) or UNKNOWN, None, link, visible(small))


Drawn = Sequence[tuple[Column, Callable[[RowT], Cell]]]
"""Each column, and its cell in a row."""


def drawn(name: str, columns: Drawn[RowT], rows: Sequence[RowT], pick: Sequence[str] = (), notes: Sequence[str] = ()) -> TableView:
    return TableView(name, [column for column, _ in columns], [[cell(row) for _, cell in columns] for row in rows], pick, notes)


def run_table(runs: Sequence[SiteRun], root: str) -> TableView:
    columns: Drawn[SiteRun] = [
        (Column("run"), lambda run: words(run.view.label, report_of(run, root))),
        (Column("suite", choose=True), lambda run: words(run.suite)),
        (Column("figures"), lambda run: words(headlines_text(run.view.figures))),
        (Column("measured", choose=True), lambda run: words(run.measured)),
        (Column("device", choose=True), lambda run: words(run.device.name)),
        (Column("verdict", choose=True), lambda run: words(run.view.verdict)),
        (Column("started (UTC)"), lambda run: words(run.view.started)),
    ]
    return drawn("runs", columns, runs, [run.slug for run in runs])._replace(compare=COMPARE_RUNS)


def report_of(run: SiteRun, root: str) -> str:
    return f"{root}runs/{run.slug}/report.html"


def board_tables(rows: Sequence[BoardRow], currency: str, root: str) -> list[tuple[str, TableView]]:
    """A leaderboard for each suite, by its name."""
    suites = dict.fromkeys(row.run.suite for row in rows)
    return [(suite, board_table([row for row in rows if row.run.suite == suite], currency, root)) for suite in suites]


def board_table(rows: Sequence[BoardRow], currency: str, root: str) -> TableView:
    """A leaderboard. Columns that no row has anything for are left out."""
    columns: Drawn[BoardRow] = [
        (Column("rank", numeric=True, about=RANKS), lambda row: numeric(row.rank)),
        (Column("run"), lambda row: words(row.run.view.label, report_of(row.run, root), row.run.view.started[:10])),
        (Column("model", choose=True), lambda row: words(row.model)),
        (Column("case", choose=True), lambda row: words(row.key)),
        (Column("load", choose=True), lambda row: words(row.load)),
        *_metric_columns(rows),
        (Column("device", choose=True), lambda row: words(row.run.device.name, small=_device_note(row))),
        (Column("measured", choose=True), lambda row: words(row.subject or row.run.measured)),
        (Column(f"per 1,000 {currency}", numeric=True, about=PER_PRICE), lambda row: numeric(row.per_currency)),
        (Column(f"for one {currency}", numeric=True, about=PER_RENT), lambda row: numeric(row.per_rent)),
        (Column("per watt", numeric=True, about=PER_WATT), lambda row: numeric(row.per_watt)),
        (Column("verdict", choose=True, chosen="valid"), lambda row: words(row.run.view.verdict)),
    ]
    shown = [(column, cell) for column, cell in columns if not rows or any(cell(row).text != UNKNOWN for row in rows)]
    table = drawn("board", shown, rows, [row.run.slug for row in rows], _notes(rows))
    return table._replace(compare=COMPARE_RUNS, empty="no run of this suite has a figure yet")


def _metric_columns(rows: Sequence[BoardRow]) -> Drawn[BoardRow]:
    """One for each metric that a row is there for, those that rank before the others."""
    shown = [figure for row in rows for figure in row.shown]
    ranking = [row.ranked for row in rows if row.ranked]
    metrics = {(figure.metric, figure.unit): figure for figure in (*ranking, *shown)}
    return [
        (
            Column(_title(name_of(figure), unit(figure.unit)), numeric=True, about=f"{figure.better} is better"),
            partial(_value, metric=metric, in_unit=in_unit),
        )
        for (metric, in_unit), figure in islice(metrics.items(), MAX_METRICS)
    ]


def _title(name: str, in_unit: str) -> str:
    return name if not in_unit or name.startswith(in_unit) else f"{name}, {in_unit}"


def _value(row: BoardRow, metric: str, in_unit: str) -> Cell:
    figure = row.figures.get(metric)
    if figure is None or figure.unit != in_unit:
        return numeric(None)
    return numeric(figure.value, small="limit not measured" if figure.offered else interval(figure.low, figure.high))


def _device_note(row: BoardRow) -> str:
    return f"{row.run.device.used} of it" if (row.run.device.used or 0) > 1 else ""


def _notes(rows: Sequence[BoardRow]) -> list[str]:
    """How ranks come about, which runs have none, and why runs have no figure per price and per watt, each reason once."""
    names: dict[str, set[str]] = {}
    for row in rows:
        if row.run.device.why:
            names.setdefault(row.run.device.why, set()).add(row.run.device.name)
    offered = any(figure.offered for row in rows for figure in row.figures.values())
    normalised = [f"Not normalised: {', '.join(sorted(devices))}: {why}." for why, devices in names.items()]
    return [f"{RANKS} Price and power are those of the ranked rate.", *([OPEN_LOOP] if offered else []), *normalised]
