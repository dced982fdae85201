"""What results of several suites are made of: a metric's figures and cells with their intervals, tables, traces and axes of plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bytemlperf.report.text import number
from bytemlperf.runs.kinds import Figure, Section, Table

Cell = str | float | int | None


def metric_cells(metric: dict[str, Any], percents: Sequence[str], scale: float = 1.0) -> list[str]:
    """Mean and percentiles of a metric over `scale`, each with its 95 % interval in a line below where it has one."""
    bounds = metric.get("ci95") or {}
    claims = [("mean", metric["mean"]), *((percent, metric["percentiles"].get(percent)) for percent in percents)]
    return [bounded_cell(value, bounds.get(name), scale) for name, value in claims]


def bounded_cell(value: Any, bounds: Any, scale: float = 1.0) -> str:
    """A value over `scale` with its interval below; words stay words, but that `inf` is ∞."""
    if isinstance(value, str) or value is None:
        return "∞" if value == "inf" else value or number(None)
    below = "" if bounds is None or isinstance(bounds, str) else "\n" + " – ".join(bounded_cell(bound, None, scale) for bound in bounds)
    return f"{number(value / scale)}{below}"


def line(name: str, x: Any, y: Any, hover: str = "", **style: Any) -> dict[str, Any]:
    """A curve; `style` is plotly's of a line."""
    return _trace("scatter", name, x, y, hover, mode="lines", **({"line": style} if style else {}))


def figure_of(summary: Mapping[str, Any], statistic: str, scale: float = 1.0, /, **fields: Any) -> Figure:
    """A metric's mean, or its percentile ("50"), over `scale`, as a figure with its interval; the other `fields` are the figure's own."""
    value = summary["mean"] if statistic == "mean" else summary["percentiles"][statistic]
    bounds = summary["ci95"].get(statistic)
    low, high = (None, None) if bounds is None or isinstance(bounds, str) else (bound / scale for bound in bounds)
    if isinstance(value, str):
        reason = "among requests that never ended" if value == "inf" else "insufficient samples"
        return Figure(value=None, low=low, high=high, count=summary["count"], reason=reason, **fields)
    return Figure(value=value / scale, low=low, high=high, count=summary["count"], **fields)


def table(title: str, rows: Sequence[Mapping[str, Cell]], **more: Any) -> list[Section]:
    """A table of rows that are alike, its columns named by their keys; none without rows, no column that no row fills."""
    columns = [name for name in (rows[0] if rows else {}) if any(row[name] is not None for row in rows)]
    return [Table(title=title, columns=columns, rows=[[row[name] for name in columns] for row in rows], **more)] if rows else []


def over(value: float | None, scale: float) -> float | None:
    """A value in another unit; None stays None."""
    return None if value is None else value / scale


def bounded_line(name: str, x: Any, y: Sequence[float], bounds: Sequence[Any], hover: str = "", **style: Any) -> dict[str, Any]:
    """A curve through marks with their intervals, None where there is none."""
    around = error_bars(y, [bound or (value, value) for value, bound in zip(y, bounds, strict=True)], thickness=1)
    return line(name, x, y, hover, **style) | {"mode": "lines+markers", "error_y": around, **({"marker": style} if style else {})}


def error_bars(values: Sequence[float], bounds: Sequence[Sequence[float]], **style: Any) -> dict[str, Any]:
    """From low to high around each value."""
    up = [high - value for value, (_, high) in zip(values, bounds, strict=True)]
    down = [value - low for value, (low, _) in zip(values, bounds, strict=True)]
    return {"type": "data", "symmetric": False, "array": up, "arrayminus": down, **style}


def dots(name: str, x: Any, y: Any, hover: str = "", **style: Any) -> dict[str, Any]:
    """Single points; `style` is plotly's of a marker."""
    return _trace("scatter", name, x, y, hover, mode="markers", **({"marker": style} if style else {}))


def bars(name: str, x: Any, y: Any, hover: str = "", *, color: str = "", lying: bool = False) -> dict[str, Any]:
    more = {"marker": {"color": color, "line": {"width": 0}}} if color else {}
    return _trace("bar", name, x, y, hover, **more, **({"orientation": "h"} if lying else {}))


def _trace(kind: str, name: str, x: Any, y: Any, hover: str, **more: Any) -> dict[str, Any]:
    told = {"hovertemplate": f"{hover}<extra></extra>"} if hover else {}
    return {"type": kind, "name": name, "x": x, "y": y, **told, **more}


def axes(x: str, y: str, **more: Any) -> dict[str, Any]:
    """A layout of two named axes, the upright one from 0."""
    return {"xaxis": {"title": {"text": x}}, "yaxis": {"title": {"text": y}, "rangemode": "tozero"}, **more}
