"""A job's own process: started, watched, ended at its limits. A crash or a hang ends nothing but the job.

`Reporter` is its own side: what a stage of it tells the parent, which stage runs, its records, its failures.
"""

from __future__ import annotations

import os
import signal
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import msgspec

from bytemlperf.child.limits import tree_bytes
from bytemlperf.child.process import OFFLINE, Child, environment, signal_name
from general_perf.failures import ErrorClass, classify
from general_perf.job.records import STAGES, Job, Message, Record, facts_of

POLL_S = 0.25


OnMessage = Callable[[Message, bytes], None]
"""Takes a message, and the line that it is of."""


class Ended(NamedTuple):
    """How a process ended. `error_class` is empty where it ended by itself and well."""

    error_class: ErrorClass | Literal[""]
    reason: str
    fix: str
    peak_tree_bytes: int
    wall_s: float


def run_job(what: str, job: Job, time_limit_s: float, on_message: OnMessage, stderr: Path) -> Ended:
    """Run `python -m general_perf.job.worker what` on the job. `on_message` gets every record and progress message as it comes.

    Whatever happens the process and its children are gone afterwards, on KeyboardInterrupt too.
    """
    stderr.parent.mkdir(parents=True, exist_ok=True)
    arguments = ["-X", "faulthandler", "-m", "general_perf.job.worker", what]  # a crash leaves its stack in the log
    with stderr.open("w+b") as log, Child(arguments, _environment(job), log) as child:
        child.send(msgspec.json.encode(job), last=True)
        return _watched(child, job, time_limit_s, on_message)


def _watched(child: Child, job: Job, time_limit_s: float, on_message: OnMessage) -> Ended:
    began, stage, peak = time.monotonic(), "start", 0
    decode = msgspec.json.Decoder(Message).decode

    def ended(error_class: ErrorClass | Literal[""], cause: str = "", fix: str = "") -> Ended:
        reason = f"in {stage}{cause}" if error_class else ""
        return Ended(error_class, reason, fix, peak, time.monotonic() - began)

    while True:
        try:
            line = child.line(time.monotonic() + POLL_S)
        except TimeoutError:
            line = b""
        if line is None:
            break
        if line:
            message = decode(line)
            if message.stage == "begin":
                stage = message.name
            else:
                on_message(message, line)
        used = tree_bytes(child.pid)
        peak = max(peak, used)
        if used > job.memory_limit_bytes:
            cause = f" it took {used / 2**30:.1f} GiB, over the limit of {job.memory_limit_bytes / 2**30:.1f} GiB"
            return ended("out_of_memory", cause, "use a smaller batch or --size small, or raise --memory-limit")
        if time.monotonic() - began > time_limit_s:
            return ended("time_limit", f" after {time_limit_s:g} s", "raise --time-limit, or take --size small")
    status = child.status()
    if status == 0:
        return ended("")
    cause, fix = _death(status, child.last_words())
    return ended("crashed", f": {cause}", fix)


def _environment(job: Job) -> dict[str, str]:
    more = {"TOKENIZERS_PARALLELISM": "false", "DO_NOT_TRACK": "1", STARTED_ENV: str(time.monotonic_ns())}
    return environment({**OFFLINE, **more}, job.threads)


def _death(status: int | None, words: str) -> tuple[str, str]:
    """What ended the process, and the fix. Only a process that printed something leaves a log."""
    if status is None:
        return "it closed its output and did not exit", "run it again"
    if -status == signal.SIGKILL:
        fix = "if memory ran out, use a smaller batch or --size small; if it was killed on purpose, run it again"
        return "killed by SIGKILL (the kernel does so when memory runs out)", fix
    fix = "see the run folder's log of this job" if words else "use another backend or precision, or run it again"
    return f"killed by {signal_name(-status)}" if status < 0 else words or "no message", fix


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
        return kind(**facts_of(self.job), **fields)

    def failure(self, stage: str, error: BaseException, **fields: Any) -> Record:
        """The record of a stage that went wrong; the library's own traceback goes to standard error."""
        traceback.print_exception(error)
        return self.record(STAGES[stage], **classify(error, stage)._asdict(), **fields)
