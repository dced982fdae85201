"""Tables of the site as plain values: what each cell says, what it sorts by, where it leads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from bytemlperf.report.text import interval, number, unit, visible
from bytemlperf.site.gather import BoardRow, SiteRun, case_of

UNKNOWN = "–"
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


def run_table(runs: Sequence[SiteRun], root: str) -> TableView:
    """Every run, newest first."""
    columns = (
        Column("run"),
        Column("suite", choose=True),
        Column("measured", choose=True),
        Column("device", choose=True),
        Column("verdict", choose=True),
        Column("started (UTC)"),
    )
    rows = [
        (
            words(run.view.label, f"{root}runs/{run.slug}/report.html"),
            words(run.suite),
            words(run.measured),
            words(run.device.name),
            words(run.view.verdict),
            words(run.started),
        )
        for run in runs
    ]
    return TableView("runs", columns, rows)


def board_table(rows: Sequence[BoardRow], currency: str, root: str, *, with_suite: bool = False) -> TableView:
    """A leaderboard. Columns of money and power are there where any row has them."""
    money, rent, power = (any(getattr(row, name) is not None for row in rows) for name in ("per_currency", "per_rent", "per_watt"))
    models, measured = any(row.model for row in rows), any(row.run.measured for row in rows)
    columns = [
        Column("rank", numeric=True, about="among valid runs of the same model, case and metric"),
        *([Column("suite", choose=True)] if with_suite else []),
        *([Column("model", choose=True)] if models and not with_suite else []),
        Column("case", choose=True),
        Column("metric", choose=True),
        Column("value", numeric=True),
        Column("device", choose=True),
        *([Column("measured", choose=True)] if measured else []),
        *([Column(f"per 1,000 {currency}", numeric=True, about="value ÷ (purchase price of the devices ÷ 1,000)")] if money else []),
        *([Column(f"for one {currency}", numeric=True, about="value × 3,600 s ÷ price per hour of the devices")] if rent else []),
        *([Column("per watt", numeric=True, about="value ÷ TDP of the devices; measured power may be less")] if power else []),
        Column("verdict", choose=True, chosen="valid"),
        Column("run"),
    ]
    lines = [
        (
            numeric(row.rank),
            *([words(row.run.suite)] if with_suite else []),
            *([words(row.model)] if models and not with_suite else []),
            words(row.figure.key),
            words(case_of(row.figure), small="lower is better" if row.figure.better == "lower" else "higher is better"),
            numeric(row.figure.value, small=_detail(row)),
            words(row.run.device.name, small=_device_note(row)),
            *([words(row.run.measured)] if measured else []),
            *([numeric(row.per_currency)] if money else []),
            *([numeric(row.per_rent)] if rent else []),
            *([numeric(row.per_watt)] if power else []),
            words(row.run.view.verdict),
            words(row.run.view.label, f"{root}runs/{row.run.slug}/report.html", row.run.started[:10]),
        )
        for row in rows
    ]
    return TableView("board", columns, lines, notes=[RANKS, *_not_normalised(rows)])


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
    return [f"Not normalised: {', '.join(sorted(found))}: {why}." for why, found in names.items()]
