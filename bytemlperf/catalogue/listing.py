"""The catalogue in a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from bytemlperf.command.console import print_table, print_text, terminal
from bytemlperf.command.exits import one_line
from bytemlperf.report.text import cell, counted
from bytemlperf.runs.kinds import Table
from bytemlperf.runs.names import id_of

if TYPE_CHECKING:
    from bytemlperf.catalogue.index import Row, Update, Value

SHOWN = ("id", "started_at", "kind", "label", "subject", "verdict", "headlines", "tags")
SPARE = ("tags", "headlines", "started")
MAX_NOT_RUNS = 10


def print_runs(columns: Sequence[str], rows: Sequence[Row], update: Update, metrics: Sequence[str]) -> None:
    """A line a run; what can't be read is named below."""
    console = terminal()
    runs = [dict(zip(columns, row, strict=True)) for row in rows]
    for run in runs:
        run["id"] = id_of(Path(str(run["folder"])).name)
    shown = [name for name in SHOWN if not (metrics and name == "headlines")] + list(metrics)
    lines = [[_cell(run.get(name)) for name in shown] for run in runs]
    print_table(console, Table(title="", columns=[name.replace("_at", "") for name in shown], rows=lines, spare=SPARE))
    print_text(console, counted(len(rows), "run"), style="note")
    troubles = [f"{run['folder']}: {run['problems']}" for run in runs if run.get("problems")]
    if update.not_runs:
        more = f" and {len(update.not_runs) - MAX_NOT_RUNS} more" if len(update.not_runs) > MAX_NOT_RUNS else ""
        troubles.append(f"no runs: {', '.join(update.not_runs[:MAX_NOT_RUNS])}{more}")
    for text in (*troubles, *([update.note] if update.note else [])):
        print_text(console, one_line(text), style="yellow")


def print_rows(columns: Sequence[str], rows: Sequence[Row]) -> None:
    print_table(terminal(), Table(title="", columns=columns, rows=[list(map(_cell, row)) for row in rows]))


def _cell(value: Value) -> str:
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M}"
    return ", ".join(map(str, value)) if isinstance(value, list) else one_line(cell(value))
