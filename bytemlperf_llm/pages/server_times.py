"""What the server says of each request, on the page and, with --verbose, in the terminal."""

from __future__ import annotations

from typing import Any

from bytemlperf.report.text import counted, number
from bytemlperf.runs.kinds import Table, Text
from bytemlperf.units import NS_PER_MS
from bytemlperf_llm.pages.server import GROUP, LABELS, ORDER

NOTE = "What the server says of each answered request, by its own clock: exact percentiles. Of E2E: share of the time from sent."
ASIDES = {
    "refused": "{:,} metrics of Server-Timing were no duration.",
    "impossible": "{:,} durations were longer than their request, and are left out.",
    "unnamed": "{:,} durations had a name beyond the first sixteen.",
    "own_ids": "{:,} responses had an id of the server's own: server.request_id in their records.",
}


def server_time_sections(summary: dict[str, Any]) -> list[Table | Text]:
    """A row for each duration, and what of them was left out; nothing where the server says nothing."""
    times, spans = summary.get("server_times"), summary.get("spans")
    clocks = [Text(body=_clocks(spans), detail=True, group=GROUP)] if spans and spans["requests"] else []
    clocks += [Text(body=_queue(summary), detail=True, group=GROUP)] if summary.get("queue_estimate") else []
    if not times:
        return [*clocks]
    rows = [_row(name, times) for name in sorted(times["durations"], key=_place)]
    asides = " ".join(text.format(times[key]) for key, text in ASIDES.items() if times[key])
    if not rows:
        return [Text(body=asides, detail=True, group=GROUP), *clocks]
    columns, note = ["ms", "count", "mean", "p50", "p99", "of E2E"], f"{NOTE} {asides}".strip()
    return [Table(title="Server, per request", columns=columns, rows=rows, note=note, group=GROUP, spare=("count",), detail=True), *clocks]


def _clocks(spans: dict[str, Any]) -> str:
    """How many requests have spans, and how well the server's clock is known."""
    joined = f"spans: {spans['requests']:,} of {spans['answered']:,} answered requests have the server's"
    unmatched = f", {spans['unmatched']:,} of its {spans['received']:,} spans are of no request" if spans["unmatched"] else ""
    if spans["applied_ns"] is None or spans["offset_ns"] is None:
        return f"{joined}{unmatched}; its clock could not be set against this one"
    low, high = (number(bound / NS_PER_MS) for bound in spans["offset_ns"])
    return f"{joined}{unmatched}; its clock is ahead by {low} to {high} ms, taken as {number(spans['applied_ns'] / NS_PER_MS)}"


def _queue(summary: dict[str, Any]) -> str:
    """The estimate beside what measured queue times there are."""
    estimate, server = summary["queue_estimate"], summary.get("server") or {"latencies": {}}
    low, high = (number(bound) for bound in estimate["ci95_ms"])
    known = {"its histogram": server["latencies"].get("queue", {}).get("mean_ms")}
    if stage := summary["metrics"].get("stage_queue"):
        known["its stamps of each request"] = stage["mean"] / NS_PER_MS
    measured = "".join(f"; by {source} {number(mean_ms)} ms" for source, mean_ms in known.items() if mean_ms is not None)
    waiting = f"{number(estimate['mean_waiting'])} requests waiting on average in {counted(estimate['samples'], 'sample')}"
    return (
        f"engine queue, estimated by Little's law: {number(estimate['mean_ms'])} ms a request on average (95 %: {low} – {high}), from "
        f"{waiting}{measured}"
    )


def _row(name: str, times: dict[str, Any]) -> list[str | float | int | None]:
    metric = times["durations"][name]
    levels = [metric["percentiles"].get(level) for level in ("50", "99")]
    shown = [level / NS_PER_MS if isinstance(level, int) else level for level in levels]
    return [LABELS.get(name, name), metric["count"], metric["mean"] / NS_PER_MS, *shown, f"{times['shares'][name]:.1%}"]


def _place(name: str) -> int:
    return ORDER.index(name) if name in ORDER else len(ORDER)
