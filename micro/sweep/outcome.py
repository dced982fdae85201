"""From what a worker measured to its row: rates from the analytic cost, shares of the peaks, what the caches held."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from micro.cases.case import Case
from micro.measure.estimate import COLD_CACHES, Estimate
from micro.measure.messages import Outcome
from micro.measure.timing import Timed, latency_of, noise_of
from micro.operators.contract import Cost
from micro.roofline import MEASURED, Roof, efficiency, too_fast
from micro.sweep.row import Row


def measured_row(
    case: Case,
    device: str,
    outcome: Outcome,
    cost: Cost,
    *,
    estimate: Estimate,
    precision: float,
    cache_bytes: int,
    duration_s: float,
    threads: int | None = None,
    roofs: Mapping[str, Roof] | None = None,
) -> Row:
    """A row of a case that was given to a worker, however it ended."""
    timed = outcome.timed
    latency = latency_of(timed) if timed else None
    io_bytes = cost.read_bytes + cost.write_bytes
    nanoseconds = latency.p50 * 1000 if latency else 0.0
    row = Row(
        op=case.op,
        provider=case.provider,
        args=case.args,
        key=case.key,
        device=device,
        status=outcome.status,
        reason=outcome.reason,
        note=outcome.note,
        latency_us=latency,
        noise=noise_of(timed, precision) if timed else "",
        flops=cost.flops,
        flops_dtype=cost.flops_dtype,
        read_bytes=cost.read_bytes,
        write_bytes=cost.write_bytes,
        bytes=io_bytes,
        intensity=cost.flops / io_bytes if io_bytes else None,
        tflops=cost.flops / nanoseconds / 1000 if nanoseconds and cost.flops else None,
        mem_bw_gbs=io_bytes / nanoseconds if nanoseconds and io_bytes else None,
        alg_bw_gbs=outcome.link_bytes / nanoseconds if nanoseconds and outcome.link_bytes else None,
        bus_bw_gbs=outcome.link_bytes * (outcome.bus_factor or 1.0) / nanoseconds if nanoseconds and outcome.link_bytes else None,
        ranks=outcome.ranks,
        skew=outcome.skew,
        buffers=_buffers(timed, cost, cache_bytes),
        check=outcome.checked,
        timed=timed,
        estimate=estimate,
        threads=threads,
        conditions=outcome.conditions,
        duration_s=round(duration_s, 3),
    )
    if timed is None:
        return row
    wrong = too_fast(roofs[MEASURED], row) if roofs and MEASURED in roofs else ""
    row = msgspec.structs.replace(row, efficiency=efficiency(roofs or {}, row))
    return msgspec.structs.replace(row, status="failed", reason=wrong) if wrong else row


def _buffers(timed: Timed | None, cost: Cost, cache_bytes: int) -> str:
    """What the caches held, in words: part of the figure's meaning."""
    if timed is None:
        return ""
    if timed.buffer_sets == 1:
        return "hot: one set of buffers"
    total = timed.buffer_sets * cost.read_bytes
    what = f"{timed.buffer_sets} sets of inputs in turn, {total / 2**20:.0f} MiB"
    return f"cold: {what}" if total >= COLD_CACHES * cache_bytes else f"warm: {what}, for a cache of {cache_bytes / 2**20:.0f} MiB"
