"""The measured part of one worker: its requests, its log, its event loop's busy share.

The same code runs in the command's own process, when there is one worker, and in each member of a
fleet (`fleet.Fleet` has the same methods).
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from bytemlperf.errors import UserError
from bytemlperf.redaction import Redactor
from bytemlperf.runs.log import LogFull, RecordLog
from bytemlperf.units import NS_PER_S
from bytemlperf_llm.live.metrics import LlmMetrics
from bytemlperf_llm.loadgen.answer_sample import AnswerSample
from bytemlperf_llm.loadgen.deadlines import Timeouts
from bytemlperf_llm.loadgen.pacer import Pacer
from bytemlperf_llm.loadgen.recorder import monotonic_ns
from bytemlperf_llm.loadgen.sessions import SessionWork, SessionWorker
from bytemlperf_llm.loadgen.worker import Worker, WorkerConfig
from bytemlperf_llm.metrics.recount import Counted
from bytemlperf_llm.plan.scenario import Scenario
from bytemlperf_llm.record.record import RequestRecord
from bytemlperf_llm.workload.prefixes import Prefix
from bytemlperf_llm.workload.schedule import Planned, PlannedSession, Remaining, Schedule, Share
from bytemlperf_llm.workload.trace_prompts import TraceEnded
from engines.contract import Engine

START_DELAY_NS = 50_000_000  # between the last preparation and the first planned instant
GC_THRESHOLD = 50_000  # young objects between collections; a request in flight is a few dozen
READY_TURNS = 10_000
MIN_ENDED_FOR_ERROR_RATE = 20  # fewer say nothing about a rate


class Work(NamedTuple):
    """What one worker does: its requests, or sessions. `concurrency` (of sessions: users) is None in open loop; `until_ns` (from the
    origin) ends a closed one, which sends so many `together` and waits for all of them. `prefix` tells what of a single request was in an
    earlier one, in the order of the schedule."""

    planned: Iterator[Planned]
    concurrency: int | None = None
    until_ns: int | None = None
    together: bool = False
    sessions: SessionWork | None = None
    prefix: Callable[[int], Prefix | None] | None = None


def ready_ahead(planned: Iterator[PlannedSession]) -> Iterator[PlannedSession]:
    """The same sessions, the first `READY_TURNS` turns' of them compiled by now: what is made later is made between reads."""
    ready, turns = [], 0
    while turns < READY_TURNS and (session := next(planned, None)) is not None:
        ready.append(session)
        turns += len(session.session.turns)
    return chain(ready, planned)


def work_of(schedule: Schedule, share: Share, left: Remaining | None = None) -> Work:
    """The work of one worker of a resolved scenario, or what is left of it. Raises UserError."""
    scenario, workload = schedule.scenario, schedule.workload()
    planned, keys = schedule.planned(share, left, workload), scenario.prompts.sessions
    sessions = None if keys is None else SessionWork(schedule.sessions(share, workload, left), workload.turn, keys.answers)
    prefix = workload.prefix if keys is None else None
    if scenario.arrival.process != "closed":
        return Work(planned, sessions=sessions, prefix=prefix)
    assert scenario.arrival.max_concurrency is not None
    until_ns = None if scenario.duration_s is None else round(scenario.duration_s * NS_PER_S)
    return Work(planned, share.of(scenario.arrival.max_concurrency), until_ns, scenario.mlperf == "multi_stream", sessions, prefix)


def worker_config(scenario: Scenario, share: Share, *, keep_output: bool) -> WorkerConfig:
    """Limits of one worker; a cap on concurrency is shared out."""
    limits, cap = scenario.timeouts, scenario.arrival.max_concurrency
    seconds = (limits.connect_s, limits.first_token_s, limits.idle_s, limits.total_s)
    return WorkerConfig(
        timeouts=Timeouts(*(round(value * NS_PER_S) for value in seconds)),
        max_concurrency=None if cap is None or scenario.arrival.process == "closed" else share.of(cap),
        drain_ns=round(scenario.drain_s * NS_PER_S),
        keep_output=keep_output,
        worker=share.worker,
    )


class RecordSink:
    """Where requests end: first in the log, then in the live metrics. What ends the run early is in `failure`, the first reason alone."""

    def __init__(self, log: RecordLog, metrics: LlmMetrics, max_error_rate: float | None, stop: Callable[[], None]) -> None:
        self._log, self._metrics = log, metrics
        self._max_error_rate, self._stop = max_error_rate, stop
        self.started = metrics.started
        self.failure = ""

    def ended(self, record: RequestRecord) -> None:
        """Keep it, count it."""
        try:
            record.log(self._log.append)
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


class Replay:
    """One worker on this process's event loop. Make it inside the running loop. `start_delay_ns` is from the call of `replay` to the
    origin, so that the first request isn't late; `loop_utilisation` the busy share of the event loop over the measured part, with the
    thread that reads for it; `counted` the answers whose tokens were counted again."""

    start_delay_ns = START_DELAY_NS

    def __init__(
        self,
        engine: Engine,
        pacer: Pacer,
        log: RecordLog,
        metrics: LlmMetrics,
        work: Work,
        config: WorkerConfig,
        *,
        max_error_rate: float | None = None,
        redactor: Redactor | None = None,
        tokenizer: str | None = None,
    ) -> None:
        self._log, self._work = log, work
        self._tokenizer = tokenizer
        self._reading_ns: Callable[[], int] = getattr(engine, "reading_ns", int)  # int() is 0: no thread reads
        self._sample = None if tokenizer is None else AnswerSample(seed=config.worker)
        self.counted: list[Counted] = []
        self._sink = RecordSink(log, metrics, max_error_rate, self.stop)
        hears = None if self._sample is None else self._sample.add
        worker_type = Worker if work.sessions is None else SessionWorker
        self._worker = worker_type(engine, self._sink, pacer, config, redactor=redactor, hears=hears)
        metrics.unsettled = lambda: self._worker.unsettled
        self.loop_utilisation = 0.0

    async def start(self) -> None:
        """Make ready; returns when `replay` can begin at once. Raises UserError."""
        if self._work.prefix is not None:
            with suppress(TraceEnded):
                self._work.prefix(0)  # what it looks up takes a moment to make
        if self._work.sessions is not None:
            sessions = self._work.sessions._replace(planned=ready_ahead(self._work.sessions.planned))
            self._work = self._work._replace(sessions=sessions)
        settle_garbage()

    async def replay(self, origin_ns: int) -> None:
        """Send everything, wait for the answers; `origin_ns` is zero of the schedule."""
        syncing = asyncio.ensure_future(self._log.sync_forever(self._sink.fail))
        busy_ns, wall_ns = self._busy_ns(), monotonic_ns()
        try:
            await self._send(origin_ns)
        finally:
            self.loop_utilisation = (self._busy_ns() - busy_ns) / max(monotonic_ns() - wall_ns, 1)
            syncing.cancel()
            await asyncio.gather(syncing, return_exceptions=True)
        if self._sample is not None and self._tokenizer is not None:
            self.counted = [self._sample.counted(self._tokenizer)]

    def _busy_ns(self) -> int:
        """Processor time that sending and reading have taken."""
        return time.thread_time_ns() + self._reading_ns()

    async def _send(self, origin_ns: int) -> None:
        planned, concurrency, until_ns, together, sessions, prefix = self._work
        end_ns = None if until_ns is None else origin_ns + until_ns
        if sessions is not None and isinstance(self._worker, SessionWorker):
            await self._worker.run_sessions(sessions, origin_ns, concurrency, end_ns)
            return
        planned = planned if prefix is None else self._noted(planned, prefix)
        if concurrency is None:
            await self._worker.run_open(planned, origin_ns)
            return
        await self._worker.run_closed((each.request for each in planned), concurrency, origin_ns, end_ns, together=together)

    def _noted(self, planned: Iterator[Planned], prefix: Callable[[int], Prefix | None]) -> Iterator[Planned]:
        for each in planned:
            self._worker.prefixes[each.request.index] = prefix(each.request.index)
            yield each

    def stop(self) -> None:
        """Send nothing more; what is in flight may finish within the drain limit."""
        self._worker.stop()

    def finish(self) -> None:
        """Begin nothing more; sessions that have begun go on to their end."""
        self._worker.finish()

    @property
    def stopped(self) -> bool:
        return self._worker.stopped

    @property
    def issued(self) -> int:
        """Requests taken from the schedule so far."""
        return self._worker.issued

    @property
    def failure(self) -> str:
        """Why the run is invalid; empty where nothing went wrong."""
        return self._sink.failure

    def described(self) -> list[dict[str, Any]]:
        """What run.json says of each worker; nothing of a single one in this process."""
        return []

    async def close(self) -> None:
        with suppress(OSError):
            self._log.close()


def open_log(path: Path) -> RecordLog:
    """A new record log. Raises UserError."""
    try:
        return RecordLog(path)
    except OSError as error:
        raise UserError(f"can't write {path}: {error.strerror}", "give a folder with enough space with --runs-dir") from None


def settle_garbage() -> None:
    """What exists by now stays: keep the collector from walking it again in mid-run."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)
