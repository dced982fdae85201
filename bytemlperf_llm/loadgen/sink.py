"""Where ended requests go: first into the log, then to the live metrics."""

from __future__ import annotations

from collections.abc import Callable

from bytemlperf.runs.log import LogFull, RecordLog
from bytemlperf_llm.live.metrics import LlmMetrics
from bytemlperf_llm.record.record import RequestRecord

MIN_ENDED_FOR_ERROR_RATE = 20  # fewer say nothing about a rate


class RecordSink:
    """A worker's sink. What ends the run early is kept in `failure`, the first reason alone."""

    def __init__(self, log: RecordLog, metrics: LlmMetrics, max_error_rate: float | None, stop: Callable[[], None]) -> None:
        self._log, self._metrics = log, metrics
        self._max_error_rate, self._stop = max_error_rate, stop
        self.started = metrics.started
        self.failure = ""

    def ended(self, record: RequestRecord) -> None:
        """Keep it, count it."""
        try:
            self._log.append(record)
        except LogFull as full:
            self.fail(f"records can no longer be written ({full}); what was written is kept")
        self._metrics.ended(record)
        if self._max_error_rate is not None and (reason := too_many_failures(self._metrics, self._max_error_rate)):
            self.fail(reason)

    def fail(self, reason: str) -> None:
        """End the run."""
        if not self.failure:
            self.failure = reason
            self._stop()


def too_many_failures(metrics: LlmMetrics, limit: float) -> str:
    """A sentence when more than `limit` (a share) of the ended requests have failed, else nothing."""
    failed, ended = metrics.failed_requests, metrics.ended_requests
    if ended < MIN_ENDED_FOR_ERROR_RATE or failed <= limit * ended:
        return ""
    return f"{failed} of {ended} requests failed, more than --max-error-rate {limit:g} allows"
