"""Curves as a page and a terminal show them: latency against throughput, goodput, and interactivity against tokens/s of a device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bytemlperf.report.blocks import Cell, axes, bounded_line, dots, table
from bytemlperf.report.text import interval, number
from bytemlperf.runs.kinds import Plot, Section, Text
from bytemlperf_llm.sweep.curve import Curve
from bytemlperf_llm.sweep.row import PointRow, Reading

LATENCIES = {"ttft": "TTFT", "tpot": "TPOT", "e2e": "E2E"}
GROUP = "Latency against throughput"
THROUGHPUT, TOKENS = "request_throughput", "output_token_throughput"
ASIDE = "not on the curve: "
SPARE = ("tokens/s per device", "tokens/s", "tokens/s per user", "E2E tail", "TPOT tail", "TTFT tail")
COLOURS = 8
LOG_FROM = 30.0
"""Highest over lowest value from which on an axis goes by factors."""


def curve_sections(curves: Sequence[Curve]) -> list[Section]:
    """The knee and the limits of each, one table of all points, and the plots that all curves share."""
    return [*_sentences(curves), *point_tables(curves), *aside_table(curves), *_latency_plots(curves), *_more_plots(curves)]


def _sentences(curves: Sequence[Curve]) -> list[Section]:
    sections: list[Section] = []
    for curve in curves:
        knee = curve.knee()
        title = f"Knee of {curve.name}" if curve.name else "Knee"
        if knee is not None:
            sections.append(Text(title=title, body=knee.sentence()))
        elif curve.carried:
            sections.append(Text(title=title, body=f"{len(curve.carried)} points were carried, and it takes 3 to tell", style="note"))
    return sections


# -- the table ----------------------------------------------------------------------------------


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
        "tokens/s per user": _bounded(_interactivity(row)),
        "tokens/s per device": _bounded(_of_device(row)) if row.devices else None,
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


def _interactivity(row: PointRow) -> Reading | None:
    """Tokens/s that one user sees: 1/TPOT p50."""
    tpot = row.figures.get("tpot p50")
    if tpot is None or not tpot.value:
        return None
    low, high = (None if bound is None or not bound else 1000 / bound for bound in (tpot.high, tpot.low))
    return Reading(value=1000 / tpot.value, unit="tokens/s", better="higher", label="interactivity", low=low, high=high)


def _of_device(row: PointRow) -> Reading | None:
    """Output tokens/s over the devices that the server was said to have; of the whole server where nothing was said."""
    tokens, devices = row.figures.get(TOKENS), row.devices or 1
    if tokens is None:
        return None
    low, high = (None if bound is None else bound / devices for bound in (tokens.low, tokens.high))
    return Reading(value=tokens.value / devices, unit="tokens/s", better="higher", label=tokens.label, low=low, high=high)


# -- plots --------------------------------------------------------------------------------------


def _latency_plots(curves: Sequence[Curve]) -> list[Section]:
    plots: list[Section] = []
    for name, label in LATENCIES.items():
        data: list[dict[str, Any]] = []
        alts, shown = list[str](), list[float]()
        for place, curve in enumerate(curves):
            colour = f"@{place % COLOURS}"
            tail = _shared_tail(curve, name)
            for metric, dash in ((f"{name} p50", "solid"), *(((tail, "dot"),) if tail else ())):
                text = f"{curve.name} {metric.partition(' ')[2]}".strip()
                rows = [row for row in curve.carried if metric in row.figures and THROUGHPUT in row.figures]
                shown += _line(data, text, rows, metric, "%{y:.4~g} ms at %{x:.4~g} requests/s", color=colour, dash=dash)
                alts += (
                    [f"{text} from {number(rows[0].figures[metric].value)} to {number(rows[-1].figures[metric].value)} ms"] if rows else []
                )
            shown += _marks(data, curve, f"{name} p50", colour)
        if shown:
            layout = axes("requests/s completed", "ms")
            if max(shown) > LOG_FROM * min(shown) > 0:
                layout["yaxis"] = {"title": {"text": "ms"}, "type": "log", "dtick": "D2"}
            plots.append(Plot(title=label, data=data, layout=layout, alt="; ".join(alts), half=True, group=GROUP))
    return plots


def _line(data: list[dict[str, Any]], text: str, rows: Sequence[PointRow], metric: str, hover: str, **style: Any) -> list[float]:
    """Adds a line through rows with their intervals; returns the values."""
    if not rows:
        return []
    readings = [row.figures[metric] for row in rows]
    x, y = [row.figures[THROUGHPUT].value for row in rows], [reading.value for reading in readings]
    data.append(bounded_line(text, x, y, [reading.bounds for reading in readings], hover, **style))
    return y


def _marks(data: list[dict[str, Any]], curve: Curve, metric: str, colour: str) -> list[float]:
    """Adds single marks for overloaded points and for those that are not on the curve."""
    values: list[float] = []
    for title, symbol, rows in (("overloaded", "circle-open", curve.overloaded), ("not on the curve", "x", curve.aside)):
        rows = [row for row in rows if metric in row.figures and THROUGHPUT in row.figures]
        if rows:
            y = [row.figures[metric].value for row in rows]
            hover = f"{title}: %{{y:.4~g}} ms at %{{x:.4~g}} requests/s"
            data.append(
                dots(
                    f"{curve.name} {title}".strip(),
                    [row.figures[THROUGHPUT].value for row in rows],
                    y,
                    hover,
                    symbol=symbol,
                    size=8,
                    color=colour,
                )
            )
            values += y
    return values


def _shared_tail(curve: Curve, name: str) -> str | None:
    """The highest percentile beyond the median that every point of the line carries."""
    tails = [row.tail(name) for row in curve.carried]
    lowest = min((float(tail.partition(" p")[2]) for tail in tails if tail), default=50.0)
    return f"{name} p{lowest:g}" if None not in tails and lowest > 50 else None


def _more_plots(curves: Sequence[Curve]) -> list[Section]:
    plots: list[Section] = []
    if pareto := _pareto(curves):
        plots.append(pareto)
    if goodput := _goodput(curves):
        plots.append(goodput)
    return plots


def _pareto(curves: Sequence[Curve]) -> Plot | None:
    """Interactivity against throughput of a device: what one user gets against what the owner gets."""
    data: list[dict[str, Any]] = []
    alts = []
    devices = sorted({row.devices for curve in curves for row in curve.carried if row.devices})
    for place, curve in enumerate(curves):
        points = [(user, device) for row in curve.carried if (user := _interactivity(row)) and (device := _of_device(row))]
        if not points:
            continue
        x, y = [user.value for user, _ in points], [device.value for _, device in points]
        text = curve.name or "tokens/s"
        hover = "%{y:.4~g} tokens/s, of which a user sees %{x:.4~g}"
        data.append(bounded_line(text, x, y, [device.bounds for _, device in points], hover, color=f"@{place % COLOURS}"))
        alts.append(f"{text}: {number(y[0])} tokens/s at {number(x[0])} a user to {number(y[-1])} at {number(x[-1])}")
    if not data:
        return None
    per = f"output tokens/s per device ({', '.join(map(str, devices))} stated)" if devices else "output tokens/s of the server"
    note = "Tokens/s per user is 1 / TPOT p50." + ("" if devices else " --card CARD*COUNT divides the server's by its devices.")
    return Plot(
        title="Interactivity", data=data, layout=axes("tokens/s per user", per), note=note, alt="; ".join(alts), half=True, group=GROUP
    )


def _goodput(curves: Sequence[Curve]) -> Plot | None:
    """Requests/s within the service levels, over the load, overloaded points too: that is where it falls."""
    data: list[dict[str, Any]] = []
    for place, curve in enumerate(curves):
        rows = [row for row in curve.rows if row.on_curve and "goodput" in row.figures]
        if rows:
            x = [row.load.rate_rps or row.load.concurrency for row in rows]
            y = [row.figures["goodput"].value for row in rows]
            data.append(
                bounded_line(
                    curve.name or "goodput", x, y, [None] * len(rows), "%{y:.4~g} requests/s within the SLO", color=f"@{place % COLOURS}"
                )
            )
    if not data:
        return None
    load = "target requests/s" if any(curve.open_loop for curve in curves) else "concurrent requests"
    return Plot(
        title="Goodput", data=data, layout=axes(load, "requests/s within the SLO"), alt="goodput over the load", half=True, group=GROUP
    )
