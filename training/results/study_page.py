"""Figures and sections of studies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bytemlperf.report.blocks import axes, bounded_cell, bounded_line, dots, line
from bytemlperf.runs.kinds import Figure, Plot, Section, Table
from bytemlperf.units import NS_PER_MS

PERCENT = 100.0
TITLES = {"scale": "Scaling", "predict": "Prediction from measured parts", "drift": "Precisions"}


def study_figures(run: dict[str, Any], summary: dict[str, Any]) -> list[Figure]:
    """What a comparison can use: of scaling studies speed-up, efficiency and throughput; of precisions the drift."""
    config = run["config"]
    name = config["workload"]["name"]
    found: list[Figure] = []
    for row in summary["rows"]:
        if summary["study"] == "scale":
            key = f"{name} {config['mode']} scaling, {row['ranks']} ranks"
            found += [
                _bounded(key, "speed_up", "x", row["speed_up"], row["count"]),
                _bounded(key, "efficiency", "%", row["efficiency"], row["count"], PERCENT),
            ]
            rate = row["tokens_per_second"] or row["samples_per_second"]
            found.append(Figure(key=key, metric="tokens_per_second", unit="tokens/s", value=rate, better="higher", count=row["count"]))
        elif summary["study"] == "drift":
            key = f"{name} {row['precision']} against {config['precisions'][0]}"
            found.append(
                Figure(key=key, metric="largest_drift", unit="%", value=row["largest_drift"] * PERCENT, better="lower", count=row["steps"])
            )
            found.append(_bounded(key, "speed_up", "x", row["speed_up"], row["steps"]))
    return found


def _bounded(key: str, metric: str, unit: str, bounds: dict[str, Any], count: int, scale: float = 1.0) -> Figure:
    return Figure(
        key=key,
        metric=metric,
        unit=unit,
        value=bounds["value"] * scale,
        better="higher",
        low=None if bounds["low"] is None else bounds["low"] * scale,
        high=None if bounds["high"] is None else bounds["high"] * scale,
        count=count,
        headline=metric == "speed_up",
    )


def study_sections(summary: dict[str, Any]) -> list[Section]:
    """A table, and a plot of what was scaled or predicted."""
    draw = {"scale": _scale_plot, "predict": _prediction_plot}.get(summary["study"])
    plot = draw(summary["rows"]) if draw and summary["rows"] else None
    return [study_table(summary)] if plot is None else [plot, study_table(summary)]


def study_table(summary: dict[str, Any]) -> Table:
    """A row a run or prediction."""
    columns, cells_of = TABLES[summary["study"]]
    return Table(title=TITLES[summary["study"]], columns=columns, rows=[cells_of(row) for row in summary["rows"]])


def _scale(row: dict[str, Any]) -> list[str | float | None]:
    rate = row["tokens_per_second"] or row["samples_per_second"]
    speed, efficiency = _bounds(row["speed_up"]), _bounds(row["efficiency"], PERCENT)
    return [row["ranks"], row["samples"], row["step_ns"] / NS_PER_MS, row["count"], rate, speed, efficiency]


def _prediction(row: dict[str, Any]) -> list[str | float | None]:
    names = ("step_ns", "compute_ns", "fixed_ns", "communication_ns")
    measured = None if row["measured_ns"] is None else row["measured_ns"] / NS_PER_MS
    error = None if row["error"] is None else f"{row['error']:+.1%}"
    parts = [row[name] / NS_PER_MS for name in names]
    return [row["ranks"], *parts, f"{row['contention']:.2f}", row["tokens_per_second"], measured, error]


def _drift(row: dict[str, Any]) -> list[str | float | None]:
    drifts = [f"{row['largest_drift']:.3%}", f"{row['last_drift']:+.3%}"]
    return [row["precision"], row["steps"], f"{row['last_loss']:.4f}", *drifts, _bounds(row["speed_up"])]


def _bounds(bounds: dict[str, Any], percent: float = 1.0) -> str:
    """A value with its 95 % interval below."""
    between = None if bounds["low"] is None else (bounds["low"], bounds["high"])
    return bounded_cell(bounds["value"], between, 1 / percent)


TABLES: dict[str, tuple[list[str], Callable[[dict[str, Any]], list[str | float | None]]]] = {
    "scale": (["ranks", "batch", "step, ms", "steps", "tokens/s", "speed-up", "efficiency, %"], _scale),
    "predict": (["ranks", "step, ms", "compute", "fixed", "communication", "crowd", "tokens/s", "measured", "error"], _prediction),
    "drift": (["precision", "steps", "last loss", "largest drift", "last drift", "speed-up"], _drift),
}
"""Of each study: columns, and a row's cells. An interval stands below its figure."""


def _scale_plot(rows: list[dict[str, Any]]) -> Plot:
    ranks = [row["ranks"] for row in rows]
    speeds = [row["speed_up"] for row in rows]
    bounds = [None if speed["low"] is None else (speed["low"], speed["high"]) for speed in speeds]
    measured = bounded_line("measured", ranks, [speed["value"] for speed in speeds], bounds)
    ideal = line("ideal", ranks, [count / ranks[0] for count in ranks], dash="dot")
    alt = "Speed-up over the number of ranks, with 95 % intervals"
    return Plot(title="Speed-up", data=[measured, ideal], layout=axes("ranks", "speed-up"), alt=alt)


def _prediction_plot(rows: list[dict[str, Any]]) -> Plot:
    measured = [row for row in rows if row["measured_ns"] is not None]
    predicted = line("predicted", [row["ranks"] for row in rows], [row["step_ns"] / NS_PER_MS for row in rows])
    found = dots("measured", [row["ranks"] for row in measured], [row["measured_ns"] / NS_PER_MS for row in measured])
    layout = axes("ranks", "step, ms")
    layout["xaxis"]["type"] = "log"
    alt = "Step time over the number of ranks, predicted and measured"
    return Plot(title="Predicted step time", data=[predicted | {"mode": "lines+markers"}, found], layout=layout, alt=alt)
