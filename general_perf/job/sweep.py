"""A sweep: jobs one after the other, each in a process of its own, each ending in a row. Resumable at any job."""

from __future__ import annotations

import re
import shutil
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from time import time_ns

import msgspec

from bytemlperf.command.live import LiveView
from bytemlperf.export.prometheus import Exporter, Family
from bytemlperf.runs.suite import SuiteRun
from general_perf.failures import ERROR_CLASSES, REFUSALS
from general_perf.job.child import Ended, run_job
from general_perf.job.records import NO_REFERENCE, Job, JobRecord, Message, facts_of

LATENCY = "bmp_general_inference_latency_seconds"
DONE = "bmp_general_jobs_total"
FAILED = "bmp_general_job_failure_total"
PLANNED = "bmp_general_jobs_planned"
COMPILE = "bmp_general_compile_duration_seconds"
MEMORY = "bmp_general_worker_memory_bytes"

FAMILIES = (
    Family(PLANNED, "gauge", "Jobs (model, backend, precision) of the sweep"),
    Family(DONE, "counter", "Jobs that ended, by status", "status", ("ok", "failed", "refused")),
    Family(FAILED, "counter", "Jobs that failed or were refused, by error class", "error_class", ERROR_CLASSES),
    Family(
        LATENCY,
        "histogram",
        "Latency of one call, closed loop from the call, open loop from when it was due",
        buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
    ),
    Family(COMPILE, "histogram", "Duration of a compilation", buckets=(0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)),
    Family(MEMORY, "gauge", "Peak resident memory of the last job's processes"),
)


WORK = "work"
Say = Callable[[str], None]


def run_sweep(
    run: SuiteRun, jobs: list[Job], time_limit_s: float, view: LiveView, exporter: Exporter, *, keep_artefacts: bool = False
) -> None:
    """Do every job that has no end yet, and keep its records. Raises UserError when the disk takes no more."""
    done: set[str] = set()
    attempts: defaultdict[str, int] = defaultdict(int)
    for record in run.records():
        attempts[record.job] = max(attempts[record.job], record.attempt)
        if isinstance(record, JobRecord):
            done.add(record.job)
    exporter.set(PLANNED, len(jobs))
    remaining = [job for job in jobs if job.id not in done]
    try:
        for number, job in enumerate(remaining, len(jobs) - len(remaining)):
            view.update(job.id, number)
            attempt = _Attempt(run, job, attempts[job.id] + 1, exporter)
            if job.failed is None:
                attempt.run(time_limit_s, view.note)
            view.note(f"[{number + 1}/{len(jobs)}] {job.id}: {attempt.end()}")
            if not keep_artefacts:
                shutil.rmtree(attempt.job.work, ignore_errors=True)
    finally:
        if not keep_artefacts:
            shutil.rmtree(run.folder / WORK, ignore_errors=True)


class _Attempt:
    """One attempt at a job: takes what its process says, and writes the end where the process can't."""

    def __init__(self, run: SuiteRun, job: Job, attempt: int, exporter: Exporter) -> None:
        self._run, self._exporter = run, exporter
        self.job = _placed(job, run.folder, attempt)
        self._end = JobRecord(**facts_of(self.job))
        if job.failed is not None:
            self._fail(*job.failed)

    def run(self, time_limit_s: float, say: Say) -> None:
        """Make the reference if need be, and run the job."""
        Path(self.job.work).mkdir(parents=True)
        self._reference_s = _reference(self.job, time_limit_s, say)
        self._worst: Message | None = None
        self._peak_bytes = 0
        log = Path(self.job.work) / "stderr.log"
        ended = run_job("job", self.job, time_limit_s, self._take, log)
        self._conclude(ended)
        if self._end.status != "ok":
            _keep_log(log, self._run.folder)

    def end(self) -> str:
        """Keep the job's record; how it ended, in words."""
        end = self._end
        self._run.append(end)
        self._exporter.count(DONE, label=end.status)
        if not end.error_class:
            return end.status
        self._exporter.count(FAILED, label=end.error_class)
        return f"{end.status}, {end.error_class}: {end.reason}"

    def _take(self, message: Message, line: bytes) -> None:
        if message.stage == "progress":
            self._exporter.observe(LATENCY, [value / 1e9 for value in message.latency_ns])
        elif message.stage == "job":
            self._end = msgspec.json.decode(line, type=JobRecord)
        else:
            if message.compile_s is not None:
                self._exporter.observe(COMPILE, [message.compile_s])
            self._peak_bytes = max(self._peak_bytes, message.peak_host_bytes or 0)  # between two looks at the tree
            if message.status != "ok" and self._worst is None:
                self._worst = message
            self._run.append(msgspec.Raw(line))

    def _conclude(self, ended: Ended) -> None:
        """The process's own end, with the first failure of its stages; or what ended the process."""
        end = self._end
        end.wall_s, end.ended_unix_ns = end.wall_s or ended.wall_s, time_ns()
        end.peak_tree_bytes = max(ended.peak_tree_bytes, self._peak_bytes)
        end.reference_s = self._reference_s
        if ended.error_class:
            self._fail(ended.error_class, ended.reason, ended.fix)
        elif self._worst is not None:
            worst = self._worst
            self._fail(worst.error_class, worst.reason, worst.fix)
        self._exporter.set(MEMORY, ended.peak_tree_bytes)

    def _fail(self, error_class: str, reason: str, fix: str) -> None:
        end = self._end
        end.status = "refused" if error_class in REFUSALS else "failed"
        end.error_class, end.reason, end.fix = error_class, reason, fix


def _reference(job: Job, time_limit_s: float, say: Say) -> float:
    """Make the model's reference outputs unless they are there, and say what it took, s; a failure is said and shows in
    the job's numerics."""
    folder = Path(job.reference)
    needed = "numerics" in job.stages or ("accuracy" in job.stages and job.card.dataset)
    if not needed or (folder / "done").exists():
        return 0.0
    folder.mkdir(parents=True, exist_ok=True)
    reasons: list[str] = []

    log = folder / "stderr.log"
    ended = run_job("reference", job, time_limit_s, lambda message, _line: reasons.append(message.reason), log)
    if why := "; ".join(filter(None, [*reasons, ended.reason])):
        say(f"the reference of {job.card.name} was not made: {why}")
        (folder / NO_REFERENCE).write_text(why, encoding="utf-8")
    (folder / "done").touch()
    return ended.wall_s


def _placed(job: Job, folder: Path, attempt: int) -> Job:
    """The job with its folders, absolute; its own is emptied of what an attempt before left."""
    names = (job.id, f"reference-{job.id.split('/')[0]}")
    work, reference = ((folder / WORK / re.sub(r"[^a-zA-Z0-9._-]+", "-", name)).absolute() for name in names)
    shutil.rmtree(work, ignore_errors=True)
    return msgspec.structs.replace(job, attempt=attempt, work=str(work), reference=str(reference))


def _keep_log(log: Path, folder: Path) -> None:
    """What the libraries printed of a job that went wrong stays in the run folder."""
    if log.exists() and log.stat().st_size:
        target = folder / "logs"
        with suppress(OSError):
            target.mkdir(exist_ok=True)
            shutil.copyfile(log, target / f"{log.parent.name}.log")
