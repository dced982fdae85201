"""What a stage of a job tells the parent: which stage runs, its records, its failures."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable
from typing import Any

from general_perf.failures import classify
from general_perf.job.job import Job
from general_perf.job.records import STAGES, Record

STARTED_ENV = "BMP_WORKER_STARTED_NS"
"""CLOCK_MONOTONIC of the moment the parent started this process."""


class Reporter:
    """One job's voice. `out` takes records and progress."""

    def __init__(self, job: Job, out: Callable[[Any], None]) -> None:
        self.job, self._out = job, out
        self.card = job.card
        self.began_ns = self._since_ns = int(os.environ.get(STARTED_ENV, time.monotonic_ns()))
        self.stages_s: dict[str, float] = {}
        self._current = "start"
        self.facts: dict[str, Any] = {"job": job.id, "attempt": job.attempt, "model": self.card.name, "backend": job.backend}
        self.facts |= {"precision": job.precision, "device": job.device}

    def say(self, record: Record) -> None:
        """Send one record to the parent."""
        self._out(record)

    def progress(self, latencies_ns: list[int]) -> None:
        """Latencies so far, for live metrics; not kept."""
        self._out({"stage": "progress", "latency_ns": latencies_ns})

    def at(self, stage: str) -> None:
        """Say which stage begins, so that the parent can name it when the process dies."""
        self._out({"stage": "begin", "name": stage})
        self._ended()
        self._current = stage

    def _ended(self) -> None:
        """Add the time since the last stage began to the stage that ran."""
        now = time.monotonic_ns()
        self.stages_s[self._current] = self.stages_s.get(self._current, 0.0) + (now - self._since_ns) / 1e9
        self._since_ns = now

    def record(self, stage: str, **fields: Any) -> Record:
        """A record of this job."""
        return STAGES[stage](**{**self.facts, "stage": stage, **fields})

    def failed(self, stage: str, error: BaseException, **fields: Any) -> None:
        """The record of a stage that went wrong; the library's own traceback goes to standard error."""
        traceback.print_exception(error)
        failure = classify(error, stage)
        what = {"status": failure.status, "error_class": failure.error_class, "reason": failure.reason, "fix": failure.fix}
        self.say(self.record(stage, **what, **fields))
