"""The catalogue in a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from bytemlperf.command.exits import markup_of, one_line
from bytemlperf.report.text import cell
from bytemlperf.runs.verdicts import COLOURS

if TYPE_CHECKING:
    from rich.console import Console

    from bytemlperf.catalogue.index import Update

PLAIN_WIDTH = 180
SHOWN = ("started_at", "kind", "label", "subject", "verdict", "headlines", "tags")
MAX_STRANGERS = 10


def print_runs(columns: Sequence[str], rows: Sequence[Sequence[Any]], update: Update, metrics: Sequence[str]) -> None:
    """A line a run; what can't be read is named below."""
    from rich import box
    from rich.table import Table

    console = _console()
    shown = [name for name in SHOWN if not (metrics and name == "headlines")] + list(metrics)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in shown:
        table.add_column(markup_of(name.replace("_at", "")), justify="right" if name in metrics else "left", overflow="fold")
    for row in rows:
        named = dict(zip(columns, row, strict=True))
        table.add_row(*(_text(name, named.get(name)) for name in shown))
    console.print(table)
    console.print(f"{len(rows)} runs", style="dim")
    for row in rows:
        named = dict(zip(columns, row, strict=True))
        if named.get("problems"):
            console.print(one_line(f"{named['folder']}: {named['problems']}"), markup=False, style="yellow")
    if update.strangers:
        more = f" and {len(update.strangers) - MAX_STRANGERS} more" if len(update.strangers) > MAX_STRANGERS else ""
        console.print(one_line(f"no runs: {', '.join(update.strangers[:MAX_STRANGERS])}{more}"), markup=False, style="yellow")
    if update.note:
        console.print(update.note, style="yellow")


def print_rows(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Any answer."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        table.add_column(markup_of(name), overflow="fold")
    for row in rows:
        table.add_row(*(_text("", value) for value in row))
    _console().print(table)


def _text(name: str, value: Any) -> str:
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M}"
    if isinstance(value, list):
        return markup_of(", ".join(map(str, value)))
    text = markup_of(one_line(cell(value)) if value is not None else "–")
    return f"[{COLOURS[value]}]{text}[/]" if name == "verdict" and value in COLOURS else text


def _console() -> Console:
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=PLAIN_WIDTH)
