"""The page's part of a micro run: rooflines, latency over shapes, bandwidth over size, every row, the machine's condition."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from bytemlperf.hardware.peaks import MEASURED, SHEET, Peaks, Roof, roofs_of
from bytemlperf.report.blocks import axes, bounded_line, dots, line
from bytemlperf.report.text import counted, number
from bytemlperf.runs.kinds import Plot, Section, Table, Text, few
from bytemlperf.runs.records import grouped
from micro.results.table import LEGEND, ROWS, operator_tables
from micro.sweep.row import Row, Status

ROOFLINES, SHAPES, LINKS = "Rooflines", "Latency over shapes", "Bandwidth over size"
MARKS = ("circle", "square", "diamond", "cross", "triangle-up", "star", "x", "pentagon", "hexagon", "triangle-down")
NOT_ON_PAGE = ("p10", "p90", "FLOP/B", "alg GB/s", "MFU %", "MBU %", "by", "threads")
"""Columns that would make a page's table too wide; all figures are in the record."""

MAX_HEAT_MAPS = 24
MAX_HEAT_SIDE = 40


def sections(run: dict[str, Any], rows: Sequence[Row]) -> list[Section]:
    """In the order in which a reader asks: how close to the peak, which shapes, which links, and all of it."""
    ok = [row for row in rows if row.status == "ok"]
    return [*_rooflines(run, ok), *_heat_maps(ok), *_link_curves(run, ok), *_tables(run, rows)]


# -- rooflines ------------------------------------------------------------------------


def _rooflines(run: dict[str, Any], ok: Sequence[Row]) -> list[Section]:
    roofs = roofs_of(run)
    placed = [row for row in ok if row.tflops and row.intensity and row.alg_bw_gbs is None]
    by_kind = grouped(placed, lambda row: (row.device, row.flops_dtype))
    return [_roofline(device, dtype, group, roofs) for (device, dtype), group in sorted(by_kind.items())]


def _roofline(device: str, dtype: str, rows: Sequence[Row], roofs: dict[str, Roof]) -> Plot:
    intensities = [row.intensity or 0.0 for row in rows]
    ridges = [ridge for roof in roofs.values() if (ridge := roof.ridge(dtype))]
    low, high = min([*intensities, *ridges]) / 3, max([*intensities, *ridges]) * 3
    data: list[dict[str, Any]] = [
        trace for order, (name, roof) in enumerate(roofs.items()) for trace in _roof_lines(name, roof, dtype, low, high, order)
    ]
    for turn, (op, group) in enumerate(grouped(rows, lambda row: row.op).items()):
        symbols = [MARKS[turn % len(MARKS)] + ("" if row.from_memory else "-open") for row in group]
        x, y = ([getattr(row, name) for row in group] for name in ("intensity", "tflops"))
        marks = dots(op, x, y, "%{text}", symbol=symbols, size=9, color=f"@{(turn + len(roofs)) % 8}")
        data.append(marks | {"text": [_hover(row) for row in group]})
    layout = axes("FLOPs per byte", "TFLOP/s at the median", hovermode="closest")
    layout["xaxis"] |= {"type": "log", "range": [math.log10(low), math.log10(high)]}
    layout["yaxis"]["type"] = "log"
    under = ", ".join(roof.source or name for name, roof in roofs.items()) or "no known peak"
    slope = "The slope is STREAM's triad where it was measured." if MEASURED in roofs else "No peaks were measured (--peaks off)."
    return Plot(
        title=f"{dtype} on {device}",
        group=ROOFLINES,
        data=data,
        layout=layout,
        height=420,
        alt=f"FLOP rate over arithmetic intensity of {len(rows)} cases in {dtype} on {device}, under the roofs of {under}",
        note=f"Solid marks: buffers from memory; open ones: from a cache, which may lie above the memory's slope. {slope}",
    )


def _roof_lines(name: str, roof: Roof, dtype: str, low: float, high: float, order: int) -> list[dict[str, Any]]:
    ridge = roof.ridge(dtype)
    points = sorted({low, high, *([ridge] if ridge and low < ridge < high else [])})
    values = [roof.attainable_flops_per_s(dtype, point) for point in points]
    if None in values:
        return []
    title = "measured peaks" if name == MEASURED else f"data sheet: {roof.source}" if name == SHEET else name
    heights = [value / 1e12 for value in values if value is not None]
    curve = line(title, points, heights, width=2, dash="solid" if name == MEASURED else "dash", color=f"@{order}")
    return [curve | {"hoverinfo": "skip"}]


def _hover(row: Row) -> str:
    share = (row.efficiency or {}).get(f"roof_{MEASURED}")
    tail = f"<br>{share:.0%} of what its intensity allows" if share is not None else ""
    return f"{row.case} [{row.provider}]<br>{row.latency.p50:,.4g} µs, {row.buffers}{tail}"


# -- latency over shapes --------------------------------------------------------------


def _heat_maps(ok: Sequence[Row]) -> list[Section]:
    """One an operator, provider and set of other arguments that has a grid of at least two by two."""
    plots: list[Section] = []
    for (op, provider), rows in grouped(ok, lambda row: (row.op, row.provider)).items():
        named = _axes(rows)
        if named is None:
            continue
        for rest, group in _by_rest(rows, named).items():
            plot = _heat_map(op, provider, rest, group, named)
            if plot is not None:
                plots.append(plot)
    if len(plots) > MAX_HEAT_MAPS:
        left = len(plots) - MAX_HEAT_MAPS
        note = Text(body=f"{left} more combinations of arguments have such a map; the table has their rows.", style="note", group=SHAPES)
        plots = [*plots[:MAX_HEAT_MAPS], note]
    return plots


def _axes(rows: Sequence[Row]) -> tuple[str, str] | None:
    """The two integer arguments with the most values, the larger number of values across."""
    counts: dict[str, int] = {}
    for name in dict.fromkeys(name for row in rows for name in row.args):
        values = {row.args.get(name) for row in rows if isinstance(row.args.get(name), int | float)}
        if len(values) > 1:
            counts[name] = len(values)
    ranked = sorted(counts, key=lambda name: -counts[name])
    return (ranked[0], ranked[1]) if len(ranked) > 1 else None


def _bound_to(rows: Sequence[Row], axis: str) -> list[str]:
    """Arguments that vary, but with the axis alone: the N of a zipped "K.N"."""
    names = [name for name in dict.fromkeys(name for row in rows for name in row.args) if name != axis]
    varying = [name for name in names if len({repr(row.args.get(name)) for row in rows}) > 1]
    values = len({row.args.get(axis) for row in rows})
    return [name for name in varying if len({(row.args.get(axis), repr(row.args.get(name))) for row in rows}) == values]


def _by_rest(rows: Sequence[Row], named: tuple[str, str]) -> dict[str, list[Row]]:
    named_axes = {*named, *(name for axis in named for name in _bound_to(rows, axis))}
    return grouped(rows, lambda row: " ".join(f"{name}={value}" for name, value in row.args.items() if name not in named_axes))


def _heat_map(op: str, provider: str, rest: str, rows: Sequence[Row], named: tuple[str, str]) -> Plot | None:
    across, up = (sorted({row.args[name] for row in rows}) for name in named)
    if len(across) < 2 or len(up) < 2 or max(len(across), len(up)) > MAX_HEAT_SIDE:
        return None
    median_us = {(row.args[named[0]], row.args[named[1]]): row.latency.p50 for row in rows}
    grid = [[median_us.get((x, y)) for x in across] for y in up]
    cells = {
        "type": "heatmap",
        "x": [str(value) for value in across],
        "y": [str(value) for value in up],
        "z": [[None if value is None else math.log10(value) for value in row] for row in grid],
        "text": [["" if value is None else number(value) for value in row] for row in grid],
        "texttemplate": "%{text}",
        "hovertemplate": f"{named[0]} %{{x}}, {named[1]} %{{y}}: %{{text}} µs<extra></extra>",
        "showscale": False,
        "xgap": 2,  # without gaps plotly sets an inline style, which the page's policy forbids
        "ygap": 2,
    }
    titles = [" and ".join([axis, *_bound_to(rows, axis)]) for axis in named]
    return Plot(
        title=f"{op} [{provider}] {rest}".strip(),
        group=SHAPES,
        half=True,
        data=[cells],
        layout={f"{axis}axis": {"title": {"text": title}, "type": "category"} for axis, title in zip("xy", titles, strict=True)},
        height=90 + 44 * len(up) if len(up) < 8 else 420,
        alt=f"median latency of {op} over {named[0]} and {named[1]}",
        note="Median latency in µs; the colour is its logarithm.",
    )


# -- links ------------------------------------------------------------------------


def _link_curves(run: dict[str, Any], ok: Sequence[Row]) -> list[Section]:
    by_op = grouped((row for row in ok if row.bus_bw_gbs is not None), lambda row: row.op)
    peak = msgspec.convert(run["peaks"], Peaks).link if run.get("peaks") else None
    return [_link_plot(op, grouped(rows, _curve_of), peak.per_s / 1e9 if peak else None) for op, rows in by_op.items()]


def _curve_of(row: Row) -> str:
    args = row.args
    return f"{args.get('world_size', '')} ranks {args.get('dtype')} {args.get('backend')} {row.provider}"


def _link_plot(op: str, curves: dict[str, list[Row]], peak_gbs: float | None) -> Plot:
    data: list[dict[str, Any]] = []
    sizes: list[float] = []
    for order, (name, rows) in enumerate(curves.items()):
        ordered = sorted(rows, key=_link_bytes)
        sizes += map(_link_bytes, ordered)
        rates = [row.bus_bw_gbs or 0.0 for row in ordered]
        bounds = [row.latency.rate_bounds(row.bus_bw_gbs or 0.0) for row in ordered]
        data.append(bounded_line(name, sizes[-len(rows) :], rates, bounds, "%{x:.4s}B: %{y:.3g} GB/s", color=f"@{order % 8}"))
    if peak_gbs is not None and len(set(sizes)) > 1:
        data.append(line("link's measured peak", [min(sizes), max(sizes)], [peak_gbs] * 2, dash="dash", width=1))
    layout = axes("bytes of the full tensor", "bus bandwidth, GB/s")
    layout["xaxis"]["type"] = "log"
    alt = f"bus bandwidth of {op} over the tensor's size, {len(curves)} curves"
    note = "Of the slowest rank, at the median, with its 95 % interval. Bus factors: docs/collectives.md."
    return Plot(title=op, group=LINKS, half=len(curves) > 0, data=data, layout=layout, alt=alt, note=note)


def _link_bytes(row: Row) -> float:
    return float(round((row.alg_bw_gbs or 0.0) * row.latency.p50 * 1e3))


# -- tables -----------------------------------------------------------------------


def _tables(run: dict[str, Any], rows: Sequence[Row]) -> list[Section]:
    sentences = conditions(run, [row for row in rows if row.status == "ok"])
    notes = [Text(body=line, style="note", group=ROWS) for line in (*sentences, LEGEND)]
    return [*notes, *operator_tables(rows, NOT_ON_PAGE)]


def terminal_sections(summary: dict[str, Any], rows: Sequence[Row]) -> list[Section]:
    """Of several operators a line each; then a table an operator, without what was not tried, which is a sentence a reason; the machine's
    condition, and how many cases ended how."""
    counts = ", ".join(f"{count} {name}" for name, count in summary["counts"].items() if count)
    tried = [row for row in rows if row.status not in UNTRIED] or rows
    several = len({row.op for row in rows}) >= SEVERAL_OPERATORS
    sentences = untried_sentences(rows) if tried is not rows else []
    notes = [Text(body=line, style="note") for line in (*sentences, *summary["conditions"])]
    return [*([overview(rows)] if several else []), *operator_tables(tried), *notes, Text(body=counts)]


SEVERAL_OPERATORS = 4
UNTRIED: tuple[Status, ...] = ("skipped", "refused")


def overview(rows: Sequence[Row]) -> Table:
    """A row an operator: cases measured, the shortest and the longest median, the highest share of the roof."""
    lines = [_overview_line(op, group) for op, group in grouped(rows, lambda row: row.op).items()]
    return Table(title="Operators", columns=("operator", "measured", "p50 µs, least", "most", "best % of roof"), rows=lines)


def _overview_line(op: str, rows: Sequence[Row]) -> list[str | float | None]:
    medians = sorted(row.latency_us.p50 for row in rows if row.status == "ok" and row.latency_us)
    roofs = [share for row in rows if row.status == "ok" and (share := (row.efficiency or {}).get(f"roof_{MEASURED}")) is not None]
    least, most = (medians[0], medians[-1]) if medians else (None, None)
    return [op, f"{len(medians)} of {len(rows)}", least, most, 100 * max(roofs) if roofs else None]


def untried_sentences(rows: Sequence[Row]) -> list[str]:
    """How many cases were skipped or refused, by reason."""
    reasons = grouped([row for row in rows if row.status in UNTRIED], lambda row: (row.status, row.reason))
    return few(f"{counted(len(group), 'case')} {status}: {reason}" for (status, reason), group in reasons.items())


BUSY_CPUS = 0.1
BUSY_PEAK_CPUS = 0.5
FRESH = "measure them again on a quiet machine with --peaks fresh"


def conditions(run: Mapping[str, Any], ok: Sequence[Row]) -> list[str]:
    """Under what conditions the rows were measured, in sentences."""
    sentences = []
    settings = run["config"]["settings"]
    if settings.get("device") == "cpu":
        threads = settings.get("threads")
        sentences.append(f"threads: {threads or 'the library decides'} ({settings.get('threads_from') or 'as asked'})")
    allocations = {hello["allocation"] for hello in ((run.get("end") or {}).get("runners") or {}).values() if hello.get("allocation")}
    sentences += [f"memory of results: {allocation}" for allocation in sorted(allocations)]
    if run.get("peaks"):
        peaks = msgspec.convert(run["peaks"], Peaks)
        sentences.append("measured peaks: " + (peaks_sentence(peaks) or "none"))
        busy = [peak for peak in peaks.every if (peak.others_cpus or 0.0) > BUSY_PEAK_CPUS]
        if busy:
            sentences.append(
                f"{len(busy)} of {len(peaks.every)} peaks were measured while other processes were busy, and may be low: {FRESH}"
            )
        sentences += [f"no measured peak of {what}: {reason}" for what, reason in peaks.missing.items()]
    if run.get("sheet"):
        sentences.append(f"data sheet: {run['sheet'].get('source')}")
    timed = [row.timed for row in ok if row.timed is not None]
    if timed:
        sampling_s, warm_up_s = sum(part.sampling_s for part in timed), sum(part.warm_up_s for part in timed)
        total_s = sum(row.duration_s or 0.0 for row in ok)
        sentences.append(f"{sampling_s:.1f} s of sampling and {warm_up_s:.1f} s of warm-up in {total_s:.1f} s of measured cases")
    others_cpus = [used for row in ok if row.conditions and (used := row.conditions.others_cpus or 0.0) > BUSY_CPUS]
    if others_cpus:
        sentences.append(
            f"other processes were busy in {len(others_cpus)} of {len(ok)} measured cases, with up to {max(others_cpus):.1f} CPUs"
        )
    return sentences


def peaks_sentence(peaks: Peaks) -> str:
    """ "float32 0.35 TFLOP/s, stream_triad 12 GB/s, link 4.6 GB/s; of 2026-11-24 12:00"."""
    parts = [f"{dtype} {peak.per_s / 1e12:.3g} TFLOP/s" for dtype, peak in sorted(peaks.flops.items())]
    parts += [f"{name} {peak.per_s / 1e9:.3g} GB/s" for name, peak in peaks.memory.items()]
    if peaks.link:
        parts.append(f"link {peaks.link.per_s / 1e9:.3g} GB/s")
    days = sorted({peak.measured_at[:16].replace("T", " ") for peak in peaks.every})
    return ", ".join(parts) + (f"; of {days[0]}" + (f" to {days[-1]}" if len(days) > 1 else "") if days else "")
