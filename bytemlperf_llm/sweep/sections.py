"""Curves as a page and a terminal show them: latency against throughput, goodput, and interactivity against tokens/s of a device."""

from __future__ import annotations

from collections.abc import Sequence

from bytemlperf.report.blocks import Cell, table
from bytemlperf.report.text import counted, interval, number
from bytemlperf.runs.kinds import Section, Text
from bytemlperf_llm.sweep.curve import LEAST_POINTS, Curve
from bytemlperf_llm.sweep.plots import goodput_plot, latency_plots, pareto_plot
from bytemlperf_llm.sweep.row import LATENCIES, THROUGHPUT, TOKENS, PointRow, Reading, interactivity, of_device

SPARE = ("tokens/s per device", "tokens/s", "tokens/s per user", "E2E tail", "TPOT tail", "TTFT tail")


def curve_sections(curves: Sequence[Curve]) -> list[Section]:
    """The knee of each, the plots that all share, and the tables of all points."""
    return [
        *_knees(curves),
        *latency_plots(curves),
        *pareto_plot(curves),
        *goodput_plot(curves),
        *point_tables(curves),
        *aside_table(curves),
    ]


def _knees(curves: Sequence[Curve]) -> list[Section]:
    sections: list[Section] = []
    for curve in (curve for curve in curves if curve.carried):
        knee, title = curve.knee(), f"Knee of {curve.name}" if curve.name else "Knee"
        few = f"{counted(len(curve.carried), 'point')} carried, and it takes {LEAST_POINTS} to tell"
        sections.append(Text(title=title, body=knee.sentence() if knee else few, style="plain" if knee else "note", group="Knee"))
    return sections


def point_tables(curves: Sequence[Curve]) -> list[Section]:
    """A row a point, skipped ones too: what was delivered; then latencies in ms, the tail at the highest percentile that the point's
    sample carries."""
    points = [(curve, row) for curve in curves for row in curve.rows]
    note = "Below each figure its 95 % interval; tail: the highest percentile that the point's sample carries."
    return [
        *table("Points", [_head(curve, row) | _delivered(row) for curve, row in points], spare=SPARE),
        *table("Latency, ms", [_head(curve, row) | _latencies(row) for curve, row in points if row.figures], note=note, spare=SPARE),
    ]


def _head(curve: Curve, row: PointRow) -> dict[str, Cell]:
    return {"curve": curve.name or None, "target rate": row.load.rate_rps, "concurrent": row.load.concurrency}


def _delivered(row: PointRow) -> dict[str, Cell]:
    return {
        "verdict": row.shown_verdict,
        "requests/s": _bounded(row.figures.get(THROUGHPUT)),
        "within SLO": _bounded(row.figures.get("goodput share"), " %"),
        "tokens/s": _bounded(row.figures.get(TOKENS)),
        "tokens/s per user": _bounded(interactivity(row)),
        "tokens/s per device": _bounded(of_device(row)) if row.devices else None,
    }


def _latencies(row: PointRow) -> dict[str, Cell]:
    cells: dict[str, Cell] = {}
    for name, label in LATENCIES.items():
        cells |= {f"{label} p50": _bounded(row.figures.get(f"{name} p50")), f"{label} tail": _tail(row, name)}
    return cells


def aside_table(curves: Sequence[Curve]) -> list[Section]:
    """Why points are not on their curve, or have no figures."""
    left = [(curve.name, row) for curve in curves for row in curve.rows if not row.on_curve]
    rows: list[dict[str, Cell]] = [
        {"curve": name or None, "load": str(row.load), "verdict": row.shown_verdict, "why": row.why} for name, row in left
    ]
    return table("Not on the curve", rows)


def _bounded(reading: Reading | None, unit: str = "", head: str = "") -> str | None:
    if reading is None:
        return None
    below = " ".join(part for part in (head, interval(reading.low, reading.high)) if part)
    return f"{number(reading.value)}{unit}" + (f"\n{below}" if below else "")


def _tail(row: PointRow, name: str) -> str | None:
    metric = row.tail(name)
    return None if metric in (None, f"{name} p50") else _bounded(row.figures[str(metric)], head=str(metric).partition(" ")[2])
