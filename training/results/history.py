"""A run's records, sorted: what the summary, the figures and the page are computed from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from training.results.records import (
    CheckpointRecord,
    CollectiveRecord,
    EndRecord,
    EventRecord,
    OperatorRecord,
    Record,
    StartRecord,
    StepRecord,
    TraceRecord,
)

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
