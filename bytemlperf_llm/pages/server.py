"""The server's own latencies on the page and, with --verbose, in the terminal."""

from __future__ import annotations

from typing import Any

from bytemlperf.report.text import number
from bytemlperf.runs.kinds import Table, Text
from bytemlperf.units import NS_PER_S

GROUP = "Latency"
LABELS = {
    "ttft": "TTFT",
    "itl": "ITL",
    "tpot": "TPOT",
    "e2e": "E2E",
    "queue": "queue",
    "prefill": "prefill",
    "decode": "decode",
    "step": "iteration",
}
ORDER = tuple(LABELS)
NOTE = (
    "By the server's own histograms, as they grew during the measured part: means are exact, percentiles lie in a bucket. Client: mean "
    "from sent. Gap: what the server doesn't see of a request: the network (a round trip), admission by its HTTP front end, and the client."
)


def server_sections(summary: dict[str, Any]) -> list[Table | Text]:
    """Its latencies, the way to it, what it didn't tell, and the energy of the run, as far as they are known."""
    return [*_own(summary), *energy_sections(summary)]


def _own(summary: dict[str, Any]) -> list[Table | Text]:
    server, network = summary.get("server"), summary.get("network")
    way = [Text(body=_way(network), detail=True, group=GROUP)] if network else []
    if not server:
        return [*way]
    missing = [Text(body=text, detail=True, group=GROUP) for text in server["missing"]]
    counts = [_counts(server["counts"], summary)] if server["counts"] else []
    if not server["latencies"]:
        return [*way, *missing, *counts]
    others = f" The server counted {server['other_requests']:,} requests of others." if server["other_requests"] else ""
    rows = [row for name in sorted(server["latencies"], key=_place) for row in _rows(name, server["latencies"][name], network)]
    columns = ["ms", "count", "mean", "p50", "p99", "client", "gap"]
    title, spare = "Server and client", ("count", "p50")
    table = Table(title=title, columns=columns, rows=rows, note=NOTE + others, group=GROUP, spare=spare, detail=True)
    return [table, *way, *missing, *counts]


def _counts(counts: dict[str, float], summary: dict[str, Any]) -> Table:
    """What it counted during the measured part, altogether and a second of it."""
    whole = (summary.get("steady_state") or {}).get("whole") or {"start_ns": 0, "end_ns": 0}
    span_s = (whole["end_ns"] - whole["start_ns"]) / NS_PER_S
    rows: list[list[str | float | int | None]] = [
        [name.replace("_", " "), count, count / span_s if span_s else None]
        for name, count in counts.items()
        if not name.endswith("energy_j")
    ]
    rows += [
        [f"{role.replace('_', ' ')}tokens a step", counts[f"{role}step_tokens"] / steps, None]
        for name, steps in counts.items()
        if name.endswith("steps") and steps and f"{(role := name.removesuffix('steps'))}step_tokens" in counts
    ]
    return Table(title="Counted by the server", columns=["", "in the run", "a second"], rows=rows, folded=True, group=GROUP, detail=True)


def energy_sections(summary: dict[str, Any]) -> list[Text]:
    """Nothing where it wasn't measured."""
    energy = summary.get("energy")
    if not energy:
        return []
    per = {"output token": energy["joules_per_output_token"], "token, prompts included": energy["joules_per_token"]}
    each = ", ".join(f"{number(joules)} J per {what}" for what, joules in per.items() if joules is not None)
    body = f"energy: {number(energy['joules'])} J, {number(energy['watts'])} W on average ({energy['source']}; idle devices too)"
    return [Text(body=f"{body}: {each}" if each else body, detail=True, group=GROUP)]


def _way(network: dict[str, Any]) -> str:
    share = "" if network["ttft_share"] is None else f": at least {network['ttft_share']:.1%} of the median TTFT"
    spread = f"{number(network['min_ms'])} – {number(network['max_ms'])}"
    jitter = "" if network["jitter_ms"] is None else f", jitter {number(network['jitter_ms'])} ms"
    tries = f"{spread}{jitter}, {network['connections']} before and after"
    return f"network: a connection opened in {number(network['median_ms'])} ms ({tries}){share}"


def _rows(name: str, latency: dict[str, Any], network: dict[str, Any] | None) -> list[list[str | float | int | None]]:
    """One of the server; of TTFT also what its gap is made of."""
    gap_ms = latency["gap_ms"]
    role, _, own = name.rpartition("_")
    label = " ".join(filter(None, [role.replace("_", " "), LABELS.get(own, own)]))
    buckets = [_bucket(latency[level]) for level in ("p50_ms", "p99_ms")]
    row = [label, latency["count"], latency["mean_ms"], *buckets, latency["client_mean_ms"], gap_ms]
    if name != "ttft" or gap_ms is None or network is None:
        return [row]
    parts = {"gap: network": network["median_ms"], "gap: admission, client": gap_ms - network["median_ms"]}
    return [row, *([name, *[None] * 5, part_ms] for name, part_ms in parts.items())]


def _bucket(bounds: list[float | None]) -> str | None:
    low, high = bounds
    if not low and high is None:  # it has no buckets
        return None
    return f"above {number(low)}" if high is None else f"{number(low)} – {number(high)}"


def _place(name: str) -> tuple[str, int]:
    role, _, own = name.rpartition("_")
    return role, ORDER.index(own) if own in ORDER else len(ORDER)
