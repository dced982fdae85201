"""A micro run with made-up measurements, through the same code that makes real rows."""

from __future__ import annotations

from typing import Any

import msgspec

from bytemlperf.hardware.peaks import MEASURED, Peak, Peaks
from micro.cases.case import Case
from micro.measure.correctness import Checked
from micro.measure.messages import Job, Outcome, RankLatency
from micro.measure.timing import Latency
from micro.sweep.sweep import Settings, Sweep
from tests.micro.fakes import ScriptedRunner, timed

CACHE = 1 << 20


def peaks() -> Peaks:
    def peak(per_s: float) -> Peak:
        return Peak(per_s=per_s, case="made", provider="torch", samples=20, measured_at="2026-11-24T12:00:00+00:00")

    memory = {"stream_triad": peak(10e9), "stream_copy": peak(8e9), "stream_read": peak(20e9)}
    return Peaks(identity={}, flops={"float32": peak(1e12)}, memory=memory, link=peak(4e9))


def cases() -> list[Case]:
    gemms = [{"M": m, "K": k, "N": 64, "dtype": "float32"} for m in (1, 64, 1024) for k in (64, 256)]
    sums = [{"world_size": 2, "batch_size": 1, "dim_size": 1 << size, "dtype": "float32", "backend": "auto"} for size in (10, 14, 18)]
    return [
        *(Case(op="gemm", provider="torch", args=args) for args in gemms),
        *(Case(op="all_reduce", provider="torch", args=args) for args in sums),
        Case(op="softmax", provider="torch", args={"batch_size": 4, "dim_size": 8, "dtype": "float32"}),
        Case(op="=cmd()", provider="torch", args={"M": "</script>"}, refusal="=1+1 there is no operator"),
    ]


def latency(p50_us: float, high_us: float | None = None) -> Latency:
    return Latency(p10=None, p50=p50_us, p90=None, p99=None, mean=p50_us, min=p50_us, max=p50_us, ci95_low=None, ci95_high=high_us, n=9)


def answer(job: Job) -> Outcome:
    """A tenth of a nanosecond a value, and softmax crashes."""
    if job.op == "softmax":
        return Outcome(status="failed", reason="crashed while timing: killed by SIGSEGV")
    if job.op == "all_reduce":
        size_bytes = job.args["dim_size"] * 4
        took = timed([1000 * size_bytes // 1024 + place for place in range(40)])
        ranks = [RankLatency(rank=rank, latency_us=latency(size_bytes / 1024), samples_ns=[]) for rank in (0, 1)]
        return Outcome(status="ok", checked=Checked(), timed=took, ranks=ranks, link_bytes=size_bytes, bus_factor=1.0)
    nanoseconds = job.args["M"] * job.args["K"] * 64 // 10
    took = timed([nanoseconds + 1000 + place for place in range(40)])
    return Outcome(status="ok", checked=Checked(), timed=msgspec.structs.replace(took, buffer_sets=1 if job.args["M"] == 1 else 64))


def run_and_records() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    runner, rows = ScriptedRunner(answer), list[Any]()
    settings = Settings(cache_bytes=CACHE, threads=2, threads_from="physical cores")
    makers = {"worker": lambda _: runner, "ranks": lambda _: runner}
    sweep = Sweep(settings, rows.append, runners=makers, roofs=lambda _case, _row: {MEASURED: peaks().roof()}, now_s=lambda: runner.now)
    sweep.run(cases())
    run = {
        "format_version": 1,
        "kind": "micro",
        "label": "made",
        "config": {"cases": msgspec.to_builtins(cases()), "settings": msgspec.to_builtins(settings)},
        "peaks": msgspec.to_builtins(peaks()),
        "sheet": None,
        "environment": {"hardware": {"cpu": {"model": "Made CPU"}}},
    }
    return run, [msgspec.to_builtins(row) for row in rows]
