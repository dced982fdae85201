"""What a sweep and its workers or ranks say to each other: JSON, one object a line.

A worker answers a job with stages and one `Outcome`; of several ranks each gets the same job and answers with stages and one `RankDone`.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from micro.cases.case import Arguments
from micro.measure.conditions import Conditions
from micro.measure.correctness import Checked
from micro.measure.timing import Latency, Rules, Timed


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One case to do. `cache_bytes` 0 keeps the buffers hot."""

    op: str
    provider: str
    args: Arguments
    device: str
    seed: int
    rules: Rules
    cache_bytes: int


class Hello(msgspec.Struct, frozen=True, kw_only=True, tag="hello"):
    """The worker is up, or a rank has joined its group. Rates for estimates, and the conditions that are kept with the run."""

    flops_per_s: float
    bytes_per_s: float
    threads: int
    affinity: list[int]
    device_name: str
    device_memory_bytes: int
    timer_overhead_ns: float
    libraries: dict[str, str]
    pinning: dict[str, str] = {}
    allocation: str = ""


StageName = Literal["building", "making inputs", "computing the reference", "running", "checking", "timing"]


class Stage(msgspec.Struct, frozen=True, kw_only=True, tag="stage"):
    """What the worker begins to do; it names the place when it dies or hangs."""

    name: StageName


class RankLatency(msgspec.Struct, frozen=True, kw_only=True):
    """What one rank measured of the samples that all took together."""

    rank: int
    latency_us: Latency
    samples_ns: list[int]


class Outcome(msgspec.Struct, frozen=True, kw_only=True, tag="outcome"):
    """How the case ended. `timed` with status ok only; `checked` once the outputs were compared. Of collectives
    also what every rank measured, the bytes of the full tensor, and what a link carries over those."""

    status: Literal["ok", "failed", "refused"]
    reason: str = ""
    note: str = ""
    checked: Checked | None = None
    timed: Timed | None = None
    conditions: Conditions | None = None
    ranks: list[RankLatency] | None = None
    skew: float | None = None
    link_bytes: int | None = None
    bus_factor: float | None = None


class RankDone(msgspec.Struct, frozen=True, kw_only=True, tag="done"):
    """How one rank's part of a case ended. `stopped`: another rank ended it. `agreed`: all ranks know how it ended,
    so that the group can go on; else a rank may still wait inside a collective, and the group must end.
    Rank 0 gives `timed`, of each sample the slowest rank's time, and `by_rank`, of each sample every rank's."""

    status: Literal["ok", "failed", "refused", "stopped"]
    reason: str = ""
    note: str = ""
    agreed: bool = False
    checked: Checked | None = None
    timed: Timed | None = None
    by_rank: list[list[int]] = []


Message = Hello | Stage | Outcome
RankMessage = Hello | Stage | RankDone
REASON_LENGTH = 400


def in_words(error: Exception) -> str:
    """What a kernel raised, as a row's reason."""
    text = " ".join(str(error).split())[:REASON_LENGTH]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
