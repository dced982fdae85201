"""The points of a run: a batch size, an instance count, a load; and what their calls come to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import msgspec

from bytemlperf.statistics.metric import Metric, describe, rate
from bytemlperf.units import NS_PER_S
from general_perf.job.records import AnyRecord, PerformanceRecord, Record

Records = Iterable[AnyRecord]
Jobs = dict[str, list[AnyRecord]]
"""Records by job, of each job's last attempt alone."""
RecordT = TypeVar("RecordT", bound=Record)


def last_attempts(records: Records) -> Jobs:
    """Records by job, of each job's last attempt alone."""
    found: Jobs = {}
    for record in records:
        kept = found.setdefault(record.job, [])
        if kept and kept[0].attempt != record.attempt:
            kept.clear()
        kept.append(record)
    return found


def first(records: Iterable[AnyRecord], stage: type[RecordT], *, ok: bool = False) -> RecordT | None:
    """The first record of a stage, or of those that went well."""
    return next((record for record in records if isinstance(record, stage) and (record.status == "ok" or not ok)), None)


def measured(records: Iterable[AnyRecord]) -> list[PerformanceRecord]:
    """The points that have latencies."""
    return [each for each in records if isinstance(each, PerformanceRecord) and each.status == "ok" and each.latency_ns]


def point_of(record: PerformanceRecord) -> str:
    """`batch 8, 2 instances, open`: what tells the points of a job apart."""
    many = "" if record.instances == 1 else f", {record.instances} instances"
    return f"batch {record.batch_size}{many}, {record.loop}"


def throughput(record: PerformanceRecord) -> float:
    """Samples per second: answers × batch size over the window from the start to the last answer."""
    return float(len(record.latency_ns) * record.batch_size / (record.window_ns / NS_PER_S))


def latency(record: PerformanceRecord) -> Metric | None:
    """Of a point's calls."""
    return describe(record.latency_ns, "ns", "from when a call was due (closed loop: made) to its answer")


def service_time(record: PerformanceRecord) -> Metric | None:
    """Of an open loop's calls; None of a closed one's."""
    return describe(record.service_ns, "ns", "from when an instance took a call to its answer")


def speed(record: PerformanceRecord) -> Metric | None:
    """Throughput; its spread is that of single calls, which a closed loop makes without a pause. An open loop's calls come as they are
    asked for, and say nothing of it."""
    mean, formula = throughput(record), "answers × batch size / (start to last answer)"
    single = rate(record.batch_size * record.instances, record.latency_ns, "samples/s", formula)
    if single is None:
        return None
    if record.loop == "closed":
        return single.divided(single.mean / mean)
    return msgspec.structs.replace(single, mean=mean, std=None, min=mean, max=mean, percentiles={}, ci95={})
