"""The points of a run: a batch size, an instance count, a load; and what their calls come to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from bytemlperf.statistics.metric import Metric, describe, rate
from bytemlperf.units import NS_PER_S

Records = Iterable[dict[str, Any]]


def last_attempts(records: Records) -> dict[str, list[dict[str, Any]]]:
    """Records by job, of each job's last attempt alone."""
    found: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        kept = found.setdefault(str(record["job"]), [])
        if kept and kept[0]["attempt"] != record["attempt"]:
            kept.clear()
        kept.append(record)
    return found


def point_of(record: dict[str, Any]) -> str:
    """`batch 8, 2 instances, open`: what tells the points of a job apart."""
    many = "" if record["instances"] == 1 else f", {record['instances']} instances"
    return f"batch {record['batch_size']}{many}, {record['loop']}"


def throughput(record: dict[str, Any]) -> float:
    """Samples per second: answers × batch size over the window from the start to the last answer."""
    return float(len(record["latency_ns"]) * record["batch_size"] / (record["window_ns"] / NS_PER_S))


def latency(record: dict[str, Any]) -> Metric | None:
    """Of a point's calls."""
    return describe(record["latency_ns"], "ns", "from when a call was due (closed loop: made) to its answer")


def service_time(record: dict[str, Any]) -> Metric | None:
    """Of an open loop's calls; None of a closed one's."""
    return describe(record["service_ns"], "ns", "from when an instance took a call to its answer")


def speed(record: dict[str, Any]) -> Metric | None:
    """Throughput; its spread is that of single calls, which a closed loop makes without a pause. An open loop's calls come as they are
    asked for, and say nothing of it."""
    mean, formula = throughput(record), "answers × batch size / (start to last answer)"
    single = rate(record["batch_size"] * record["instances"], record["latency_ns"], "samples/s", formula)
    if single is None:
        return None
    if record["loop"] == "closed":
        return single.divided(single.mean / mean)
    return msgspec.structs.replace(single, mean=mean, std=None, min=mean, max=mean, percentiles={}, ci95={})
