"""Latency: the table with intervals, distribution functions and histograms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bytemlperf.lazy import numpy
from bytemlperf.report.blocks import bounded_cell, line, metric_cells
from bytemlperf.report.text import number
from bytemlperf.report.thin import distribution, histogram_edges, limits_between
from bytemlperf.runs.kinds import Plot, Section, Table
from bytemlperf.units import NS_PER_MS
from bytemlperf_llm.pages.columns import RunColumns

GROUP = "Latency"
TITLES = {
    "ttft": "TTFT",
    "service_ttft": "TTFT from sent",
    "time_to_first_reasoning_token": "first token of reasoning",
    "time_to_first_answer_token": "first token of the answer",
    "tpot": "TPOT",
    "itl": "ITL",
    "handoff": "first to second token",
    "inter_chunk_latency": "chunk gaps",
    "e2e": "E2E",
    "service_e2e": "E2E from sent",
    "ntpot": "E2E per token",
    "max_stall": "longest stall",
    "schedule_lateness": "send delay",
    "client_lateness": "client's own delay",
    "session_time": "session",
}
FIRST = (
    *("ttft", "time_to_first_reasoning_token", "time_to_first_answer_token", "handoff", "service_ttft"),
    *("tpot", "itl", "e2e", "service_e2e", "max_stall", "schedule_lateness"),
)
ANSWERS = ("ttft", "time_to_first_answer_token", "handoff", "tpot", "itl", "e2e")
DETAILS = tuple(name for name in FIRST if name not in ANSWERS)
SPARE = ("p95", "max", "p99.9", "p90", "p99")
CURVES = (
    ("ttft", "Time to first token", ("ttft", "service_ttft", "time_to_first_answer_token")),
    ("tpot", "Time per output token", ()),
    ("e2e", "End to end", ("e2e", "service_e2e")),
)
WITHIN = "%{y:.1f} % within %{x:.4~g} ms"
"""What a point of a distribution function says."""


def latency_sections(summary: dict[str, Any], columns: RunColumns) -> list[Section]:
    """The table first; nothing but it where nothing was answered."""
    sections: list[Section] = [latency_table(summary)]
    if not columns.answered.any():
        return sections
    for name, title, others in CURVES:
        if not len(columns.present(name)):
            continue
        curve = (
            _per_token_curve(columns)
            if name == "tpot"
            else _curves(title, [(TITLES[each], columns.present(each)) for each in others if len(columns.present(each))])
        )
        if curve is not None:
            sections += [curve, _histogram(f"{title}: histogram", columns.present(name))]
    return [*sections, _formulas(summary)]


def latency_table(summary: dict[str, Any], names: Sequence[str] = FIRST) -> Table:
    """Percentiles in ms with their 95 % intervals, then those with failures as infinite where there are any."""
    metrics = summary.get("metrics", {})
    shown = [name for name in names if name in metrics]
    percents = list(metrics[shown[0]]["percentiles"]) if shown else []
    rows: list[list[str | float | int | None]] = []
    outcomes = summary.get("outcomes", {})
    failures = [name for name in ("failed", "cancelled", "in_flight") if outcomes.get(name)]
    for name in shown:
        metric = metrics[name]
        rows.append([TITLES[name], *metric_cells(metric, percents, NS_PER_MS), ms(metric["max"]), metric["count"]])
        with_failures = metric.get("percentiles_with_failures")
        if failures and with_failures and name in ("ttft", "e2e"):
            infinite = [bounded_cell(with_failures[percent], None, NS_PER_MS) for percent in percents]
            rows.append([f"{TITLES[name]}, failures as ∞", None, *infinite, "∞", metric["count"] + sum(map(outcomes.get, failures))])
    note = (
        "Latency runs from when a request was due (closed loop: sent); 'from sent' leaves out the wait in the client. "
        "Below each figure its 95 % interval. insufficient: too small a sample for that percentile."
    )
    columns = ["", "mean", *(f"p{percent}" for percent in percents), "max", "n"]
    return Table(title="Milliseconds", columns=columns, rows=rows, note=note, group=GROUP, spare=SPARE)


def ms(value_ns: Any) -> str:
    """Nanoseconds as milliseconds."""
    return bounded_cell(value_ns, None, NS_PER_MS)


def _share_axis() -> dict[str, Any]:
    return {"title": "share of requests, %", "range": [0, 101], "ticksuffix": " %"}


def _milliseconds(values: list[Any], title: str = "ms") -> dict[str, Any]:
    """An axis by factors where all but a two-hundredth of the values reach over more than one and a half powers of ten."""
    low = min((float(numpy.quantile(part, 0.005)) for part in values if len(part)), default=1.0)
    high = max((float(part.max()) for part in values if len(part)), default=1.0)
    return {"title": title, "type": "log", "dtick": "D2"} if low > 0 and high / low > 30 else {"title": title, "rangemode": "tozero"}


def _curves(title: str, series: list[tuple[str, Any]]) -> Plot:
    data, told = [], []
    for place, (name, values) in enumerate(series):
        x, share = distribution(values)
        dash = "solid" if place == 0 else "dot"
        data.append(line(name, x, share * 100, WITHIN, shape="hv", width=2, color=f"@{place}", dash=dash))
        told.append(f"{name} from {number(float(values.min()))} to {number(float(values.max()))} ms")
    layout = {"xaxis": _milliseconds([values for _, values in series]), "yaxis": _share_axis()}
    note = "Cumulative share of successful requests. Minimum, maximum and the tail are exact."
    return Plot(title=title, data=data, layout=layout, note=note, alt="; ".join(told), half=True, group=GROUP)


def _per_token_curve(columns: RunColumns) -> Plot | None:
    """TPOT of requests, and ITL of tokens counted at chosen limits: all tokens count, none is drawn."""
    tpot = columns.present("tpot")
    if not len(tpot):
        return None
    gaps_low, gaps_high, total = numpy.inf, 0.0, len(columns.acc.itl)
    for _, gaps, _ in columns.token_blocks():
        gaps_low, gaps_high = min(gaps_low, float(gaps.min())), max(gaps_high, float(gaps.max()))
    limits = limits_between(max(float(gaps_low), 1e-3), max(gaps_high, 1e-3))
    counts = numpy.zeros(len(limits))
    for _, gaps, weights in columns.token_blocks():
        counts += numpy.cumsum(numpy.histogram(gaps, [-numpy.inf, *numpy.nextafter(limits, numpy.inf)], weights=weights)[0])
    tpot_x, tpot_share = distribution(tpot)
    data = [
        line("TPOT, of requests", tpot_x, tpot_share * 100, WITHIN, shape="hv", width=2, color="@0"),
        line("ITL, of tokens", limits, counts / total * 100, WITHIN, width=2, color="@1", dash="dot"),
    ]
    layout = {"xaxis": _milliseconds([tpot, limits[counts > 0.005 * total]]), "yaxis": _share_axis() | {"title": "share, %"}}
    note = f"ITL: {total:,} gaps counted at {len(limits)} limits."
    ends = [(name, float(part.min()), float(part.max())) for name, part in (("TPOT", tpot), ("ITL", limits))]
    alt = ", ".join(f"{name} from {number(low)} to {number(high)} ms" for name, low, high in ends)
    return Plot(title="Time per output token", data=data, layout=layout, note=note, alt=alt, half=True, group=GROUP)


def _histogram(title: str, values: Any) -> Plot:
    edges, growing = histogram_edges(values)
    counts = numpy.histogram(values, edges)[0]
    # drawn as the outline of its bins: bars can't be of equal width on an axis by factors
    x: Any = numpy.repeat(edges, 2)
    y = numpy.concatenate([[0], numpy.repeat(counts, 2), [0]])
    hover = "%{y} requests at %{x:.4~g} ms"
    data = [line(title, x, y, hover, width=1.2, color="@0") | {"fill": "tozeroy", "fillcolor": "@0/.25"}]
    axis: dict[str, Any] = {"title": "ms", "type": "log", "dtick": "D2"} if growing else {"title": "ms"}
    layout = {"xaxis": axis, "yaxis": {"title": "requests", "rangemode": "tozero"}, "showlegend": False}
    alt = f"{title}: {len(values):,} requests, from {number(float(values.min()))} to {number(float(values.max()))} ms"
    return Plot(title=title, data=data, layout=layout, alt=alt, half=True, group=GROUP)


def _formulas(summary: dict[str, Any]) -> Table:
    metrics = summary.get("metrics", {})
    rows = [[TITLES.get(name, name), metric["formula"], metric["count"], metric["effective_count"]] for name, metric in metrics.items()]
    note = "Effective n: independent values that give the mean the same precision; smaller under autocorrelation or clustering. " + str(
        summary.get("percentile_definition", "")
    )
    return Table(title="Formulas", columns=["metric", "formula", "n", "effective n"], rows=rows, note=note, folded=True, group=GROUP)
