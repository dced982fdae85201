"""The run over time: latencies, throughput and the number in flight, and single requests as a waterfall."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from bytemlperf.lazy import numpy
from bytemlperf.report.blocks import bars, dots, line
from bytemlperf.report.thin import DOTS, Binned, kept_dots, thinned_steps, time_edges
from bytemlperf.runs.kinds import Plot, Section
from bytemlperf.statistics.columns import Column, Floats
from bytemlperf_llm.pages.columns import RunColumns
from bytemlperf_llm.pages.gauges import SAMPLED, GaugeLine, gauge_lines, gauge_panels, gauge_table
from bytemlperf_llm.pages.stages import STAGES_SHOWN, Stage, stages_of
from bytemlperf_llm.record.gauges import Sample

GROUP = "Over time"
WATERFALL_GROUP = "Request by request"
WATERFALL_REQUESTS = 60
PANEL_GAP = 0.6  # in the unit of a panel's weight
PANEL_HEIGHT = 152
CLIPPED_AT = 2.0  # times the p99
CROSSHAIR = {
    "showspikes": True,
    "spikemode": "across",
    "spikesnap": "cursor",
    "spikethickness": 1,
    "spikedash": "dot",
    "hoverformat": ".2f",
}
TOGETHER = {"hovermode": "x", "hoversubplots": "axis"}
"""One line through all panels at the pointer, with what each has there."""
ENGINE_COLOURS = {"running": "@5", "waiting": "@1", "kv_cache_usage": "@6", "prefix_cache_hit_rate": "@4", "preemptions": "@3"}


def timeline_sections(summary: dict[str, Any], columns: RunColumns, samples: Sequence[Sample] = ()) -> list[Section]:
    """Panels over one time axis, the engine's own gauges below ours; nothing where nothing was answered."""
    lines = gauge_lines(samples, columns.origin_ns)
    table: list[Section] = [gauge_table(lines, GROUP)] if lines else []
    if not columns.answered.any():
        return table
    due = columns.when("due")[columns.answered]
    shown = {"TTFT": "ttft", "TPOT": "tpot"} if columns.streams else {"E2E": "e2e"}
    latencies = {title: columns.latencies[name][columns.answered] for title, name in shown.items()}
    panels = [
        *(Panel(f"{title}, ms", 3, _latency_traces(due, values, columns)) for title, values in latencies.items()),
        *_rate_panels(columns),
        Panel("in flight", 2, [line("in flight", *thinned_steps(*columns.in_flight), "%{y} in flight", shape="hv", width=1.2, color="@7")]),
        *(Panel(title, 2, _gauge_traces(members), legend=True) for title, members in gauge_panels(lines)),
    ]
    return [_stacked([panel for panel in panels if panel.traces], summary, columns, len(due), told=bool(lines)), *table]


class Panel(NamedTuple):
    """One row of the stack: its axis title, its share of the height, its traces."""

    title: str
    weight: int
    traces: list[dict[str, Any]]
    legend: bool = False


def _stacked(panels: list[Panel], summary: dict[str, Any], columns: RunColumns, count: int, *, told: bool) -> Plot:
    data: list[dict[str, Any]] = []
    layout: dict[str, Any] = {
        "xaxis": {"title": "seconds from the first request due", "range": [0, columns.duration_s], **CROSSHAIR},
        **TOGETHER,
    }
    whole = sum(panel.weight for panel in panels) + PANEL_GAP * (len(panels) - 1)
    top = 1.0
    for place, panel in enumerate(panels, start=1):
        bottom = max(0.0, top - panel.weight / whole)
        suffix = "" if place == 1 else str(place)
        layout[f"yaxis{suffix}"] = {"title": panel.title, "domain": [bottom, top], "rangemode": "tozero", "nticks": 5, "anchor": "x"}
        data += [trace | {"yaxis": f"y{suffix}", "xaxis": "x", "showlegend": place == 1 or panel.legend} for trace in panel.traces]
        top = bottom - PANEL_GAP / whole
    layout["xaxis"]["anchor"] = f"y{len(panels)}" if len(panels) > 1 else "y"
    shapes = _steady_shapes(summary, columns)
    many = count > DOTS
    note = "Latencies stand at the time the request was due; tokens count when they arrive, responses when they end."
    note += f" Dots: {DOTS:,} of {count:,} requests, the fastest and slowest ones among them; lines: of all." if many else ""
    note += f" {SAMPLED}" if told else ""
    note += " Shaded: ramp-up and ramp-down, which the rates leave out." if shapes else ""
    alt = f"{', '.join(panel.title for panel in panels)} over the run"
    alt += "; the engine's own gauges below" if told else ""
    height = PANEL_HEIGHT * len(panels)
    return Plot(
        title="The run from start to end", data=data, layout=layout | {"shapes": shapes}, note=note, alt=alt, height=height, group=GROUP
    )


def waterfall_sections(columns: RunColumns) -> list[Section]:
    """Around the slowest first token, and around a usual one."""
    if not columns.answered.any():
        return []
    if len(columns.index) <= WATERFALL_REQUESTS:
        return [_waterfall("Every request", 0, columns)]
    name, what = ("ttft", "first token") if columns.streams else ("e2e", "response")
    latency, rows = columns.latencies[name][columns.answered], numpy.nonzero(columns.answered)[0]
    middle = numpy.argsort(latency, kind="stable")[len(latency) // 2]
    chosen = {f"Around the slowest {what}": numpy.argmax(latency), "Around a typical one": middle}
    return [_waterfall(title, int(rows[place]), columns) for title, place in chosen.items()]


def _steady_shapes(summary: dict[str, Any], columns: RunColumns) -> list[dict[str, Any]]:
    """The stretches that the rates leave out, shaded."""
    steady = summary.get("steady_state") or {}
    if not steady.get("cut"):
        return []
    window = steady["window"]
    start, end = ((window[name] - columns.origin_ns) / 1e9 for name in ("start_ns", "end_ns"))
    shade = {"type": "rect", "xref": "x", "yref": "paper", "y0": 0, "y1": 1, "line": {"width": 0}, "fillcolor": "@7/.12", "layer": "below"}
    return [shade | {"x0": 0, "x1": start}, shade | {"x0": end, "x1": columns.duration_s}]


def _gauge_traces(lines: Sequence[GaugeLine]) -> list[dict[str, Any]]:
    """Steps between the moments when the engine was asked."""
    traces = []
    for place, gauge in enumerate(lines):
        hover = f"%{{y:.4~g}}{' %' if gauge.is_share else ''} {gauge.label}"
        steps = thinned_steps(gauge.times, gauge.values)
        traces.append(
            line(gauge.label, *steps, hover, shape="hv", width=1.4, color=ENGINE_COLOURS.get(gauge.name, f"@{(place + 1) % 7 + 1}"))
        )
    return traces


def _latency_traces(due: Floats, values: Floats, columns: RunColumns) -> list[dict[str, Any]]:
    """Dots for single requests, lines for what those due in each stretch of time had."""
    present = ~numpy.isnan(values)
    due, values = due[present], values[present]
    if not len(values):
        return []
    binned = Binned(due, values, time_edges(0.0, columns.duration_s, len(values)))
    top = _top_of(values)
    chosen = kept_dots(values)
    outside = chosen[values[chosen] > top]
    chosen = chosen[values[chosen] <= top]
    hover = "%{y:.4~g} ms, due at %{x:.2f} s"
    traces = [dots("requests", due[chosen], values[chosen], hover, size=3.2, color="@0/.4")]
    filled = binned.count > 0
    for name, percent, colour in _bands(len(values)):
        shown = numpy.minimum(binned.percentile(percent)[filled], top)
        traces.append(line(name, binned.middle[filled], shown, f"{name} %{{y:.4~g}} ms", width=1.5, color=colour))
    if len(outside):
        above = dots(
            "above the axis", due[outside], numpy.full(len(outside), top), "%{customdata:.4~g} ms", size=7, color="@3", symbol="triangle-up"
        )
        traces.append(above | {"customdata": values[outside]})
    return traces


def _top_of(values: Floats) -> float:
    """Where the axis ends: beyond that are few, so far away that they would press the others flat."""
    high, highest = float(numpy.quantile(values, 0.99)), float(values.max())
    return CLIPPED_AT * high if highest > 2 * CLIPPED_AT * high else highest


def _bands(count: int) -> list[tuple[str, float, str]]:
    if count <= DOTS:
        return [("p50", 50.0, "@0"), ("slowest", 100.0, "@3")]
    return [("fastest", 0.0, "@2"), ("p50", 50.0, "@0"), ("p99", 99.0, "@1"), ("slowest", 100.0, "@3")]


def _rate_panels(columns: RunColumns) -> list[Panel]:
    edges = time_edges(0.0, columns.duration_s, max(80, min(int(columns.duration_s) * 8, 1_920)))
    width = float(edges[1] - edges[0])
    answers = numpy.histogram(columns.when("end")[columns.ok], edges)[0] / width
    middle = (edges[:-1] + edges[1:]) / 2
    requests = Panel("requests/s", 2, [line("requests/s", middle, answers, "%{y:.3~g} requests/s", width=1.6, color="@4", shape="hvh")])
    if not columns.streams:
        return [requests]
    tokens = tokens_in(columns, edges) / width
    traces = [line("output tokens/s", middle, tokens, "%{y:.4~g} tokens/s", width=1.6, color="@2", shape="hvh")]
    return [Panel("tokens/s", 2, traces), requests]


def tokens_in(columns: RunColumns, edges: Floats, *, first: bool = True) -> Floats:
    """Output tokens of answers that arrived in each stretch, as seen in the stream; with the `first` of each or without."""
    counts = numpy.histogram(columns.first_tokens_s if first else [], edges)[0].astype("f8")
    for stamps, _, weights in columns.token_blocks():
        counts += numpy.histogram(stamps, edges, weights=weights)[0]
    return counts


def _waterfall(title: str, place: int, columns: RunColumns) -> Plot:
    begin = max(0, min(place - WATERFALL_REQUESTS // 2, len(columns.index) - WATERFALL_REQUESTS))
    rows = numpy.arange(begin, min(begin + WATERFALL_REQUESTS, len(columns.index)))
    stages, _ = stages_of(columns)
    position = numpy.cumsum(columns.answered) - 1  # of a request among the answered ones
    answered = rows[columns.answered[rows]]
    due = columns.when("due")
    data = _bars(stages, answered, position, due, columns.index)
    lost = rows[~columns.answered[rows]]
    if len(lost):
        start = numpy.where(numpy.isnan(due[lost]), columns.when("end")[lost], due[lost])
        width = columns.when("end")[lost] - start
        data.append(_bar("not answered", columns.index[lost], start, numpy.maximum(width, 0), "@3"))
    layout = {
        "barmode": "overlay",
        "bargap": 0.25,
        "xaxis": {"title": "seconds from the first request due"},
        "yaxis": {"title": "request", "autorange": "reversed", "tickformat": "d"},
        "legend": {"traceorder": "normal"},
    }
    count = len(rows)
    note = f"{count} requests in the order they were due" + ("." if count == len(columns.index) else f", of {len(columns.index):,}.")
    return Plot(title=title, data=data, layout=layout, note=note, alt=note, height=max(260, 90 + 8 * count), group=WATERFALL_GROUP)


def _bars(stages: list[Stage], rows: Column, position: Column, due: Floats, index: Column) -> list[dict[str, Any]]:
    at = due[rows].copy()
    data = []
    for stage in stages:
        width = stage.values_ms[position[rows]] / 1e3
        if width.size and width.max() > 0:
            data.append(_bar(stage.name, index[rows], at, width, STAGES_SHOWN[stage.name][0]))
        at = at + width
    return data


def _bar(name: str, index: Column, start: Floats, width: Floats, colour: str) -> dict[str, Any]:
    hover = "request %{y}: " + name + " %{customdata:.4~g} ms"
    return bars(name, width, index, hover, color=colour, lying=True) | {"base": start, "customdata": width * 1e3}
