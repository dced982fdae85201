"""The plots of curves: latency against throughput, interactivity against tokens/s of a device, goodput over the load."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from bytemlperf.report.blocks import axes, bounded_line, dots
from bytemlperf.report.text import number
from bytemlperf.runs.kinds import Plot, Section
from bytemlperf_llm.sweep.curve import Curve
from bytemlperf_llm.sweep.row import LATENCIES, THROUGHPUT, PointRow, Reading, interactivity, of_device, percent_of

GROUP = "Latency against throughput"
COLOURS = 8
TAIL_SHARE = 2 / 3
"""Of a line's points must carry the percentile of its tail."""
LOG_FROM = 30.0
"""Highest over lowest value from which on an axis goes by factors."""


def latency_plots(curves: Sequence[Curve]) -> list[Section]:
    """TTFT, TPOT and E2E of the points that were carried, at the median and at a tail; beside them the others' medians as marks."""
    plots: list[Section] = []
    for name, label in LATENCIES.items():
        data: list[dict[str, Any]] = []
        alts, shown = list[str](), list[float]()
        for place, curve in enumerate(curves):
            tail = _shared_tail(curve, name)
            for metric, dash in ((f"{name} p50", "solid"), *(((tail, "dot"),) if tail else ())):
                text = f"{curve.name} {metric.partition(' ')[2]}".strip()
                y = _line(data, text, curve.carried, metric, color=_colour(place), dash=dash)
                alts += [f"{text} from {number(y[0])} to {number(y[-1])} ms"] if y else []
                shown += y
            shown += _marks(data, curve, f"{name} p50", _colour(place))
        layout = axes("requests/s completed", "ms")
        if shown and max(shown) > LOG_FROM * min(shown) > 0:
            layout["yaxis"] = {"title": {"text": "ms"}, "type": "log", "dtick": "D2"}
        plots += _plot(label, data, layout, alts)
    return plots


def _line(data: list[dict[str, Any]], text: str, rows: Sequence[PointRow], metric: str, **style: Any) -> list[float]:
    """Adds a line with its intervals; returns its values."""
    x, readings = _against_throughput(rows, metric)
    y = [reading.value for reading in readings]
    if y:
        hover = "%{y:.4~g} ms at %{x:.4~g} requests/s"
        data.append(bounded_line(text, x, y, [reading.bounds for reading in readings], hover, **style))
    return y


def _marks(data: list[dict[str, Any]], curve: Curve, metric: str, colour: str) -> list[float]:
    """Adds single marks for overloaded points and for those that are not on the curve; returns their values."""
    values: list[float] = []
    for title, symbol, rows in (("overloaded", "circle-open", curve.overloaded), ("not on the curve", "x", curve.aside)):
        x, readings = _against_throughput(rows, metric)
        y = [reading.value for reading in readings]
        if y:
            hover = f"{title}: %{{y:.4~g}} ms at %{{x:.4~g}} requests/s"
            data.append(dots(f"{curve.name} {title}".strip(), x, y, hover, symbol=symbol, size=8, color=colour))
            values += y
    return values


def _against_throughput(rows: Sequence[PointRow], metric: str) -> tuple[list[float], list[Reading]]:
    """Of the points that have both."""
    known = [row.figures for row in rows if metric in row.figures and THROUGHPUT in row.figures]
    return [figures[THROUGHPUT].value for figures in known], [figures[metric] for figures in known]


def _shared_tail(curve: Curve, name: str) -> str | None:
    """The highest percentile beyond the median that most points of the line carry; where one carries none, the line begins later."""
    counts = Counter(metric for row in curve.carried for metric in row.percentiles(name))
    shared = [metric for metric, count in counts.items() if count >= TAIL_SHARE * len(curve.carried)]
    tail = max(shared, key=percent_of, default=None)
    return None if tail == f"{name} p50" else tail


def pareto_plot(curves: Sequence[Curve]) -> list[Section]:
    """Interactivity against throughput of a device: what one user gets against what the owner gets."""
    data: list[dict[str, Any]] = []
    alts = []
    for place, curve in enumerate(curves):
        points = [(user, device) for row in curve.carried if (user := interactivity(row)) and (device := of_device(row))]
        if points:
            x, y = [user.value for user, _ in points], [device.value for _, device in points]
            text, hover = curve.name or "tokens/s", "%{y:.4~g} tokens/s, of which a user sees %{x:.4~g}"
            data.append(bounded_line(text, x, y, [device.bounds for _, device in points], hover, color=_colour(place)))
            alts.append(f"{text}: {number(y[0])} tokens/s at {number(x[0])} a user to {number(y[-1])} at {number(x[-1])}")
    devices = sorted({row.devices for curve in curves for row in curve.carried if row.devices})
    per = f"output tokens/s per device ({', '.join(map(str, devices))} stated)" if devices else "output tokens/s of the server"
    note = "Tokens/s per user is 1 / TPOT p50." + ("" if devices else " --card CARD*COUNT divides the server's by its devices.")
    return _plot("Interactivity", data, axes("tokens/s per user", per), alts, note)


def goodput_plot(curves: Sequence[Curve]) -> list[Section]:
    """Requests/s within the service levels, over the load, overloaded points too: that is where it falls."""
    data: list[dict[str, Any]] = []
    for place, curve in enumerate(curves):
        rows = [row for row in curve.rows if row.on_curve and "goodput" in row.figures]
        if rows:
            x, y = [row.load.rate_rps or row.load.concurrency for row in rows], [row.figures["goodput"].value for row in rows]
            hover = "%{y:.4~g} requests/s within the SLO at %{x:.4~g}"
            data.append(bounded_line(curve.name or "goodput", x, y, [None] * len(rows), hover, color=_colour(place)))
    load = next((f"target {curve.rows[0].load.unit}" for curve in curves if curve.open_loop), "concurrent requests")
    return _plot("Goodput", data, axes(load, "requests/s within the SLO"), ["goodput over the load"])


def _colour(place: int) -> str:
    return f"@{place % COLOURS}"


def _plot(title: str, data: list[dict[str, Any]], layout: dict[str, Any], alts: Sequence[str], note: str = "") -> list[Section]:
    """Nothing without data."""
    return [Plot(title=title, data=data, layout=layout, note=note, alt="; ".join(alts), half=True, group=GROUP)] if data else []
