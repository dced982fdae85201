"""Every number of a run that a comparison can use. The key is the job and the point, without the machine."""

from __future__ import annotations

from typing import Any

import msgspec

from bytemlperf.report.blocks import figure_of
from bytemlperf.runs.kinds import Better, Figure
from bytemlperf.units import NS_PER_S
from general_perf.job.records import AccuracyRecord, AnyRecord, CompileRecord, CoverageRecord, LoadRecord, NumericsRecord, PerformanceRecord
from general_perf.results.points import Jobs, point_of, throughput

SAMPLED = ("mean", "50")
"""Statistics whose figures carry the raw latencies."""


def figures(summary: dict[str, Any], jobs: Jobs) -> list[Figure]:
    """Figures of every job in the order planned; a failed job gives one without a value, with the reason."""
    found: list[Figure] = []
    for row in summary["rows"]:
        name = row["job"]
        if row["status"] != "ok":
            reason = f"{row['error_class'] or row['status']}: {row['reason']}".rstrip(": ")
            found.append(Figure(key=name, metric="result", unit="", value=None, reason=reason))
        for record in jobs.get(name, []):
            if record.status == "ok":
                found += _of_stage(name, record, summary)
    return found


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
            return _plain(name, "time to first answer", "s", record.first_answer_s, "lower")
        case AccuracyRecord():
            return [each for metric, value in record.metrics.items() for each in _plain(name, f"accuracy: {metric}", "", value, "higher")]
        case NumericsRecord():
            worst = max((each["scaled_max"] for each in record.outputs.values() if each["scaled_max"] is not None), default=None)
            return _plain(name, "largest difference over RMS", "", worst, "lower")
        case CoverageRecord():
            shares = (("graph share", record.found.graph_share), ("FLOPs share", record.found.flops_share))
            return [each for metric, share in shares for each in _plain(name, metric, "", share, "higher")]
    return []


def _plain(key: str, metric: str, unit: str, value: float | None, better: Better) -> list[Figure]:
    return [] if value is None else [Figure(key=key, metric=metric, unit=unit, value=float(value), better=better)]


def _speed(name: str, record: PerformanceRecord, summary: dict[str, Any]) -> list[Figure]:
    point = f"{name} | {point_of(record)}"
    metric = summary["metrics"][f"{point} | latency"]
    seconds = tuple(value / NS_PER_S for value in record.latency_ns)
    names = {"mean": "latency mean", **{percent: f"latency p{percent}" for percent in metric["percentiles"]}}
    found = [
        figure_of(
            metric, statistic, NS_PER_S, key=point, metric=text, unit="s", better="lower", samples=seconds if statistic in SAMPLED else ()
        )
        for statistic, text in names.items()
    ]
    rate = throughput(record)
    found.append(Figure(key=point, metric="throughput", unit="samples/s", value=rate, better="higher", count=len(seconds), headline=True))
    found += _plain(point, "peak host memory", "bytes", record.peak_host_bytes, "lower")
    if record.loop != "open":
        return found
    load = f"{record.process or 'open loop'}, {record.requested_rate:g} calls/s" if record.requested_rate else "open loop"
    return [msgspec.structs.replace(figure, load=load, offered=figure.is_rate) for figure in found]
