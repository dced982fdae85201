"""A row: one case's record, and the rows of a run read back."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, get_args

import msgspec

from micro.cases.case import Arguments, Case, case_text
from micro.measure.conditions import Conditions
from micro.measure.correctness import Checked
from micro.measure.estimate import Estimate
from micro.measure.messages import RankLatency
from micro.measure.timing import Latency, Timed

Status = Literal["ok", "failed", "refused", "skipped"]
STATUSES: tuple[Status, ...] = get_args(Status)


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One line of records.jsonl. Rates are at the median latency; None where there is none to give.

    `bytes` is read and write together; `mem_bw_gbs` is that over the latency (10⁹ bytes/s), `tflops` the
    FLOPs over it (10¹²/s), `intensity` FLOPs per byte. `alg_bw_gbs`, `bus_bw_gbs` and `ranks` are for
    collectives and links, `skew` the median sample's (slowest − fastest rank) / slowest. `efficiency` holds
    shares of peaks (micro/roofline.py): mfu, mbu, cbu and roof, each with _measured (this machine's own peaks)
    or _sheet (the data sheet's). `threads` are a worker's, or each rank's; `conditions` what else went on
    while it was timed, `ended_unix_ns` the time of day when it ended. A row above a measured roof is `failed` with all its figures.
    """

    op: str
    provider: str
    args: Arguments
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
    ranks: list[RankLatency] | None = None
    skew: float | None = None
    threads: int | None = None
    conditions: Conditions | None = None
    duration_s: float | None = None
    ended_unix_ns: int = 0

    @property
    def case(self) -> str:
        """Operator and arguments."""
        return case_text(self.op, self.args)

    @property
    def latency(self) -> Latency:
        """Of a measured case. Raises ValueError for another."""
        if self.latency_us is None:
            raise ValueError(f"{self.key} has no latency")
        return self.latency_us

    @property
    def from_memory(self) -> bool:
        """Whether the buffers came from memory and not from a cache."""
        return self.buffers.startswith("cold")

    @property
    def hot(self) -> bool:
        """Whether every call had the same buffers."""
        return self.buffers.startswith("hot")


def plain_row(case: Case, device: str, status: Status, reason: str, estimate: Estimate | None = None) -> Row:
    """A row of a case that was not run."""
    return Row(
        op=case.op, provider=case.provider, args=case.args, key=case.key, device=device, status=status, reason=reason, estimate=estimate
    )


def last_rows(records: Iterable[Row]) -> list[Row]:
    """One row a case, in the order first seen: the last one counts, since a resumed sweep repeats what was skipped."""
    return list({row.key: row for row in records}.values())
