"""The server's own latencies on the page and, with --verbose, in the terminal."""

from __future__ import annotations

from typing import Any

from bytemlperf.report.text import number
from bytemlperf.runs.kinds import Table, Text

GROUP = "Latency"
LABELS = {"ttft": "TTFT", "itl": "ITL", "e2e": "E2E", "queue": "queue", "prefill": "prefill", "decode": "decode"}
ORDER = tuple(LABELS)
NOTE = (
    "By the server's own histograms, as they grew during the measured part: means are exact, percentiles lie in a bucket. Client: mean "
    "from sent. Gap: what the server doesn't see of a request, its HTTP front end, the network, and the client."
)


def server_sections(summary: dict[str, Any]) -> list[Table | Text]:
    """Nothing where the server has no such page and isn't reached directly."""
    server, network = summary.get("server"), summary.get("network")
    way = [Text(body=_way(network), detail=True, group=GROUP)] if network else []
    if not server:
        return [*way]
    others = f" The server counted {server['other_requests']:,} requests of others." if server["other_requests"] else ""
    rows = [_row(name, server["latencies"][name]) for name in sorted(server["latencies"], key=_place)]
    columns = ["ms", "count", "mean", "p50", "p99", "client", "gap"]
    title, spare = "Server and client", ("count", "p50")
    table = Table(title=title, columns=columns, rows=rows, note=NOTE + others, group=GROUP, spare=spare, detail=True)
    return [table, *way]


def _way(network: dict[str, Any]) -> str:
    share = "" if network["ttft_share"] is None else f": at least {network['ttft_share']:.1%} of the median TTFT"
    spread = f"{number(network['min_ms'])} – {number(network['max_ms'])}"
    return f"network: a connection opened in {number(network['median_ms'])} ms ({spread}, {network['connections']} before and after){share}"


def _row(name: str, latency: dict[str, Any]) -> list[str | float | int | None]:
    client = [latency["client_mean_ms"], latency["gap_ms"]]
    role, _, own = name.rpartition("_")
    label = " ".join(filter(None, [role.replace("_", " "), LABELS.get(own, own)]))
    return [label, latency["count"], latency["mean_ms"], *(_bucket(latency[level]) for level in ("p50_ms", "p99_ms")), *client]


def _bucket(bounds: list[float | None]) -> str:
    low, high = bounds
    return f"above {number(low)}" if high is None else f"{number(low)} – {number(high)}"


def _place(name: str) -> tuple[str, int]:
    role, _, own = name.rpartition("_")
    return role, ORDER.index(own) if own in ORDER else len(ORDER)
