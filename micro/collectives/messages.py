"""What a sweep and its ranks say to each other over a Unix socket: JSON, one object a line.

The sweep sends every rank the same `micro.measure.messages.Job`; each answers with stages and one `RankDone`.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from micro.measure.correctness import Checked
from micro.measure.messages import Stage
from micro.measure.timing import Timed

RankStatus = Literal["ok", "failed", "refused", "stopped"]


class RankHello(msgspec.Struct, frozen=True, kw_only=True, tag="rank"):
    """A rank has joined its group. `bytes_per_s` is of a small all_reduce (0 where one rank is alone)."""

    rank: int
    pid: int
    threads: int
    affinity: list[int]
    device_name: str
    device_memory_bytes: int
    timer_overhead_ns: float
    start_skew_ns: float
    bytes_per_s: float
    libraries: dict[str, str]


class RankDone(msgspec.Struct, frozen=True, kw_only=True, tag="done"):
    """How one rank's part of a case ended. `stopped`: another rank ended it. `agreed`: all ranks know how it ended,
    so that the group can go on; else a rank may still wait inside a collective, and the group must end.
    Rank 0 gives `timed`, of each sample the slowest rank's time, and `by_rank`, of each sample every rank's."""

    status: RankStatus
    reason: str = ""
    note: str = ""
    agreed: bool = False
    checked: Checked | None = None
    timed: Timed | None = None
    by_rank: list[list[int]] = []


RankMessage = RankHello | Stage | RankDone
