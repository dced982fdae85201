"""What a training run keeps: one record a step, and one for everything else that happened.

Rank 0 writes them into the run folder itself, each with one `write()` before the step counts, so that
neither its death nor that of the process that started it loses one. Times are nanoseconds, sizes bytes;
lists have one entry a rank. `record` tells the kinds apart.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, TypeVar

import msgspec

RANK_LOG = "records-rank0.jsonl"
RANKS_FOLDER = "ranks"
"""What torchrun and the ranks say, and the stacks of those that hung."""
STOP_FILE = "stop"
"""Its presence in the run folder asks the ranks to stop after the step."""
EXIT_HUNG = 86
GRACE_S = 3.0
"""From a rank's stacks to its end, so that the other ranks have written theirs."""


Why = Literal["steps done", "target reached", "stopped", "diverged"]
"""Why the ranks came to their end."""


class StartRecord(msgspec.Struct, frozen=True, kw_only=True, tag="start", tag_field="record"):
    """An attempt is ready: model built, checkpoint loaded. `start_ns` runs from the process's start.
    `peak_flops` is one rank's; `peak_source` says where it comes from."""

    attempt: int
    at_ns: int
    first_step: int
    start_ns: list[int]
    parameters: int
    parameters_by_rank: list[int]
    model_flops: int
    recomputed_flops: int
    peak_flops: list[float]
    peak_source: str
    device: str
    devices: list[str]
    hosts: list[str]
    threads: int
    packages: dict[str, str]


class StepRecord(msgspec.Struct, frozen=True, kw_only=True, tag="step", tag_field="record"):
    """One step. `role` is `warmup`, `traced` (under the profiler) or `measured`. `at_ns` is rank 0's monotonic
    clock at the end; `wall_ns` the time since the last step's end, with reporting and checkpoints in it.
    `step_ns` runs from asking for data to the optimiser's end; of it `data_ns`, `forward_ns`, `backward_ns`,
    `optimizer_ns`; `sync_ns` is waiting for gradients where the trainer can tell it apart (within `backward_ns`)."""

    step: int
    attempt: int
    role: Literal["warmup", "traced", "measured"]
    status: Literal["ok", "diverged"]
    at_ns: int
    wall_ns: int
    samples: int
    tokens: int
    loss: float | None
    grad_norm: float | None
    learning_rate: float
    step_ns: list[int]
    data_ns: list[int]
    forward_ns: list[int]
    backward_ns: list[int]
    optimizer_ns: list[int]
    sync_ns: list[int | None]
    peak_bytes: list[int]
    held_bytes: list[int]


class Transfer(msgspec.Struct, frozen=True, kw_only=True):
    """Collectives of one kind over groups of one size in one step, seen from one rank. `bytes` is the
    full tensor's size summed over calls, `bus_bytes` that times the bus factor."""

    op: str
    group: int
    calls: int
    bytes: int
    bus_bytes: int


class TraceRecord(msgspec.Struct, frozen=True, kw_only=True, tag="trace", tag_field="record"):
    """A step under torch.profiler. `busy_ns` some operator computes, `communication_ns` some collective is
    under way, `exposed_ns` of it nothing computes; lists have one entry a rank. `transfers` are rank 0's."""

    step: int
    attempt: int
    step_ns: list[int]
    busy_ns: list[int]
    communication_ns: list[int]
    exposed_ns: list[int]
    transfers: list[Transfer]
    analytic: list[Transfer]


class CollectiveRecord(msgspec.Struct, frozen=True, kw_only=True, tag="collective", tag_field="record"):
    """The run's largest collective again, alone: what it takes when nothing else runs. `ns` is the slowest rank's."""

    op: str
    group: int
    bytes: int
    ns: list[int]
    bus_bytes: int


class OperatorRecord(msgspec.Struct, frozen=True, kw_only=True, tag="operator", tag_field="record"):
    """An operator of the workload against the same in float64: largest difference over the largest value."""

    op: str
    direction: Literal["forward", "backward"]
    shape: str
    status: Literal["ok", "failed", "refused"]
    error: float | None
    limit: float
    reason: str = ""


class CheckpointRecord(msgspec.Struct, frozen=True, kw_only=True, tag="checkpoint", tag_field="record"):
    """A checkpoint saved or loaded; `step` is the first one that comes after it."""

    action: Literal["save", "load"]
    status: Literal["ok", "failed"]
    step: int
    attempt: int
    ns: list[int]
    bytes: int
    reason: str = ""


class EndRecord(msgspec.Struct, frozen=True, kw_only=True, tag="end", tag_field="record"):
    """The ranks have come to their end. `state_sha256` is over every rank's parameters, bit for bit."""

    attempt: int
    why: Why
    next_step: int
    state_sha256: str
    at_ns: int


class EventRecord(msgspec.Struct, frozen=True, kw_only=True, tag="event", tag_field="record"):
    """What the starting process saw: a rank died, hung, the ranks were started again."""

    event: Literal["failure", "hang", "restart"]
    attempt: int
    at_ns: int
    detail: str
    ranks: list[int] = []


Record = StartRecord | StepRecord | TraceRecord | CollectiveRecord | OperatorRecord | CheckpointRecord | EndRecord | EventRecord


class Reference(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A stored loss curve that fits a run; or why the one that was asked for doesn't."""

    name: str = ""
    losses: list[float] = []
    why_not: str = ""


class EarlierRun(msgspec.Struct, frozen=True, kw_only=True):
    """A finished run that another one repeats, and must have the bits of."""

    name: str
    losses: list[float]
    state_sha256: str
    threads: int = 0


class MicroPoint(msgspec.Struct, frozen=True, kw_only=True):
    """A collective as `bmp micro` measured it; `bytes` are the full tensor's."""

    op: str
    ranks: int
    dtype: str
    bytes: int
    bus_bw_gbs: float


RecordT = TypeVar("RecordT")


class History:
    """`steps` are all step records in the order written; after a restart some steps are there twice."""

    def __init__(self, records: Iterable[Record]) -> None:
        kept = list(records)

        def of(kind: type[RecordT]) -> list[RecordT]:
            return [record for record in kept if isinstance(record, kind)]

        self.starts, self.steps, self.traces = of(StartRecord), of(StepRecord), of(TraceRecord)
        self.collectives, self.operators = of(CollectiveRecord), of(OperatorRecord)
        self.checkpoints, self.events = of(CheckpointRecord), of(EventRecord)
        ends = [record for record in kept if isinstance(record, StartRecord | EndRecord)]  # a start outdates the end before
        self.end = ends[-1] if ends and isinstance(ends[-1], EndRecord) else None

    @property
    def measured(self) -> list[StepRecord]:
        """The steps that count for speed. The first one of a later attempt warms up what a restart made cold."""
        cold = {(start.attempt, start.first_step) for start in self.starts if start.attempt}
        return [step for step in self.steps if step.role == "measured" and step.status == "ok" and (step.attempt, step.step) not in cold]

    @property
    def step_times_ns(self) -> list[int]:
        """Of the measured steps, the slowest rank's."""
        return [max(step.step_ns) for step in self.measured]

    @property
    def curve(self) -> list[StepRecord]:
        """Every step once, in order: the last attempt's where there are several."""
        return [step for _, step in sorted({step.step: step for step in self.steps}.items())]

    def pause_ns(self, start: StartRecord) -> int:
        """From the last step before to a start."""
        before = [step.at_ns for step in self.steps if step.attempt < start.attempt]
        return start.at_ns - before[-1] if before else 0

    @property
    def losses(self) -> list[float]:
        """The loss curve, finite values."""
        return [step.loss for step in self.curve if step.loss is not None]
