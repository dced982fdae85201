"""What a stage of a job tells the parent: which stage runs, its records, its failures."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from general_perf.failures import classify
from general_perf.job.job import Job
from general_perf.job.records import STAGES, Message, Record, facts_of

STARTED_ENV = "BMP_WORKER_STARTED_NS"
"""CLOCK_MONOTONIC of the moment the parent started this process."""
RecordT = TypeVar("RecordT", bound=Record)


class Reporter:
    """One job's voice. `out` takes records and progress."""

    def __init__(self, job: Job, out: Callable[[Message | Record], None]) -> None:
        self.job, self.say = job, out
        self.card = job.card
        self._began_ns = self._since_ns = int(os.environ.get(STARTED_ENV, time.monotonic_ns()))
        self.stages_s: dict[str, float] = {}
        self._current = "start"

    @property
    def weights(self) -> Path | None:
        """What replaces the card's own."""
        return Path(self.job.weights) if self.job.weights else None

    @property
    def batch(self) -> int:
        """The first batch size of the job, or the only one that the model takes."""
        return self.card.fixed_batch or self.job.batch_sizes[0]

    def wall_s(self) -> float:
        """Since the process was started."""
        return (time.monotonic_ns() - self._began_ns) / 1e9

    def at(self, stage: str) -> None:
        """Say which stage begins, so that the parent can name it when the process dies."""
        self.say(Message(stage="begin", name=stage))
        self.ended()
        self._current = stage

    def ended(self) -> None:
        """The stage that ran is over."""
        now = time.monotonic_ns()
        self.stages_s[self._current] = self.stages_s.get(self._current, 0.0) + (now - self._since_ns) / 1e9
        self._since_ns = now

    def progress(self, latencies_ns: list[int]) -> None:
        """Latencies so far."""
        self.say(Message(stage="progress", latency_ns=latencies_ns))

    def record(self, kind: type[RecordT], **fields: Any) -> RecordT:
        """A record of this job."""
        return kind(**facts_of(self.job, self.card.name, self.job.attempt), **fields)

    def failure(self, stage: str, error: BaseException, **fields: Any) -> Record:
        """The record of a stage that went wrong; the library's own traceback goes to standard error."""
        traceback.print_exception(error)
        return self.record(STAGES[stage], **classify(error, stage)._asdict(), **fields)
