"""Figures and sections of studies."""

from __future__ import annotations

from typing import Any

from bytemlperf.runs.kinds import Figure, Plot, Section, Table
from training.results.study_table import cells

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
    columns, rows = cells(summary)
    table = Table(title=TITLES[summary["study"]], columns=columns, rows=rows)
    draw = {"scale": _scale_plot, "predict": _prediction_plot}.get(summary["study"])
    plot = draw(summary["rows"]) if draw else None
    return [table] if plot is None else [plot, table]


def _scale_plot(rows: list[dict[str, Any]]) -> Plot | None:
    if not rows:
        return None
    ranks = [row["ranks"] for row in rows]
    speeds = [row["speed_up"] for row in rows]
    bars: dict[str, Any] = {"type": "data", "symmetric": False}
    bars["array"] = [0 if each["high"] is None else each["high"] - each["value"] for each in speeds]
    bars["arrayminus"] = [0 if each["low"] is None else each["value"] - each["low"] for each in speeds]
    measured = {
        "type": "scatter",
        "mode": "lines+markers",
        "name": "measured",
        "x": ranks,
        "y": [each["value"] for each in speeds],
        "error_y": bars,
    }
    ideal = {
        "type": "scatter",
        "mode": "lines",
        "name": "ideal",
        "x": ranks,
        "y": [count / ranks[0] for count in ranks],
        "line": {"dash": "dot"},
    }
    layout = {"xaxis": {"title": {"text": "ranks"}}, "yaxis": {"title": {"text": "speed-up"}, "rangemode": "tozero"}}
    return Plot(title="Speed-up", data=[measured, ideal], layout=layout, alt="Speed-up over the number of ranks, with 95 % intervals")


def _prediction_plot(rows: list[dict[str, Any]]) -> Plot | None:
    if not rows:
        return None
    ranks = [row["ranks"] for row in rows]
    measured = [(row["ranks"], row["measured_ns"] / 1e6) for row in rows if row["measured_ns"] is not None]
    data: list[dict[str, Any]] = [
        {"type": "scatter", "mode": "lines+markers", "name": "predicted", "x": ranks, "y": [row["step_ns"] / 1e6 for row in rows]},
        {"type": "scatter", "mode": "markers", "name": "measured", "x": [x for x, _ in measured], "y": [y for _, y in measured]},
    ]
    layout = {"xaxis": {"title": {"text": "ranks"}, "type": "log"}, "yaxis": {"title": {"text": "step, ms"}, "rangemode": "tozero"}}
    return Plot(title="Predicted step time", data=data, layout=layout, alt="Step time over the number of ranks, predicted and measured")
