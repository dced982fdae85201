"""Drawing the page's plots in a PDF: axes, lines, dots, bars, bands and heat maps, from the same Plotly JSON.

Not everything that Plotly draws: what it can't draw it names (`undrawn`), so that a reader knows to look
at the page. Positions are millimetres.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import msgspec

from bytemlperf.report.page import plain_json
from bytemlperf.report.text import number
from bytemlperf.runs.kinds import Plot

PALETTE = ((47, 98, 168), (208, 122, 31), (43, 143, 104), (184, 66, 58), (125, 89, 173), (37, 144, 163), (139, 107, 66), (138, 146, 154))
INK, SOFT, GRID = (29, 33, 37), (91, 100, 109), (226, 227, 223)
DRAWN = ("scatter", "bar", "heatmap", None)
LEFT, BOTTOM, LEGEND = 17.0, 9.0, 5.0
TICKS = 5
LABEL_CHARS = 34


class Axis(msgspec.Struct):
    """One axis: its range in data, and where on paper it lies. `names` are the categories of one without numbers."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False
    names: list[str] = []
    title: str = ""

    def at(self, value: Any) -> float | None:
        """Where a value lies, None for what has no place."""
        if self.names:
            return self._share(self.names.index(str(value)) + 0.5) if str(value) in self.names else None
        if not isinstance(value, int | float) or not math.isfinite(value) or (self.log and value <= 0):
            return None
        return self._share(math.log10(value) if self.log else value)

    def _share(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return self.start + min(1.02, max(-0.02, share)) * (self.end - self.start)


class Box(NamedTuple):
    left: float
    top: float
    width: float
    height: float


def undrawn(plot: Plot) -> str:
    """Which kinds of trace can't be drawn here; empty when all can."""
    return ", ".join(sorted({str(trace.get("type")) for trace in plot.data if trace.get("type") not in DRAWN}))


def draw_plot(pdf: Any, plot: Plot, box: Box, clean: Any) -> None:
    """Draw it into a box; `clean` makes a text fit for the PDF's font."""
    layout: dict[str, Any] = plain_json(plot.layout)
    traces: list[dict[str, Any]] = [trace for trace in plain_json(plot.data) if trace.get("type") in DRAWN]
    names = [trace for trace in traces if trace.get("name") and trace.get("showlegend", True)]
    inner = _legend(pdf, names if len(names) > 1 else [], box, clean)
    panels = sorted({str(trace.get("yaxis") or "y") for trace in traces}, key=lambda name: int(name[1:] or 1))
    horizontal = any(trace.get("orientation") == "h" for trace in traces)
    left = LEFT + (22 if horizontal or _text_axis(traces, "y") else 0)
    area = Box(box.left + left, inner.top, box.width - left - 4, inner.height - BOTTOM)
    x_axis = _axis(traces, "x", layout.get("xaxis") or {}, area.left, area.left + area.width)
    for place, name in enumerate(panels):
        mine = [trace for trace in traces if str(trace.get("yaxis") or "y") == name]
        described = layout.get("yaxis" + name[1:]) or {}
        low, high = described.get("domain") or (0.0, 1.0)
        bottom, top = area.top + area.height * (1 - low), area.top + area.height * (1 - high)
        y_axis = _axis(mine, "y", described, bottom, top)
        if described.get("autorange") == "reversed":
            y_axis.start, y_axis.end = y_axis.end, y_axis.start
        _frame(pdf, x_axis, y_axis, clean, with_x=place == len(panels) - 1)
        _bars(
            pdf,
            [trace for trace in mine if trace.get("type") == "bar"],
            x_axis,
            y_axis,
            stacked=layout.get("barmode") in ("stack", "overlay"),
        )
        for trace in mine:
            _trace(pdf, trace, x_axis, y_axis, traces.index(trace))


def _legend(pdf: Any, traces: Sequence[dict[str, Any]], box: Box, clean: Any) -> Box:
    if not traces:
        return Box(box.left, box.top + 1, box.width, box.height - 1)
    at, top = box.left + LEFT, box.top
    pdf.set_font(size=7)
    for trace in traces:
        text = clean(str(trace["name"]))[:LABEL_CHARS]
        width = pdf.get_string_width(text) + 9
        if at + width > box.left + box.width:
            at, top = box.left + LEFT, top + LEGEND
        pdf.set_fill_color(*_colour(trace, traces.index(trace)))
        pdf.rect(at, top + 1.2, 3, 2, style="F")
        pdf.set_text_color(*INK)
        pdf.text(at + 4, top + 3.1, text)
        at += width
    used = top + LEGEND + 1 - box.top
    return Box(box.left, box.top + used, box.width, box.height - used)


def _text_axis(traces: Sequence[dict[str, Any]], name: str) -> bool:
    return any(isinstance(value, str) for trace in traces for value in (trace.get(name) or []) if value is not None)


def _axis(traces: Sequence[dict[str, Any]], name: str, described: dict[str, Any], start: float, end: float) -> Axis:
    title = described.get("title") or ""
    text = str(title.get("text", "") if isinstance(title, dict) else title)
    if _text_axis(traces, name):
        names = list(dict.fromkeys(str(value) for trace in traces for value in (trace.get(name) or []) if value is not None))
        return Axis(low=0, high=len(names), start=start, end=end, names=names, title=text)
    log = described.get("type") == "log"
    values = [value for trace in traces for value in _extent(trace, name) if isinstance(value, int | float) and (not log or value > 0)]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    if described.get("range") and not log:
        low, high = (float(each) for each in described["range"])
    elif log:
        low, high = math.log10(low), math.log10(high)
    elif described.get("rangemode") == "tozero" or any(_stands_on_zero(trace, name) for trace in traces):
        low, high = min(0.0, low), max(0.0, high)
    if high <= low:
        low, high = low - 0.5, high + 0.5
    return Axis(low=low, high=high, start=start, end=end, log=log, title=text)


def _stands_on_zero(trace: dict[str, Any], name: str) -> bool:
    """Whether the lengths of bars lie along this axis, from 0 on."""
    along = "x" if trace.get("orientation") == "h" else "y"
    return trace.get("type") == "bar" and name == along and not isinstance(trace.get("base"), list)


def _extent(trace: dict[str, Any], name: str) -> list[Any]:
    """What an axis must have room for: values, ends of bars and of error bars."""
    values = [value for value in (trace.get(name) or []) if value is not None]
    base = trace.get("base")
    along = "x" if trace.get("orientation") == "h" else "y"
    if isinstance(base, list) and name == along:
        values = [*base, *(start + length for start, length in zip(base, values, strict=False))]
    bars = trace.get(f"error_{name}")
    if isinstance(bars, dict) and bars.get("array"):
        down = bars.get("arrayminus") or bars["array"]
        values = [
            *(value + up for value, up in zip(values, bars["array"], strict=False)),
            *(value - less for value, less in zip(values, down, strict=False)),
        ]
    return values


def ticks(axis: Axis) -> list[tuple[float, str]]:
    """Round numbers inside the range, as (value in data, text)."""
    if axis.names:
        return [(0.0, name) for name in axis.names]
    if axis.log:
        powers = range(math.floor(axis.low), math.ceil(axis.high) + 1)
        steps = (1, 2, 5) if len(powers) <= 4 else (1,)
        marks = [10.0**power * step for power in powers for step in steps]
        return [(mark, number(mark)) for mark in marks if axis.low - 1e-9 <= math.log10(mark) <= axis.high + 1e-9]
    raw = (axis.high - axis.low) / TICKS
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= raw)
    first = math.ceil(axis.low / step - 1e-9)
    marks = [round(place * step, 12) for place in range(first, math.floor(axis.high / step + 1e-9) + 1)]
    return [(mark, f"{mark:,.10g}") for mark in marks]


def _frame(pdf: Any, x_axis: Axis, y_axis: Axis, clean: Any, *, with_x: bool) -> None:
    pdf.set_font(size=6.5)
    pdf.set_text_color(*SOFT)
    pdf.set_line_width(0.15)
    bottom = max(y_axis.start, y_axis.end)
    for value, text in ticks(y_axis):
        at = y_axis.at(text if y_axis.names else value)
        if at is None:
            continue
        pdf.set_draw_color(*GRID)
        pdf.line(x_axis.start, at, x_axis.end, at)
        shown = clean(text)[:LABEL_CHARS]
        pdf.text(x_axis.start - 1.5 - pdf.get_string_width(shown), at + 0.8, shown)
    pdf.set_draw_color(*SOFT)
    pdf.line(x_axis.start, bottom, x_axis.end, bottom)
    if y_axis.title:
        with pdf.rotation(90, x_axis.start - 12.5, (y_axis.start + y_axis.end) / 2):
            title = clean(y_axis.title)
            pdf.text(x_axis.start - 12.5 - pdf.get_string_width(title) / 2, (y_axis.start + y_axis.end) / 2, title)
    if with_x:
        _x_labels(pdf, x_axis, bottom, clean)


def _x_labels(pdf: Any, axis: Axis, bottom: float, clean: Any) -> None:
    free = axis.start - 100.0
    for value, text in ticks(axis):
        at = axis.at(text if axis.names else value)
        shown = clean(text)[:LABEL_CHARS]
        width = pdf.get_string_width(shown)
        if at is None or at - width / 2 < free:
            continue
        pdf.text(at - width / 2, bottom + 3, shown)
        free = at + width / 2 + 1
    title = clean(axis.title)
    pdf.text((axis.start + axis.end - pdf.get_string_width(title)) / 2, bottom + 6.4, title)


def _colour(trace: dict[str, Any], place: int) -> tuple[int, int, int]:
    for holder in (trace.get("line"), trace.get("marker")):
        asked = holder.get("color") if isinstance(holder, dict) else None
        if isinstance(asked, str) and asked[:1] == "@" and asked[1:2].isdigit():
            return PALETTE[int(asked[1]) % len(PALETTE)]
        if isinstance(asked, str) and asked[:1] == "#" and len(asked) == 7:
            return (int(asked[1:3], 16), int(asked[3:5], 16), int(asked[5:7], 16))
    return PALETTE[place % len(PALETTE)]


def _points(trace: dict[str, Any], x_axis: Axis, y_axis: Axis) -> list[tuple[float, float] | None]:
    xs, ys = trace.get("x") or [], trace.get("y") or []
    found: list[tuple[float, float] | None] = []
    for x, y in zip(xs, ys, strict=False):
        at = x_axis.at(x), y_axis.at(y)
        found.append(None if at[0] is None or at[1] is None else (at[0], at[1]))
    return found


def _trace(pdf: Any, trace: dict[str, Any], x_axis: Axis, y_axis: Axis, place: int) -> None:
    if trace.get("type") == "heatmap":
        _heatmap(pdf, trace, x_axis, y_axis)
    if trace.get("type") not in ("scatter", None):
        return
    colour = _colour(trace, place)
    points = _points(trace, x_axis, y_axis)
    mode = str(trace.get("mode") or "lines")
    pdf.set_draw_color(*colour)
    pdf.set_fill_color(*colour)
    if "lines" in mode:
        _polyline(pdf, points, trace.get("line") or {})
    if "markers" in mode:
        size = (trace.get("marker") or {}).get("size", 6)
        radius = (size if isinstance(size, int | float) else 6) * 0.09
        for point in points:
            if point is not None:
                pdf.ellipse(point[0] - radius, point[1] - radius, 2 * radius, 2 * radius, style="F")
    _error_bars(pdf, trace, x_axis, y_axis)


def _polyline(pdf: Any, points: Sequence[tuple[float, float] | None], line: dict[str, Any]) -> None:
    pdf.set_line_width(0.12 * float(line.get("width") or 2))
    if line.get("dash") in ("dot", "dash"):
        pdf.set_dash_pattern(dash=0.8, gap=0.8)
    shape = str(line.get("shape") or "linear")
    run: list[tuple[float, float]] = []
    for point in [*points, None]:
        if point is not None:
            if run and shape.startswith("hv"):
                run.append((point[0], run[-1][1]))
            run.append(point)
        elif run:
            if len(run) > 1:
                pdf.polyline(run)
            run = []
    pdf.set_dash_pattern()


def _error_bars(pdf: Any, trace: dict[str, Any], x_axis: Axis, y_axis: Axis) -> None:
    bars = trace.get("error_x")
    if not isinstance(bars, dict) or not bars.get("array"):
        return
    pdf.set_line_width(0.3)
    for x, y, up, down in zip(trace["x"], trace["y"], bars["array"], bars.get("arrayminus") or bars["array"], strict=False):
        ends = x_axis.at(x - (down or 0)), x_axis.at(x + (up or 0))
        at = y_axis.at(y)
        if at is not None and ends[0] is not None and ends[1] is not None:
            pdf.line(ends[0], at, ends[1], at)


def _bars(pdf: Any, traces: Sequence[dict[str, Any]], x_axis: Axis, y_axis: Axis, *, stacked: bool) -> None:
    """Bars of either direction, upon each other or side by side."""
    if not traces:
        return
    horizontal = traces[0].get("orientation") == "h"
    across, along = (y_axis, x_axis) if horizontal else (x_axis, y_axis)
    pitch = _pitch(traces, across, "y" if horizontal else "x")
    width = pitch * 0.75 / (1 if stacked else len(traces))
    tops: dict[Any, float] = {}
    for place, trace in enumerate(traces):
        pdf.set_fill_color(*_colour(trace, place))
        places, lengths = (trace.get("y"), trace.get("x")) if horizontal else (trace.get("x"), trace.get("y"))
        bases = trace.get("base")
        for number_of, (where, length) in enumerate(zip(places or [], lengths or [], strict=False)):
            if length is None:
                continue
            base = bases[number_of] if isinstance(bases, list) else tops.get(where, 0.0) if stacked else 0.0
            tops[where] = base + length
            middle, begin, end = across.at(where), along.at(base), along.at(base + length)
            if middle is None or begin is None or end is None:
                continue
            edge = middle - width / 2 if stacked else middle - pitch * 0.375 + place * width
            corner = (min(begin, end), edge, abs(end - begin), width) if horizontal else (edge, min(begin, end), width, abs(end - begin))
            pdf.rect(*corner, style="F")


def _pitch(traces: Sequence[dict[str, Any]], axis: Axis, name: str) -> float:
    """Paper between neighbouring bars."""
    if axis.names:
        return abs(axis.end - axis.start) / len(axis.names)
    places = sorted({axis.at(value) or 0.0 for trace in traces for value in (trace.get(name) or [])})
    gaps = [later - earlier for earlier, later in pairwise(places)]
    return min(gaps, default=abs(axis.end - axis.start) / 4)


def _heatmap(pdf: Any, trace: dict[str, Any], x_axis: Axis, y_axis: Axis) -> None:
    rows = trace.get("z") or []
    values = [value for row in rows for value in row if isinstance(value, int | float)]
    if not values:
        return
    low, high = min(values), max(values)
    height = abs(y_axis.end - y_axis.start) / len(rows)
    for place, row in enumerate(rows):
        width = abs(x_axis.end - x_axis.start) / len(row)
        for column, value in enumerate(row):
            if isinstance(value, int | float):
                share = (value - low) / (high - low) if high > low else 0.5
                pdf.set_fill_color(*(round(244 - (244 - end) * share) for end in PALETTE[0]))
                pdf.rect(x_axis.start + column * width, y_axis.start - (place + 1) * height, width, height, style="F")
