"""The points of a run: a batch size, an instance count, a load."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

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
    return float(len(record["latency_ns"]) * record["batch_size"] / (record["window_ns"] / 1e9))
