"""The catalogue in a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from bytemlperf.command.console import listing
from bytemlperf.command.exits import one_line
from bytemlperf.report.text import cell
from bytemlperf.runs.verdicts import COLOURS

if TYPE_CHECKING:
    from bytemlperf.catalogue.index import Update

PLAIN_WIDTH = 180
SHOWN = ("started_at", "kind", "label", "subject", "verdict", "headlines", "tags")
MAX_NOT_RUNS = 10


def print_runs(columns: Sequence[str], rows: Sequence[Sequence[Any]], update: Update, metrics: Sequence[str]) -> None:
    """A line a run; what can't be read is named below."""
    console = _console()
    runs = [dict(zip(columns, row, strict=True)) for row in rows]
    shown = [name for name in SHOWN if not (metrics and name == "headlines")] + list(metrics)
    lines = ([_verdict(run[name]) if name == "verdict" else _text(run.get(name)) for name in shown] for run in runs)
    console.print(listing([name.replace("_at", "") for name in shown], lines, right=metrics))
    console.print(f"{len(rows)} runs", style="dim")
    for run in runs:
        if run.get("problems"):
            console.print(one_line(f"{run['folder']}: {run['problems']}"), markup=False, style="yellow")
    if update.not_runs:
        more = f" and {len(update.not_runs) - MAX_NOT_RUNS} more" if len(update.not_runs) > MAX_NOT_RUNS else ""
        console.print(one_line(f"no runs: {', '.join(update.not_runs[:MAX_NOT_RUNS])}{more}"), markup=False, style="yellow")
    if update.note:
        console.print(update.note, style="yellow")


def print_rows(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """What a query gave."""
    _console().print(listing(columns, (map(_text, row) for row in rows)))


def _text(value: Any) -> str:
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M}"
    return ", ".join(map(str, value)) if isinstance(value, list) else one_line(cell(value))


def _verdict(value: Any) -> Text:
    return Text(_text(value), COLOURS.get(value, ""))


def _console() -> Console:
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=PLAIN_WIDTH)
