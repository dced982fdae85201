"""Latencies by the server's own histograms over the measured part, beside the client's, and the gap between the two.

A histogram knows its sum and count, so means are exact and percentiles lie in a bucket. The gap of means is what the server doesn't see of
a request: the network, its HTTP front end before its clock starts, and the client.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from statistics import fmean, median
from typing import Any

import msgspec

from bytemlperf.units import NS_PER_MS
from bytemlperf_llm.metrics.counted import counted_of
from engines.contract import Counted, Histogram

MS_PER_S = 1e3
CLIENT = {"ttft": "service_ttft", "e2e": "service_e2e", "itl": "itl", "tpot": "tpot"}
"""The client's metric, from sent, of what the server measures by another clock's start."""
MUCH_OF_TTFT = 0.1
PER_REQUEST = ("e2e", "ttft", "queue")


class ServerLatency(msgspec.Struct, frozen=True, kw_only=True):
    """`count` values by the server, in milliseconds. `p50_ms` and `p99_ms` are [low, high] of the bucket that they are in, high None beyond
    the last one. `client_mean_ms` is the client's own from sent, `gap_ms` that less the server's mean; None where the client has none."""

    count: int
    mean_ms: float
    p50_ms: tuple[float, float | None]
    p99_ms: tuple[float, float | None]
    client_mean_ms: float | None = None
    gap_ms: float | None = None


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """`server` of summary.json: what the servers counted during the measured part. `other_requests` are those beyond what this run sent:
    others used it too, and are in its figures. `missing` are sentences on what it didn't say."""

    latencies: dict[str, ServerLatency]
    other_requests: int
    counts: dict[str, float]
    missing: list[str]


class NetworkPart(msgspec.Struct, frozen=True, kw_only=True):
    """`network` of summary.json: how long `connections` took to open before and after the measured part, in milliseconds: one round trip
    and the kernels' work. `jitter_ms` is the mean difference of one to the next, signs left out (RFC 3393); `ttft_share` is the median's
    share of the median TTFT from sent, which takes at least one round trip too."""

    connections: int
    min_ms: float
    median_ms: float
    max_ms: float
    jitter_ms: float | None
    ttft_share: float | None


def network_of(run: Mapping[str, Any], summary: Mapping[str, Any]) -> NetworkPart | None:
    """From run.json and the run's summary; None where no server is reached directly. Raises msgspec.ValidationError."""
    in_order = [took_ns / NS_PER_MS for took_ns in msgspec.convert(run.get("connect_ns") or [], list[int])]
    if not in_order:
        return None
    took_ms, steps_ms = sorted(in_order), [abs(after - before) for before, after in pairwise(in_order)]
    middle_ms = median(took_ms)
    ttft_ns = summary["metrics"].get("service_ttft", {}).get("percentiles", {}).get("50")
    share = middle_ms * NS_PER_MS / ttft_ns if isinstance(ttft_ns, int) and ttft_ns else None
    return NetworkPart(
        connections=len(took_ms),
        min_ms=took_ms[0],
        median_ms=middle_ms,
        max_ms=took_ms[-1],
        jitter_ms=fmean(steps_ms) if steps_ms else None,
        ttft_share=share,
    )


def network_warnings(network: NetworkPart | None) -> list[str]:
    """Where the way to the server is a good part of what is measured."""
    if network is None or (network.ttft_share or 0.0) < MUCH_OF_TTFT:
        return []
    return [f"a connection takes {network.median_ms:.3g} ms to open: at least {network.ttft_share:.0%} of the median TTFT is the network"]


def server_of(run: Mapping[str, Any], summary: Mapping[str, Any]) -> Server | None:
    """From run.json and the run's summary; None where the server has no such histograms. Raises msgspec.ValidationError."""
    told = counted_of(run)
    latencies = {name: _latency(name, histogram, summary["metrics"]) for name, histogram in told.latencies.items() if histogram.counts[-1]}
    if told == Counted():
        return None
    counted = next((latencies[name].count for name in PER_REQUEST if name in latencies), 0)
    answered = summary["outcomes"].get("ok", 0)
    return Server(
        latencies=latencies,
        other_requests=max(0, counted - sum(summary["outcomes"].values())) if counted > answered else 0,
        counts=told.counts,
        missing=list(told.missing),
    )


def _latency(name: str, histogram: Histogram, metrics: Mapping[str, Any]) -> ServerLatency:
    count = histogram.counts[-1]
    mean_ms = histogram.sum_s / count * MS_PER_S
    own = metrics.get(CLIENT.get(name, ""))
    client_ms = own["mean"] / NS_PER_MS if own else None
    return ServerLatency(
        count=count,
        mean_ms=mean_ms,
        p50_ms=bucket_ms(histogram, 0.5),
        p99_ms=bucket_ms(histogram, 0.99),
        client_mean_ms=client_ms,
        gap_ms=None if client_ms is None else client_ms - mean_ms,
    )


def bucket_ms(histogram: Histogram, share: float) -> tuple[float, float | None]:
    """The bucket that holds the value at this share (nearest rank)."""
    place = next(place for place, count in enumerate(histogram.counts) if count >= share * histogram.counts[-1])
    low = histogram.upper_s[place - 1] if place else 0.0
    return low * MS_PER_S, histogram.upper_s[place] * MS_PER_S if place < len(histogram.upper_s) else None
