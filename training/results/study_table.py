"""A study's table, for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bytemlperf.runs.verdicts import COLOURS
from training.results.table import plain

if TYPE_CHECKING:
    from rich.console import Console

NS_PER_MS = 1e6


def print_study(console: Console, run: dict[str, Any], summary: dict[str, Any]) -> None:
    """The table, ending in the verdict."""
    from rich import box
    from rich.table import Table

    config = run["config"]
    mode = f" · {config['mode']}" if "mode" in config else ""
    console.print(f"\n[bold]{plain(config['workload']['name'])}[/] · {config['trainer']} · {summary['study']}{mode} · {config['device']}")
    columns, rows = cells(summary)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*("–" if cell is None else str(cell) for cell in row))
    console.print(table)
    for text in summary["warnings"]:
        console.print(f"[yellow]![/] {plain(text)}", highlight=False)
    reasons = "".join(f"\n  [bold]because[/] {plain(reason)}" for reason in summary["reasons"])
    console.print(f"[bold {COLOURS[summary['verdict']]}]{summary['verdict'].upper()}[/]{reasons}", highlight=False)


def cells(summary: dict[str, Any]) -> tuple[list[str], list[list[str | None]]]:
    """Columns and rows as text."""
    rows = summary["rows"]
    if summary["study"] == "scale":
        columns = ["ranks", "batch", "step, ms", "steps", "tokens/s", "speed-up", "95 %", "eff.", "95 %"]
        return columns, [_scale(row) for row in rows]
    if summary["study"] == "predict":
        columns = ["ranks", "step, ms", "compute", "fixed", "comm.", "crowd", "tokens/s", "measured", "error"]
        return columns, [_prediction(row) for row in rows]
    columns = ["precision", "steps", "last loss", "largest drift", "last drift", "speed-up", "95 %"]
    return columns, [_drift(row) for row in rows]


def _scale(row: dict[str, Any]) -> list[str | None]:
    speed, efficiency = row["speed_up"], row["efficiency"]
    return [
        str(row["ranks"]),
        str(row["samples"]),
        f"{row['step_ns'] / NS_PER_MS:,.2f}",
        str(row["count"]),
        f"{row['tokens_per_second'] or row['samples_per_second']:,.0f}",
        f"{speed['value']:.2f}",
        _between(speed, 1, ".2f"),
        f"{efficiency['value']:.0%}",
        _between(efficiency, 100, ".0f"),
    ]


def _prediction(row: dict[str, Any]) -> list[str | None]:
    parts = [f"{row[name] / NS_PER_MS:,.2f}" for name in ("step_ns", "compute_ns", "fixed_ns", "communication_ns")]
    measured = None if row["measured_ns"] is None else f"{row['measured_ns'] / NS_PER_MS:,.2f}"
    error = None if row["error"] is None else f"{row['error']:+.1%}"
    return [str(row["ranks"]), *parts, f"{row['contention']:.2f}", f"{row['tokens_per_second']:,.0f}", measured, error]


def _drift(row: dict[str, Any]) -> list[str | None]:
    drifts = [f"{row['largest_drift']:.3%}", f"{row['last_drift']:+.3%}"]
    speed = row["speed_up"]
    return [row["precision"], str(row["steps"]), f"{row['last_loss']:.4f}", *drifts, f"{speed['value']:.2f}", _between(speed, 1, ".2f")]


def _between(bounds: dict[str, Any], scale: int, spec: str) -> str | None:
    if bounds["low"] is None:
        return None
    return f"{bounds['low'] * scale:{spec}}–{bounds['high'] * scale:{spec}}"
