"""A row: one case's record. What the worker measured, and what follows from the analytic cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args

import msgspec

from micro.cases.case import Case
from micro.measure.conditions import Conditions
from micro.measure.correctness import Checked
from micro.measure.estimate import COLD_CACHES, Estimate
from micro.measure.messages import Outcome
from micro.measure.timing import Latency, Timed, latency_of, noise_of
from micro.operators.contract import Cost
from micro.roofline import MEASURED, Roof, efficiency, too_fast

Status = Literal["ok", "failed", "refused", "skipped"]
STATUSES: tuple[Status, ...] = get_args(Status)


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One line of records.jsonl. Rates are at the median latency; None where there is none to give.

    `bytes` is read and write together; `mem_bw_gbs` is that over the latency (10⁹ bytes/s), `tflops` the
    FLOPs over it (10¹²/s), `intensity` FLOPs per byte. `alg_bw_gbs`, `bus_bw_gbs` and `ranks` are for
    collectives and links, `skew` the median sample's (slowest − fastest rank) / slowest. `efficiency` holds
    shares of peaks (micro/roofline.py): mfu, mbu, cbu and roof, each with _measured (this machine's own peaks)
    or _sheet (the data sheet's). `threads` are a worker's, or each rank's; `conditions` what else went on
    while it was timed. A row above a measured roof is `failed` with all its figures.
    """

    op: str
    provider: str
    args: dict[str, Any]
    key: str
    device: str
    status: Status
    reason: str = ""
    note: str = ""
    latency_us: Latency | None = None
    noise: str = ""
    flops: int | None = None
    flops_dtype: str = ""
    read_bytes: int | None = None
    write_bytes: int | None = None
    bytes: int | None = None
    intensity: float | None = None
    tflops: float | None = None
    mem_bw_gbs: float | None = None
    alg_bw_gbs: float | None = None
    bus_bw_gbs: float | None = None
    efficiency: dict[str, float] | None = None
    buffers: str = ""
    check: Checked | None = None
    timed: Timed | None = None
    estimate: Estimate | None = None
    ranks: list[dict[str, Any]] | None = None
    skew: float | None = None
    threads: int | None = None
    conditions: Conditions | None = None
    duration_s: float | None = None


def plain_row(case: Case, device: str, status: Status, reason: str, estimate: Estimate | None = None) -> Row:
    """A row of a case that was not run."""
    return Row(
        op=case.op, provider=case.provider, args=case.args, key=case.key, device=device, status=status, reason=reason, estimate=estimate
    )


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
    facts = msgspec.to_builtins(row)
    wrong = too_fast(roofs[MEASURED], facts) if roofs and MEASURED in roofs else ""
    row = msgspec.structs.replace(row, efficiency=efficiency(roofs or {}, facts))
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


def last_rows(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a case, in the order first seen: the last one counts, since a resumed sweep repeats what was skipped."""
    rows: dict[str, dict[str, Any]] = {}
    for record in records:
        rows[str(record["key"])] = record
    return list(rows.values())
