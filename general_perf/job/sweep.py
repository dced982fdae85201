"""A sweep: jobs one after the other, each in a process of its own, each ending in a row. Resumable at any job."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from bytemlperf.command.live import LiveView
from bytemlperf.export.prometheus import Exporter
from bytemlperf.runs.suite import SuiteRun
from general_perf.failures import REFUSALS
from general_perf.job import live
from general_perf.job.child import Ended, run_job
from general_perf.job.job import NO_REFERENCE, Job
from general_perf.job.records import JobRecord, Status

WORK = "work"
Say = Callable[[str], None]


def run_sweep(
    run: SuiteRun, jobs: list[Job], time_limit_s: float, view: LiveView, exporter: Exporter, *, keep_artefacts: bool = False
) -> None:
    """Do every job that has no end yet, and keep its records. Raises UserError when the disk takes no more."""
    done = {str(record["job"]) for record in run.records() if record["stage"] == "job"}
    attempts = _attempts(run.records())
    exporter.set(live.PLANNED, len(jobs))
    left = [job for job in jobs if job.id not in done]
    try:
        for place, job in enumerate(left, len(jobs) - len(left)):
            view.update(job.id, place)
            if job.failed is not None:
                view.note(f"[{place + 1}/{len(jobs)}] {job.id}: {_failed(run, job, attempts.get(job.id, 0) + 1, exporter)}")
                continue
            placed = _placed(job, run.folder, attempts.get(job.id, 0) + 1)
            reference_s = _reference(placed, time_limit_s, view.note)
            ended = _Recorder(run, placed, exporter, reference_s).run(time_limit_s)
            view.note(f"[{place + 1}/{len(jobs)}] {job.id}: {ended}")
            if not keep_artefacts:
                shutil.rmtree(placed.work, ignore_errors=True)
    finally:
        if not keep_artefacts:
            shutil.rmtree(run.folder / WORK, ignore_errors=True)


def _failed(run: SuiteRun, job: Job, attempt: int, exporter: Exporter) -> str:
    """Keep the end of a job whose failure is known beforehand; in words."""
    assert job.failed is not None
    error_class, reason, fix = job.failed
    status: Status = "refused" if error_class in REFUSALS else "failed"
    end = msgspec.structs.replace(_end(job, attempt), status=status, error_class=error_class, reason=reason, fix=fix)
    run.append(msgspec.to_builtins(end))
    exporter.count(live.DONE, label=status)
    exporter.count(live.FAILED, label=error_class)
    return f"{status}, {error_class}: {reason}"


def _end(job: Job, attempt: int, wall_s: float = 0.0) -> JobRecord:
    model = job.card.name
    facts: dict[str, Any] = {"backend": job.backend, "precision": job.precision, "device": job.device, "stage": "job", "wall_s": wall_s}
    return JobRecord(job=job.id, attempt=attempt, model=model, **facts)


class _Recorder:
    """Takes what a job's process says, and writes the end where the process can't."""

    def __init__(self, run: SuiteRun, job: Job, exporter: Exporter, reference_s: float) -> None:
        self._run, self._job, self._exporter = run, job, exporter
        self._reference_s = reference_s
        self._worst: dict[str, Any] = {}
        self._peak_bytes = 0
        self._end: dict[str, Any] | None = None

    def run(self, time_limit_s: float) -> str:
        """Run the job; how it ended, in words."""
        log = Path(self._job.work) / "stderr.log"
        ended = run_job("job", self._job, time_limit_s, self._take, log)
        record = self._ending(ended)
        self._run.append(record)
        self._count(record, ended)
        if record["status"] != "ok":
            _keep_log(log, self._run.folder, self._job)
        return str(record["status"]) + (f", {record['error_class']}: {record['reason']}" if record["error_class"] else "")

    def _take(self, message: dict[str, Any]) -> None:
        stage = message.get("stage")
        if stage == "progress":
            self._exporter.observe(live.LATENCY, [value / 1e9 for value in message["latency_ns"]])
            return
        if stage == "job":
            self._end = message
            return
        if stage == "compile" and message.get("compile_s") is not None:
            self._exporter.observe(live.COMPILE, [message["compile_s"]])
        self._peak_bytes = max(self._peak_bytes, message.get("peak_host_bytes") or 0)  # between two looks at the tree
        if message.get("status") != "ok" and not self._worst:
            self._worst = message
        self._run.append(message)

    def _ending(self, ended: Ended) -> dict[str, Any]:
        """The job's record: the process's own, with the first failure of its stages; or what ended the process."""
        job = self._job
        end = self._end or msgspec.to_builtins(_end(job, job.attempt, ended.wall_s))
        end["peak_tree_bytes"] = max(ended.peak_tree_bytes, self._peak_bytes)
        end["reference_s"] = self._reference_s
        if ended.error_class:
            end |= {"status": "failed", "error_class": ended.error_class, "reason": ended.reason, "fix": ended.fix}
        elif self._worst:
            end |= {key: self._worst[key] for key in ("status", "error_class", "reason", "fix")}
        return dict(end)

    def _count(self, record: dict[str, Any], ended: Ended) -> None:
        self._exporter.count(live.DONE, label=str(record["status"]))
        if record["error_class"]:
            self._exporter.count(live.FAILED, label=str(record["error_class"]))
        self._exporter.set(live.MEMORY, ended.peak_tree_bytes)


def _reference(job: Job, time_limit_s: float, say: Say) -> float:
    """Make the model's reference outputs unless they are there, and say what it took, s; a failure is said and shows in
    the job's numerics."""
    folder = Path(job.reference)
    wanted = "numerics" in job.stages or ("accuracy" in job.stages and job.card.dataset)
    if not wanted or (folder / "done").exists():
        return 0.0
    folder.mkdir(parents=True, exist_ok=True)
    failures: list[str] = []
    ended = run_job("reference", job, time_limit_s, lambda message: failures.append(str(message.get("reason"))), folder / "stderr.log")
    if ended.error_class or failures:
        why = "; ".join(filter(None, [*failures, ended.reason]))
        say(f"the reference of {job.card.name} was not made: {why}")
        (folder / NO_REFERENCE).write_text(why, encoding="utf-8")
    (folder / "done").touch()
    return ended.wall_s


def _placed(job: Job, folder: Path, attempt: int) -> Job:
    """The job with its folders, absolute; emptied of what an attempt before left."""
    slug = re.sub(r"[^a-zA-Z0-9._-]+", "-", job.id)
    work = (folder / WORK / slug).absolute()
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    model = re.sub(r"[^a-zA-Z0-9._-]+", "-", job.id.split("/")[0])
    reference = (folder / WORK / f"reference-{model}").absolute()
    return msgspec.structs.replace(job, attempt=attempt, work=str(work), reference=str(reference))


def _attempts(records: Iterable[dict[str, Any]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for record in records:
        found[str(record["job"])] = max(found.get(str(record["job"]), 0), int(record["attempt"]))
    return found


def _keep_log(log: Path, folder: Path, job: Job) -> None:
    """What the libraries printed of a job that went wrong stays in the run folder."""
    if job.backend and log.exists() and log.stat().st_size:
        target = folder / "logs"
        with suppress(OSError):
            target.mkdir(exist_ok=True)
            shutil.copyfile(log, target / f"{log.parent.name}.log")


def refused(record: dict[str, Any]) -> bool:
    """Whether a job's end says that the backend doesn't offer it, as against failing at it."""
    return str(record.get("error_class")) in REFUSALS
