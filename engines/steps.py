"""The thread that steps an engine which runs many requests together, or in turn.

One loop: take in what has come (new requests, cancellations), step, hand over what the step made. What generates (`Stepper`) is touched by
this thread alone. With nothing to do it waits for its inbox.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from engines.contract import EngineError, Finish, Request
from engines.inprocess import InProcessEngine, Stream, post


class Job(msgspec.Struct, kw_only=True):
    """One request on its way. `handle` is the stepper's own."""

    number: int
    prompt: Any
    prompt_tokens: int
    request: Request
    stream: Stream
    handle: Any = None
    output_tokens: int = 0
    cancelled: bool = False


Made = tuple[list[int], Finish | EngineError | None]
"""What one step made of one request: new token ids, and how it ended if it did."""


class Stepper(Protocol):
    """What generates. Whatever `add` raises is that request's failure, whatever `step` raises is everyone's."""

    def add(self, job: Job) -> None:
        """Take a request in."""

    def step(self) -> None:
        """Compute for a moment."""

    def read(self, job: Job) -> Made | None:
        """What has come of it since the last read; None for nothing. Not asked again once it has ended."""

    def drop(self, job: Job) -> None:
        """It was cancelled, or has ended."""

    def stats(self, active: int) -> dict[str, float]:
        """Gauges; `active` requests are in here."""


class StepLoop:
    """Owns a stepper and its thread. `title` is of messages."""

    def __init__(self, stepper: Stepper, loop: asyncio.AbstractEventLoop, title: str) -> None:
        self.stats: dict[str, float] = {}
        self.stepper, self._loop = stepper, loop
        self._stopped_text = f"the {title} thread has stopped"
        self._inbox: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._active: dict[int, Job] = {}
        self._count = 0
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name=f"{title}-step", daemon=True)
        self._thread.start()

    def submit(self, prompt: Any, prompt_tokens: int, request: Request, stream: Stream) -> Callable[[], None]:
        """Queue a request; call on the event loop. Returns its cancel. Raises EngineError once stopped."""
        if self._stopped:
            raise EngineError("engine_failed", self._stopped_text)
        self._count += 1
        job = Job(number=self._count, prompt=prompt, prompt_tokens=prompt_tokens, request=request, stream=stream)
        self._inbox.put(job)
        if self._stopped:  # the thread may have emptied its inbox just before
            stream.fail("engine_failed", self._stopped_text)
        return lambda: setattr(job, "cancelled", True)

    def stop(self) -> None:
        """End the thread; what was unfinished fails. Blocks for at most one step."""
        self._stopped = True
        self._inbox.put(None)
        self._thread.join()

    def _run(self) -> None:
        reason = self._stopped_text
        try:
            while self._take_in():
                self._drop_cancelled()
                if self._active:
                    self.stepper.step()
                self._hand_over()
        except Exception as error:  # it is unusable: every request in it fails with its words
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
            self.stepper.add(job)
        except Exception as error:  # refused before it ran: this request's failure alone
            post(self._loop, job.stream.fail, "engine_failed", f"{type(error).__name__}: {error}")
            return
        self._active[job.number] = job

    def _drop_cancelled(self) -> None:
        for job in [job for job in self._active.values() if job.cancelled]:
            self._drop(job)

    def _drop(self, job: Job) -> None:
        self.stepper.drop(job)
        del self._active[job.number]

    def _hand_over(self) -> None:
        made = [(job, *made) for job in self._active.values() if (made := self.stepper.read(job)) is not None]
        if made:
            post(self._loop, deliver, made)
        for job, token_ids, end in made:
            job.output_tokens += len(token_ids)
            if end is not None:
                self._drop(job)
        self.stats = self.stepper.stats(len(self._active))

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


def deliver(made: list[tuple[Job, list[int], Finish | EngineError | None]]) -> None:
    """Runs on the event loop: first every stamp of the step, then the ends."""
    for job, token_ids, _end in made:
        if token_ids:
            job.stream.chunk(token_ids)
    for job, _token_ids, end in made:
        if isinstance(end, EngineError):
            job.stream.fail(end.error_class, end.detail)
        elif end is not None:
            job.stream.finish(end)


class SteppedEngine(InProcessEngine):
    """An engine whose `_build` gives a StepLoop."""

    def _submit(self, request: Request, prompt: Any, stream: Stream) -> Callable[[], None]:
        assert self._tokenizer is not None
        cancel: Callable[[], None] = self._runner.submit(prompt, self._tokenizer.count(prompt), request, stream)
        return cancel

    def stats(self) -> dict[str, float]:
        """As of the last step, as the stepper tells it."""
        return dict(self._runner.stats) if self._runner is not None else {}
