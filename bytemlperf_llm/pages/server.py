"""The server's own latencies on the page and, with --verbose, in the terminal."""

from __future__ import annotations

from typing import Any

from bytemlperf.report.text import number
from bytemlperf.runs.kinds import Table

LABELS = {"ttft": "TTFT", "itl": "ITL", "e2e": "E2E", "queue": "queue", "prefill": "prefill", "decode": "decode"}
ORDER = tuple(LABELS)
NOTE = (
    "By the server's own histograms, as they grew during the measured part: means are exact, percentiles lie in a bucket. Client: mean "
    "from sent. Gap: what the server doesn't see of a request, its HTTP front end, the network, and the client."
)


def server_sections(summary: dict[str, Any]) -> list[Table]:
    """Nothing where the server has no such page."""
    server = summary.get("server")
    if not server:
        return []
    others = f" The server counted {server['other_requests']:,} requests of others." if server["other_requests"] else ""
    rows = [_row(name, server["latencies"][name]) for name in sorted(server["latencies"], key=_place)]
    columns = ["ms", "count", "mean", "p50", "p99", "client", "gap"]
    return [
        Table(
            title="Server and client", columns=columns, rows=rows, note=NOTE + others, group="Latency", spare=("count", "p50"), detail=True
        )
    ]


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
