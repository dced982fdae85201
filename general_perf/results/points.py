"""The points of a run (a batch size, an instance count, a load), what their calls come to, and every number that a comparison can use.

A figure's key is the job and the point, without the machine.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

import msgspec

from bytemlperf.report.blocks import figure_of
from bytemlperf.runs.kinds import Better, Figure
from bytemlperf.statistics.metric import Metric, describe, rate
from bytemlperf.units import NS_PER_S
from general_perf.job.records import (
    AccuracyRecord,
    AnyRecord,
    CompileRecord,
    CoverageRecord,
    LoadRecord,
    NumericsRecord,
    PerformanceRecord,
    Record,
)

Records = Iterable[AnyRecord]
Jobs = dict[str, list[AnyRecord]]
"""Records by job, of each job's last attempt alone."""
RecordT = TypeVar("RecordT", bound=Record)


def last_attempts(records: Records) -> Jobs:
    """Records by job, of each job's last attempt alone."""
    jobs: Jobs = {}
    for record in records:
        kept = jobs.setdefault(record.job, [])
        if kept and kept[0].attempt != record.attempt:
            kept.clear()
        kept.append(record)
    return jobs


def first(records: Iterable[AnyRecord], stage: type[RecordT], *, ok: bool = False) -> RecordT | None:
    """The first record of a stage, or of those that went well."""
    return next((record for record in records if isinstance(record, stage) and (record.status == "ok" or not ok)), None)


def measured(records: Iterable[AnyRecord]) -> list[PerformanceRecord]:
    """The points that have latencies."""
    return [record for record in records if isinstance(record, PerformanceRecord) and record.status == "ok" and record.latency_ns]


def point_of(record: PerformanceRecord) -> str:
    """`batch 8, 2 instances, open`: what tells the points of a job apart."""
    many = "" if record.instances == 1 else f", {record.instances} instances"
    return f"batch {record.batch_size}{many}, {record.loop}"


def throughput(record: PerformanceRecord) -> float:
    """Samples per second: answers × batch size over the window from the start to the last answer."""
    return float(len(record.latency_ns) * record.batch_size / (record.window_ns / NS_PER_S))


def latency(record: PerformanceRecord) -> Metric | None:
    """Of a point's calls."""
    return describe(record.latency_ns, "ns", "from when a call was due (closed loop: made) to its response")


def service_time(record: PerformanceRecord) -> Metric | None:
    """Of an open loop's calls; None of a closed one's."""
    return describe(record.service_ns, "ns", "from when an instance took a call to its response")


def speed(record: PerformanceRecord) -> Metric | None:
    """Throughput; its spread is that of single calls, which a closed loop makes without a pause. An open loop's calls come as they are
    asked for, and say nothing of it."""
    mean, formula = throughput(record), "responses × batch size / (start to last response)"
    single = rate(record.batch_size * record.instances, record.latency_ns, "samples/s", formula)
    if single is None:
        return None
    if record.loop == "closed":
        return single.divided(single.mean / mean)
    return msgspec.structs.replace(single, mean=mean, std=None, min=mean, max=mean, percentiles={}, ci95={})


SAMPLED = ("mean", "50")
"""Statistics whose figures carry the raw latencies."""


def figures(summary: dict[str, Any], jobs: Jobs) -> list[Figure]:
    """Figures of every job in the order planned; a failed job gives one without a value, with the reason."""
    numbers: list[Figure] = []
    for row in summary["rows"]:
        name = row["job"]
        if row["status"] != "ok":
            reason = f"{row['error_class'] or row['status']}: {row['reason']}".rstrip(": ")
            numbers.append(Figure(key=name, metric="result", unit="", value=None, reason=reason))
        for record in jobs.get(name, []):
            if record.status == "ok":
                numbers += _of_stage(name, record, summary)
    return numbers


def _of_stage(name: str, record: AnyRecord, summary: dict[str, Any]) -> list[Figure]:
    match record:
        case PerformanceRecord(latency_ns=[_, *_]):
            return _speed(name, record, summary)
        case CompileRecord():
            return [
                *_plain(name, "compile time", "s", record.compile_s, "lower"),
                *_plain(name, "artefact size", "bytes", record.artefact_bytes, "lower"),
            ]
        case LoadRecord():
            return _plain(name, "time to first response", "s", record.first_answer_s, "lower")
        case AccuracyRecord():
            return [one for metric, value in record.metrics.items() for one in _plain(name, f"accuracy: {metric}", "", value, "higher")]
        case NumericsRecord():
            worst = max((one["scaled_max"] for one in record.outputs.values() if one["scaled_max"] is not None), default=None)
            return _plain(name, "largest difference over RMS", "", worst, "lower")
        case CoverageRecord():
            shares = (("graph share", record.coverage.graph_share), ("FLOPs share", record.coverage.flops_share))
            return [one for metric, share in shares for one in _plain(name, metric, "", share, "higher")]
    return []


def _plain(key: str, metric: str, unit: str, value: float | None, better: Better) -> list[Figure]:
    return [] if value is None else [Figure(key=key, metric=metric, unit=unit, value=float(value), better=better)]


def _speed(name: str, record: PerformanceRecord, summary: dict[str, Any]) -> list[Figure]:
    point = f"{name} | {point_of(record)}"
    metric = summary["metrics"][f"{point} | latency"]
    seconds = tuple(value / NS_PER_S for value in record.latency_ns)
    names = {"mean": "latency mean", **{percent: f"latency p{percent}" for percent in metric["percentiles"]}}
    speeds = [
        figure_of(
            metric, statistic, NS_PER_S, key=point, metric=text, unit="s", better="lower", samples=seconds if statistic in SAMPLED else ()
        )
        for statistic, text in names.items()
    ]
    rate = throughput(record)
    speeds.append(Figure(key=point, metric="throughput", unit="samples/s", value=rate, better="higher", count=len(seconds), headline=True))
    speeds += _plain(point, "peak host memory", "bytes", record.peak_host_bytes, "lower")
    if record.loop != "open":
        return speeds
    load = f"{record.process or 'open loop'}, {record.requested_rate:g} calls/s" if record.requested_rate else "open loop"
    return [msgspec.structs.replace(figure, load=load, offered=figure.is_rate) for figure in speeds]
