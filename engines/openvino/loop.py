"""The thread that steps an OpenVINO GenAI pipeline.

One loop: take in what has come (new requests, cancellations), step, hand over what the step made.
The pipeline is touched by this thread alone. With nothing to do it waits for its inbox.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any

import msgspec

from engines.contract import EngineError, Finish, Usage
from engines.inprocess import Stream, post

PERCENT = 100.0
STOPPED = "the OpenVINO thread has stopped"
NO_ROOM = "the KV cache is too small for this request: give --engine-option kv_cache_space_gib=2 or more"


class Job(msgspec.Struct, kw_only=True):
    """One request on its way through the pipeline."""

    number: int
    input_ids: Any
    prompt_tokens: int
    config: Any
    stream: Stream
    handle: Any = None
    output_tokens: int = 0
    cancelled: bool = False


Delivery = tuple[Job, list[int], Finish | EngineError | None]
"""What one step made of one request: new token ids, and how it ended if it did."""


class StepLoop:
    """Owns the pipeline and its thread."""

    def __init__(self, pipeline: Any, loop: asyncio.AbstractEventLoop) -> None:
        self.stats: dict[str, float] = {}
        self._pipeline = pipeline
        self._loop = loop
        self._inbox: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._active: dict[int, Job] = {}
        self._count = 0
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="openvino-step", daemon=True)
        self._thread.start()

    def submit(self, input_ids: Any, prompt_tokens: int, config: Any, stream: Stream) -> Callable[[], None]:
        """Queue a request; call on the event loop. Returns its cancel. Raises EngineError once stopped."""
        if self._stopped:
            raise EngineError("engine_failed", STOPPED)
        self._count += 1
        job = Job(number=self._count, input_ids=input_ids, prompt_tokens=prompt_tokens, config=config, stream=stream)
        self._inbox.put(job)
        if self._stopped:  # the thread may have emptied its inbox just before
            stream.fail("engine_failed", STOPPED)
        return lambda: setattr(job, "cancelled", True)

    def stop(self) -> None:
        """End the thread; what was unfinished fails. Blocks for at most one step."""
        self._stopped = True
        self._inbox.put(None)
        self._thread.join()

    def _run(self) -> None:
        reason = STOPPED
        try:
            while self._take_in():
                self._drop_cancelled()
                self._pipeline.step()
                self._hand_over()
        except Exception as error:  # the pipeline is unusable: every request in it fails with its words
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        self._stopped = True
        self._fail_all(reason)

    def _take_in(self) -> bool:
        """Add what has come, waiting when there is nothing to step. False: the end was asked for."""
        while True:
            try:
                job = self._inbox.get(block=not self._active)
            except queue.Empty:
                return True
            if job is None:
                return False
            if not job.cancelled:
                self._add(job)

    def _add(self, job: Job) -> None:
        try:
            job.handle = self._pipeline.add_request(job.number, job.input_ids, job.config)
        except Exception as error:  # refused before it ran: this request's failure alone
            post(self._loop, job.stream.fail, "engine_failed", f"{type(error).__name__}: {error}")
            return
        self._active[job.number] = job

    def _drop_cancelled(self) -> None:
        for job in [job for job in self._active.values() if job.cancelled]:
            job.handle.cancel()
            del self._active[job.number]

    def _hand_over(self) -> None:
        deliveries = [delivery for job in self._active.values() if (delivery := self._read(job)) is not None]
        if deliveries:
            post(self._loop, deliver, deliveries)
        for job, _token_ids, end in deliveries:
            if end is not None:
                del self._active[job.number]
        self._note_stats()

    def _read(self, job: Job) -> Delivery | None:
        running = job.handle.get_status().name == "RUNNING"
        token_ids: list[int] = []
        reason = ""
        while job.handle.can_read():
            for output in job.handle.read().values():
                token_ids.extend(output.generated_ids)
                reason = output.finish_reason.name.lower()
        job.output_tokens += len(token_ids)
        if running:
            return (job, token_ids, None) if token_ids else None
        return job, token_ids, self._end_of(job, reason)

    def _end_of(self, job: Job, reason: str) -> Finish | EngineError:
        if job.handle.get_status().name == "IGNORED":
            return EngineError("engine_failed", NO_ROOM)
        usage = Usage(prompt_tokens=job.prompt_tokens, output_tokens=job.output_tokens)
        return Finish(reason=reason or None, usage=usage)

    def _note_stats(self) -> None:
        metrics = self._pipeline.get_metrics()
        running = min(metrics.scheduled_requests, len(self._active))
        self.stats = {
            "running": float(running),
            "waiting": float(len(self._active) - running),
            "kv_cache_usage": metrics.cache_usage / PERCENT,
            "kv_cache_usage_max": metrics.max_cache_usage / PERCENT,
        }

    def _fail_all(self, reason: str) -> None:
        jobs = list(self._active.values())
        self._active.clear()
        while True:
            try:
                waiting = self._inbox.get_nowait()
            except queue.Empty:
                break
            if waiting is not None:
                jobs.append(waiting)
        for job in jobs:
            post(self._loop, job.stream.fail, "engine_failed", reason)


def deliver(deliveries: list[Delivery]) -> None:
    """Runs on the event loop: first every stamp of the step, then the ends."""
    for job, token_ids, _end in deliveries:
        if token_ids:
            job.stream.chunk(token_ids)
    for job, _token_ids, end in deliveries:
        if isinstance(end, EngineError):
            job.stream.fail(end.error_class, end.detail)
        elif end is not None:
            job.stream.finish(end)
