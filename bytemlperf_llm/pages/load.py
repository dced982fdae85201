"""Latency against lengths, errors, whether the load was the one asked for, and the client's own error."""

from __future__ import annotations

from typing import Any

import msgspec

from bytemlperf.lazy import numpy
from bytemlperf.report.blocks import axes, bars, line, table
from bytemlperf.report.text import cell, number
from bytemlperf.report.thin import Binned, distribution, time_edges
from bytemlperf.runs.kinds import Plot, Section, Table, Text
from bytemlperf.statistics.columns import ABSENT, Floats
from bytemlperf.units import NS_PER_S
from bytemlperf_llm.metrics.recount import Recount
from bytemlperf_llm.pages.columns import RunColumns
from bytemlperf_llm.pages.latency import ms
from bytemlperf_llm.pages.prefix import prefix_rows
from bytemlperf_llm.pages.reasoning import reasoning_rows
from bytemlperf_llm.pages.relation import against
from bytemlperf_llm.pages.speculation import speculation_rows
from bytemlperf_llm.pages.stalls import fluidity_rows, stall_rows

LENGTHS, ERRORS, SCHEDULE, CLIENT = "Latency against length", "Errors", "Load, target and actual", "Client measurement error"
FAULTS = (
    "Requests due from a fault's begin until requests are in time again: lost ones weren't answered, late ones took longer than their "
    "level (E2E target, else TTFT and TPOT targets, else twice the median), by the debt together. ×: how many times longer a step took."
)


def length_sections(columns: RunColumns) -> list[Section]:
    """TTFT (of vectors and scores: E2E) against prompt tokens, E2E and TPOT against output tokens; nothing where lengths don't vary."""
    rows = columns.answered
    if not rows.any():
        return []
    prompt, output = columns.raw("prompt")[rows].astype("f8"), columns.raw("output")[rows].astype("f8")
    known = columns.raw("prompt")[rows] != ABSENT
    title, name = ("TTFT", "ttft") if columns.streams else ("E2E", "e2e")
    plots = [
        against(f"{title} by prompt length", "prompt tokens", prompt[known], columns.latencies[name][rows][known], LENGTHS),
        against("E2E by output length", "output tokens", output, columns.latencies["e2e"][rows], LENGTHS),
        against("TPOT by output length", "output tokens", output, columns.latencies["tpot"][rows], LENGTHS),
    ]
    return [plot for plot in plots if plot is not None]


def error_sections(summary: dict[str, Any], columns: RunColumns) -> list[Section]:
    """Every outcome and every class of failure with the first things it said; over time where there are some."""
    outcomes = summary.get("outcomes", {})
    scheduled = summary.get("scheduled") or sum(outcomes.values())
    rows = [[name.replace("_", " "), count, f"{count / scheduled:.2%}" if scheduled else None] for name, count in outcomes.items()]
    note = "Every scheduled request is in exactly one row."
    sections: list[Section] = [
        Table(title="How requests ended", columns=["outcome", "requests", "share"], rows=rows, note=note, group=ERRORS)
    ]
    if summary.get("failures"):
        sections += [failure_table(summary), _failure_plot(columns)]
    return [*sections, *fault_sections(summary, columns.origin_ns)]


def failure_table(summary: dict[str, Any], most: int | None = None) -> Table:
    """Classes of failure, each with the first messages, at most so many."""
    rows = [[name, failure["count"], "\n".join(failure["details"][:most]) or None] for name, failure in summary["failures"].items()]
    return Table(title="Failures", columns=["class", "requests", "message"], rows=rows, group=ERRORS)


def _failure_plot(columns: RunColumns) -> Plot:
    edges = time_edges(0.0, columns.duration_s, 480)
    names = sorted({name for _, name in columns.failures})
    data = []
    for place, name in enumerate(names):
        counts = numpy.histogram([at for at, each in columns.failures if each == name], edges)[0]
        data.append(bars(name, (edges[:-1] + edges[1:]) / 2, counts, "%{y} at %{x:.1f} s", color=f"@{(place + 3) % 8}"))
    layout = axes("seconds from the first request due", "failures", barmode="stack", showlegend=True)
    layout["xaxis"]["range"] = [0, columns.duration_s]
    alt = f"{len(columns.failures):,} failures in {len(names)} classes"
    return Plot(title="Failures over time", data=data, layout=layout, alt=alt, height=220, group=ERRORS)


def fault_sections(summary: dict[str, Any], origin_ns: int) -> list[Section]:
    """When each fault began after `origin_ns`, how long it took until requests were in time again, and what it cost."""
    rows = [
        {
            "": fault["kind"] + ("" if fault["times"] is None else f", × {number(fault['times'])}"),
            "began, s": (fault["began_ns"] - origin_ns) / NS_PER_S,
            "lasted, s": _lasted(fault["began_ns"], fault["ended_ns"]),
            "until recovery, s": _lasted(fault["began_ns"], fault["recovered_ns"]),
            "requests": fault["requests"],
            "lost": fault["lost_requests"],
            "late": fault["late_requests"],
            "debt, s": fault["debt_ns"] / NS_PER_S,
        }
        for fault in summary.get("faults") or ()
    ]
    return table("Faults", rows, note=FAULTS, group=ERRORS, spare=("requests", "lasted, s"))


def _lasted(began_ns: int, until_ns: int | None) -> str | float:
    return "to the end" if until_ns is None else (until_ns - began_ns) / NS_PER_S


def result_table(summary: dict[str, Any]) -> Table:
    """Rates, goodput, how requests ended, tokens."""
    rows = [[name.replace("_", " "), f"{number(rate['value'])} {rate['unit']}"] for name, rate in summary.get("rates", {}).items()]
    if good := summary.get("goodput"):
        targets = [f"{name}≤{value:g}" for name, value in (good["slo_ms"] or {}).items() if value is not None]
        slo = f"{' '.join(targets)} ms" if targets else "of each class's own SLO"
        share = "–" if good["share"] is None else f"{good['share']:.1%}"
        rows.append([f"goodput ({slo})", f"{number(good['requests_per_s']['value'])} {good['requests_per_s']['unit']}, {share}"])
    outcomes = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in summary.get("outcomes", {}).items() if count)
    rows.append(["requests", f"{summary.get('scheduled') or 0:,}: {outcomes}"])
    tokens = summary.get("tokens") or {}
    if "input_throughput" in summary.get("rates", {}):
        rows += [["tokens in", cell(tokens["prompt_tokens"])]] if tokens.get("prompt_tokens") else []
    else:
        rows.append(["tokens in / out", f"{cell(tokens.get('prompt_tokens'))} / {cell(tokens.get('output_tokens'))}"])
    if tokens.get("images"):
        rows.append(["images in", f"{tokens['images']:,}, {number(tokens['image_bytes'] / 1e6)} MB"])
    if counts := tokens.get("recount"):
        usage = "–" if counts["usage_disagreement"] is None else cell(counts["usage_tokens"])
        counted = f"{usage} / {counts['recounted_tokens']:,} / {counts['chunks']:,}"
        if msgspec.convert(counts, Recount).textless:
            counted += f" ({counts['usage_tokens'] - counts['usage_recounted']:,} without text)"
        rows.append([f"usage / recount / chunks of {counts['answers']:,}", counted])
    rows += [*reasoning_rows(summary), *speculation_rows(summary), *prefix_rows(summary), *stall_rows(summary), *fluidity_rows(summary)]
    return Table(title="", columns=["", ""], rows=rows, group="Throughput and requests")


def schedule_table(summary: dict[str, Any]) -> Table:
    """Rates asked and offered, arrivals as tested, how late and how busy the client was."""
    load = summary.get("load", {})
    rows: list[list[str | float | int | None]] = []
    rates = [load.get(name) for name in ("requested_rate", "planned_rate", "offered_rate")]
    if rates[0] is not None:
        rows.append(["rate target / planned / actual", f"{' / '.join(map(number, rates))} req/s"])
    test = load.get("arrival_test")
    if load.get("count_dispersion") is not None and load.get("expected_dispersion") is not None:
        rows.append(["dispersion expected / observed", f"{load['expected_dispersion']:.2f} / {load['count_dispersion']:.2f}"])
    if test and test.get("p_value") is not None:
        rows.append(["arrivals, Kolmogorov-Smirnov", f"D {test['distance']:.3f}, p {test['p_value']:.2g}"])
    elif test:
        rows.append(["arrival gaps off target", f"{test['distance']:.1%}"])
    if late := load.get("lateness"):
        rows.append(["client delay p50 / p99 / max", " / ".join(ms(late[name]) for name in ("p50", "p99", "max")) + " ms"])
    if load.get("capped_requests"):
        rows.append(["requests that waited for a slot", load["capped_requests"]])
    if load.get("loop_utilisation") is not None:
        rows.append(["client loop busy", f"{load['loop_utilisation']:.1%}"])
    return Table(title="Schedule fidelity", columns=["", ""], rows=rows, note=steady_note(summary), group=SCHEDULE)


def steady_note(summary: dict[str, Any]) -> str:
    """What was cut from the rates."""
    return str((summary.get("steady_state") or {}).get("note", ""))


def schedule_sections(summary: dict[str, Any], columns: RunColumns) -> list[Section]:
    """Whether the load was the one asked for."""
    return [schedule_table(summary), *_arrival_plots(columns)]


def _arrival_plots(columns: RunColumns) -> list[Section]:
    sent, planned = columns.when("sent"), columns.when("planned")
    sections: list[Section] = []
    gaps = numpy.diff(numpy.sort(sent[~numpy.isnan(sent)])) * 1e3
    asked = numpy.diff(numpy.sort(planned[~numpy.isnan(planned)])) * 1e3
    if len(gaps) >= 30 and len(asked) >= 30:
        sections.append(_gap_plot(gaps, asked))
    both = ~numpy.isnan(sent) & ~numpy.isnan(planned)
    if both.sum() >= 2:
        sections.append(_lateness_plot(sent[both], planned[both], columns))
    return sections


def _gap_plot(gaps: Floats, asked: Floats) -> Plot:
    data = []
    for name, values, colour, dash in (("planned", asked, "@7", "solid"), ("sent", gaps, "@0", "dot")):
        x, share = distribution(values)
        hover = "%{y:.1f} % within %{x:.4~g} ms"
        data.append(line(name, x, share * 100, hover, width=2, color=colour, dash=dash))
    layout = axes("gap to the next request, ms", "share, %")
    layout["xaxis"]["rangemode"], layout["yaxis"]["range"] = "tozero", [0, 101]
    planned, sent = (number(float(numpy.median(values))) for values in (asked, gaps))
    alt = f"median gap planned {planned} ms, sent {sent} ms"
    return Plot(title="Gaps between requests", data=data, layout=layout, alt=alt, half=True, group=SCHEDULE)


def _lateness_plot(sent: Floats, planned: Floats, columns: RunColumns) -> Plot:
    late = (sent - planned) * 1e3
    binned = Binned(planned, late, time_edges(0.0, columns.duration_s, len(late)))
    data = [
        line(name, binned.middle, binned.percentile(percent), f"{name} %{{y:.3~g}} ms", width=1.5, color=colour)
        for name, percent, colour in (("median", 50.0, "@0"), ("latest", 100.0, "@3"))
    ]
    layout = axes("seconds from the first request due", "send delay, ms")
    alt = f"sent at most {number(float(late.max()))} ms late"
    note = "Includes the wait for a free slot under a cap."
    return Plot(title="Send delay", data=data, layout=layout, alt=alt, half=True, group=SCHEDULE, note=note)


def client_sections(summary: dict[str, Any]) -> list[Section]:
    """How far this machine's client can be believed at this load; nothing where there is no stream, which is what it is calibrated by."""
    error = summary.get("client_error") or {}
    if "input_throughput" in summary.get("rates", {}):
        return []
    if error.get("ttft_p50_ms") is None:
        note = str(error.get("note") or "not calibrated: run `bmp-llm doctor --calibrate`")
        return [Text(body=f"Unknown: {note}", style="note", group=CLIENT)]
    names = (("TTFT", "ttft"), ("TPOT", "tpot"), ("E2E", "e2e"))
    rows = [[name, f"± {number(error[f'{key}_p50_ms'])}", f"± {number(error[f'{key}_p99_ms'])}"] for name, key in names]
    calibrated, had = (f"{number(error[f'{at}chunks_per_s'])} chunks/s and {number(error[f'{at}streams'])} streams" for at in ("at_", ""))
    note = f"Calibrated on this machine at {calibrated} a worker; the run had {had}. {error['note']}"
    return [Table(title="", columns=["", "50 % within, ms", "99 % within, ms"], rows=rows, note=note, group=CLIENT)]
