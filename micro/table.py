"""Rows as a table, for the terminal and for pages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from micro.cases import case_text

COLUMNS = ("case", "provider", "status", "p50 µs", "± %", "p90 µs", "p99 µs", "GB/s", "TFLOP/s", "remarks")


def cells(row: dict[str, Any]) -> list[str | float | int | None]:
    """One row's cells under COLUMNS, numbers as numbers."""
    latency = row.get("latency_us") or {}
    return [
        case_text(row["op"], row["args"]),
        row["provider"],
        row["status"],
        latency.get("p50"),
        _half_width(latency),
        latency.get("p90"),
        latency.get("p99"),
        row.get("mem_bw_gbs"),
        row.get("tflops"),
        _remarks(row),
    ]


def _half_width(latency: dict[str, Any]) -> float | None:
    if not latency or latency["ci95_low"] is None:
        return None
    return float((latency["ci95_high"] - latency["ci95_low"]) / 2 / latency["p50"] * 100)


def _remarks(row: dict[str, Any]) -> str:
    noise = row.get("noise") or ""
    return "; ".join(part for part in (row["reason"], row.get("note") or "", "" if noise == "steady" else noise) if part)


def print_rows(rows: Sequence[dict[str, Any]], console: Any) -> None:
    """One table an operator; arguments that are the same in all of its rows are in the title."""
    by_op: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_op.setdefault(row["op"], []).append(row)
    for op, group in by_op.items():
        _print_operator(op, group, console)


def _print_operator(op: str, rows: list[dict[str, Any]], console: Any) -> None:
    from rich.table import Table
    from rich.text import Text

    names = list(dict.fromkeys(name for row in rows for name in row["args"]))
    same = [name for name in names if len({repr(row["args"].get(name)) for row in rows}) == 1]
    varying = [name for name in names if name not in same]
    common = " ".join(f"{name}={rows[0]['args'].get(name)}" for name in same)
    table = Table(title=Text(f"{op}  {common}".strip()), title_justify="left", box=None, padding=(0, 1), header_style="bold")
    for name in varying:
        table.add_column(Text(name), justify="right", no_wrap=True)
    for column in COLUMNS[1:-1]:
        table.add_column(Text(column), justify="left" if column in ("provider", "status") else "right", no_wrap=True)
    table.add_column("see")
    remarks: dict[str, int] = {}
    for row in rows:
        remark = _remarks(row)
        see = str(remarks.setdefault(remark, len(remarks) + 1)) if remark else ""
        values = [Text(str(row["args"].get(name, ""))) for name in varying]
        table.add_row(*values, *(Text(_text(cell)) for cell in cells(row)[1:-1]), see)
    console.print(table)
    for remark, number in remarks.items():
        console.print(Text(f"  {number}: {_text(remark)}", style="dim"), soft_wrap=True)
    console.print()


def _text(cell: Any) -> str:
    if cell is None:
        return "–"
    if not isinstance(cell, float):
        return "".join(char for char in str(cell) if char.isprintable())
    if cell >= 1000:
        return f"{cell:,.0f}"
    return f"{cell:.3g}" if cell < 100 else f"{cell:.1f}"
