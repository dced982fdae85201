"""A campaign as a page and a terminal show it: one table a scenario, what failed, curves over each other, engines side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from bytemlperf.compare.comparison import Comparison, Side
from bytemlperf.compare.show import METHOD, figure_table, sentence, value_text
from bytemlperf.report.blocks import Cell as Value
from bytemlperf.report.blocks import table
from bytemlperf.report.text import unit
from bytemlperf.runs.kinds import Plot, Section, Text
from bytemlperf_llm.campaign.cells import Cell, lost_runs, point_of
from bytemlperf_llm.campaign.records import CAPACITY_LOAD
from bytemlperf_llm.sweep.curve import LEAST_POINTS, curves_of
from bytemlperf_llm.sweep.row import PointRow
from bytemlperf_llm.sweep.sections import curve_sections

SHOWN = {
    "ttft p50": "TTFT p50, ms",
    "ttft p90": "TTFT p90, ms",
    "ttft p99": "TTFT p99, ms",
    "tpot p50": "TPOT p50, ms",
    "e2e p50": "E2E p50, ms",
    "output_token_throughput": "tokens/s",
    "goodput share": "within SLO, %",
}
"""Figures of the table, and what they are called there; the others are in the page's list. Of TTFT's tails the highest that all carry."""
TAILS = ("ttft p99", "ttft p90")
SPARE = ("runs", "E2E p50, ms", "within SLO, %", "TTFT p90, ms", "TTFT p99, ms", "TPOT p50, ms")
UNITS = (" requests/s", " sessions/s", " concurrent")
"""Of a load in words: where all rows have the same, the column is named by it."""


def campaign_sections(cells: list[Cell], comparison: Comparison, gate: dict[str, Any]) -> list[Section]:
    return [
        *_overview(cells),
        *_failed(cells),
        *_gate(gate),
        *curve_plots([(cell.scenario, point) for cell in cells if (point := point_of(cell)) is not None]),
        *_differences(comparison),
        *_runs(cells),
    ]


def _overview(cells: list[Cell]) -> list[Section]:
    """One table a scenario: a row a load and engine; one for the capacities."""
    sections: list[Section] = []
    for scenario in dict.fromkeys(cell.scenario for cell in cells):
        under = [cell for cell in cells if cell.scenario == scenario]
        sections += _table(scenario, [cell for cell in under if cell.load != CAPACITY_LOAD])
        sections += _capacities(f"{scenario}: capacity", [cell for cell in under if cell.load == CAPACITY_LOAD])
    return sections


def _capacities(title: str, cells: list[Cell]) -> list[Section]:
    """What holds, from the load that holds to the one that fails; what it costs, where that is known."""
    known = {figure.metric: f"{figure.label}, {unit(figure.unit)}" for cell in cells for figure in cell.figures}
    rows = [
        {"engine": cell.engine, "runs": f"{len(cell.measured)} of {cell.planned}"}
        | {head: value_text(Side(figure=cell.figure(metric))) for metric, head in known.items()}
        | {"verdict": cell.verdict}
        for cell in cells
    ]
    note = "The load that holds; below it, from what holds to what fails, or Student's interval over the repeats."
    return table(title, rows, note=note)


def _table(scenario: str, cells: list[Cell]) -> list[Section]:
    tables = [{figure.metric: figure for figure in cell.figures if figure.value is not None} for cell in cells]
    measured = [known for known in tables if known]
    tail = next((metric for metric in TAILS if all(metric in known for known in measured)), None)
    shown = {metric: head for metric, head in SHOWN.items() if metric not in TAILS or metric == tail}
    of_all = next((unit for unit in UNITS if all(cell.load.endswith(unit) for cell in cells)), "")
    rows = [
        {of_all.strip() or "load": cell.load.removesuffix(of_all), "engine": cell.engine}
        | {"runs": f"{len(cell.measured)} of {cell.planned}"}
        | {head: value_text(Side(figure=known[metric])) if metric in known else None for metric, head in shown.items()}
        | {"verdict": cell.verdict}
        for cell, known in zip(cells, tables, strict=True)
    ]
    several = max((cell.planned for cell in cells), default=0) > 1
    note = "Means over the repeats, with Student's 95 % interval over them." if several else "95 % intervals below."
    return table(scenario, rows, note=note, spare=SPARE)


def _failed(cells: list[Cell]) -> list[Section]:
    rows: list[dict[str, Value]] = [
        {"engine": engine, "runs": len(records), "first": f"{records[0].scenario} · {records[0].load}", "reason": reason}
        for (engine, reason), records in lost_runs(cells).items()
    ]
    return table("Failed", rows)


def _gate(gate: dict[str, Any]) -> list[Section]:
    conditions, failed = gate.get("conditions") or [], gate.get("failures") or []
    if not conditions:
        return []
    said = Text(title=f"Gate {'failed' if failed else 'passed'}", body="; ".join(map(str, conditions)), group="Gate")
    return [said, *([Text(body="\n".join(map(str, failed)), style="warning", group="Gate")] if failed else [])]


def curve_plots(points: Sequence[tuple[str, PointRow]]) -> list[Section]:
    """Every engine's curve over the others', and where each bends: one group of plots a scenario."""
    sections: list[Section] = []
    for scenario in dict.fromkeys(scenario for scenario, _ in points):
        drawn = curves_of(point for other, point in points if other == scenario)
        bent = any(len(curve.carried) >= LEAST_POINTS for curve in drawn)
        shown = (Plot, Text) if bent else Plot
        sections += [replace(section, group=f"{scenario}: curves") for section in curve_sections(drawn) if isinstance(section, shown)]
    return sections


def _differences(comparison: Comparison) -> list[Section]:
    """Against the first engine; one table, folded."""
    if len(comparison.names) < 2:
        return []
    rows = [row for row in comparison.rows if row.metric in SHOWN or row.key.endswith(CAPACITY_LOAD)]
    sentences = "\n".join(f"{sentence(comparison, place)}." for place in range(1, len(comparison.names)))
    group = "Differences"
    return [
        Text(body=sentences, group=group),
        figure_table(comparison, rows, f"Against {comparison.names[0]}", folded=True, group=group),
        Text(body=METHOD, style="note", group=group, folded=True),
    ]


def _runs(cells: list[Cell]) -> list[Section]:
    rows: list[dict[str, Value]] = [
        {name: getattr(record, name) for name in ("engine", "scenario", "load", "repeat", "seed")}
        | {"verdict": record.verdict or record.status, "took, s": record.wall_s}
        | {"run folder": record.run, "schedule": record.schedule_sha256[:12], "why": "; ".join(record.reasons) or record.reason or None}
        for cell in cells
        for record in cell.records
    ]
    return table(f"All {len(rows)} runs", rows, folded=True, group="Runs")
