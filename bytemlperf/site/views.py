"""Tables of the site as plain values: what each cell says, what it sorts by, where it leads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

from bytemlperf.report.text import interval, number, unit, visible
from bytemlperf.site.gather import BoardRow, SiteRun, case_of

RowT = TypeVar("RowT")
UNKNOWN = "–"
PER_PRICE = "value ÷ (purchase price of the devices ÷ 1,000)"
PER_RENT = "value × 3,600 s ÷ price per hour of the devices"
PER_WATT = "value ÷ TDP of the devices; measured power may be less"
RANKS = "Ranks go by the value alone. Where intervals overlap, bmp compare says whether two runs differ."


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
    """`pick` are the rows' names for a comparison, in the order of the rows; empty without one."""

    name: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    pick: Sequence[str] = ()
    notes: Sequence[str] = ()


def numeric(value: float | None, small: str = "") -> Cell:
    """A number's cell."""
    return Cell(number(value), value, small=small) if value is not None else Cell(UNKNOWN, None, small=small)


def words(text: str, link: str = "", small: str = "") -> Cell:
    """A text's cell."""
    return Cell(visible(text) or UNKNOWN, None, link, visible(small))


Drawn = Sequence[tuple[Column, Callable[[RowT], Cell]]]
"""Each column, and its cell in a row."""


def drawn(name: str, columns: Drawn[RowT], rows: Sequence[RowT], pick: Sequence[str] = (), notes: Sequence[str] = ()) -> TableView:
    """The table of these rows."""
    return TableView(name, [column for column, _ in columns], [[cell(row) for _, cell in columns] for row in rows], pick, notes)


def run_table(runs: Sequence[SiteRun], root: str) -> TableView:
    """Every run, newest first."""
    columns: Drawn[SiteRun] = [
        (Column("run"), lambda run: words(run.view.label, f"{root}runs/{run.slug}/report.html")),
        (Column("suite", choose=True), lambda run: words(run.suite)),
        (Column("measured", choose=True), lambda run: words(run.measured)),
        (Column("device", choose=True), lambda run: words(run.device.name)),
        (Column("verdict", choose=True), lambda run: words(run.view.verdict)),
        (Column("started (UTC)"), lambda run: words(run.started)),
    ]
    return drawn("runs", columns, runs)


def board_table(rows: Sequence[BoardRow], currency: str, root: str, *, with_suite: bool = False) -> TableView:
    """A leaderboard. Columns of money and power are there where any row has them."""
    by_price, by_rent = f"per 1,000 {currency}", f"for one {currency}"
    columns: Drawn[BoardRow] = [
        (Column("rank", numeric=True, about="among valid runs of the same model, case and metric"), lambda row: numeric(row.rank)),
        (Column("suite", choose=True), lambda row: words(row.run.suite)),
        (Column("model", choose=True), lambda row: words(row.model)),
        (Column("case", choose=True), lambda row: words(row.figure.key)),
        (Column("metric", choose=True), lambda row: words(case_of(row.figure), small=f"{row.figure.better} is better")),
        (Column("value", numeric=True), lambda row: numeric(row.figure.value, small=_detail(row))),
        (Column("device", choose=True), lambda row: words(row.run.device.name, small=_device_note(row))),
        (Column("measured", choose=True), lambda row: words(row.run.measured)),
        (Column(by_price, numeric=True, about=PER_PRICE), lambda row: numeric(row.per_currency)),
        (Column(by_rent, numeric=True, about=PER_RENT), lambda row: numeric(row.per_rent)),
        (Column("per watt", numeric=True, about=PER_WATT), lambda row: numeric(row.per_watt)),
        (Column("verdict", choose=True, chosen="valid"), lambda row: words(row.run.view.verdict)),
        (
            Column("run"),
            lambda row: words(row.run.view.label, f"{root}runs/{row.run.slug}/report.html", row.run.started[:10]),
        ),
    ]
    empty = {"suite": not with_suite, "model": with_suite or not any(row.model for row in rows)}
    empty |= {"measured": not any(row.run.measured for row in rows), by_price: all(row.per_currency is None for row in rows)}
    empty |= {by_rent: all(row.per_rent is None for row in rows), "per watt": all(row.per_watt is None for row in rows)}
    shown = [(column, cell) for column, cell in columns if not empty.get(column.title)]
    return drawn("board", shown, rows, notes=[RANKS, *_not_normalised(rows)])


def _detail(row: BoardRow) -> str:
    figure = row.figure
    between = interval(figure.low, figure.high)
    return f"{unit(figure.unit)}{f', 95 % {between}' if between else ''}"


def _device_note(row: BoardRow) -> str:
    return f"{row.run.device.used} of it" if (row.run.device.used or 0) > 1 else ""


def _not_normalised(rows: Sequence[BoardRow]) -> list[str]:
    """Why runs have no figure per price and per watt, each reason once."""
    names: dict[str, set[str]] = {}
    for row in rows:
        if row.run.device.why:
            names.setdefault(row.run.device.why, set()).add(row.run.device.name)
    return [f"Not normalised: {', '.join(sorted(devices))}: {why}." for why, devices in names.items()]
