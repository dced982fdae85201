"""Studies: several runs, each in a run folder of its own inside the study's, and a record of each.

`bmp train scale`: the same workload on more and more ranks. `strong` keeps the global batch, `weak` a rank's share. All runs
use as many threads a rank as the largest one can have, so that a rank does the same work everywhere; runs are repeated back
and forth, and their steps pooled. `bmp train drift`: the same workload and seed in several precisions, against the first of them.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from bytemlperf.child.limits import threads_for, usable_cores
from bytemlperf.command.console import sayer
from bytemlperf.errors import UserError
from bytemlperf.runs.records import RunRecords
from bytemlperf.runs.suite import SuiteRun
from training.command.run import Prepared, prepare, train
from training.plan.flags import Flags
from training.plan.plan import PACKAGES, check_flags, resolve_workload
from training.results.records import History, Record
from training.results.study_summary import CurveRecord, PointRecord
from training.results.summary import PHASES
from training.workload.choices import ScalingMode


def parse_counts(text: str) -> list[int]:
    """ "1,2,4" to numbers in order. Raises UserError."""
    try:
        counts = sorted({int(part) for part in text.split(",")})
    except ValueError:
        raise UserError(f"--nproc '{text}' can't be read", "give numbers of ranks, as 1,2,4") from None
    if not counts or counts[0] < 1:
        raise UserError(f"--nproc '{text}' has a number below 1", "give numbers of ranks, as 1,2,4")
    return counts


def point_flags(flags: Flags, counts: list[int], mode: ScalingMode, device_threads: int) -> list[Flags]:
    """Each run's flags. Raises UserError before anything starts."""
    workload = resolve_workload(flags)
    batch = workload.training.global_batch
    points = []
    for ranks in counts:
        share = batch * ranks if mode == "weak" else batch
        micro = flags.micro_batch or min(workload.training.micro_batch, max(1, share // ranks))
        point = flags.changed(nproc=ranks, dp=ranks, global_batch=share, micro_batch=micro, threads=device_threads, check_operators=False)
        check_flags(point, resolve_workload(point))
        points.append(point)
    return points


def run_scale(flags: Flags, nproc: str, mode: ScalingMode, repeats: int, argv: list[str]) -> tuple[Path, dict[str, Any]]:
    """Run the study; its folder and summary. Raises UserError."""
    counts = parse_counts(nproc)
    threads = flags.threads or threads_for(max(counts))
    runs = point_flags(flags, counts, mode, threads)
    first, *_ = [prepare(run) for run in runs]
    config = {
        "study": "scale",
        "mode": mode,
        "ranks": counts,
        "repeats": repeats,
        "threads": threads,
        "cores": usable_cores() if first.device.kind == "cpu" else None,
    }
    studied = [
        StudyRun(f"{run.nproc} rank{'s' * (run.nproc > 1)}, global batch {run.global_batch}", f"{run.nproc}-ranks", run)
        for run in there_and_back(runs, repeats)
    ]
    return run_study(first, studied, _point, argv, label=f"scale-{first.workload.name}-{flags.trainer}-{mode}", config=config)


def there_and_back(runs: list[Flags], repeats: int) -> list[Flags]:
    """Each run `repeats` times, in an order that a machine which grows slower or faster favours none: 1 2 4 4 2 1 1 2 4."""
    return [run for time in range(repeats) for run in (runs if time % 2 == 0 else runs[::-1])]


def _point(run: StudyRun, folder: Path, summary: dict[str, Any]) -> PointRecord:
    history = History(RunRecords(folder, Record))
    measured = history.measured
    parts = {name: statistics.fmean(ns for step in measured for ns in getattr(step, f"{name}_ns")) for name in PHASES} if measured else {}
    traffic = (
        [] if not history.traces else [(collective.op, collective.calls, collective.bytes) for collective in history.traces[-1].transfers]
    )
    return PointRecord(
        ranks=run.flags.nproc,
        run=folder.name,
        verdict=summary["verdict"],
        samples=run.flags.global_batch or 0,
        tokens=measured[0].tokens if measured else 0,
        step_ns=history.step_times_ns,
        parts_ns=parts,
        hidden_share=summary["split"].get("hidden_share"),
        traffic=traffic,
        alone=[
            (collective.op, collective.bytes, collective.bus_bytes, statistics.median(collective.ns)) for collective in history.collectives
        ],
        reasons=summary["reasons"],
    )


class StudyRun(NamedTuple):
    """One run of a study: what is said before it, the name of its folder, its flags."""

    title: str
    label: str
    flags: Flags


Recorded = Callable[[StudyRun, Path, dict[str, Any]], msgspec.Struct]
"""A run, its folder and its summary as the study's record."""


def run_study(
    first: Prepared, runs: Iterable[StudyRun], record: Recorded, argv: list[str], *, label: str, config: dict[str, Any]
) -> tuple[Path, dict[str, Any]]:
    """Run them all; the study's folder and summary. `first` is one of the runs, checked; `config` is what is the study's own."""
    flags, workload = first.flags, msgspec.to_builtins(first.workload)
    described = {"workload": workload, "trainer": flags.trainer, "sharding": flags.sharding, "device": first.device.kind, **config}
    more = {"trainer": flags.trainer, "beside": {"load_before": round(os.getloadavg()[0], 2)}}
    study = SuiteRun.begin(
        flags.runs_dir, "training", flags.label or label, described, command=argv, seed=flags.seed, packages=PACKAGES, more=more
    )
    say = sayer(quiet=flags.quiet)
    with study:
        for run in runs:
            say(run.title)
            study.append(record(run, *train(run.flags.changed(runs_dir=study.folder / "runs", label=run.label), argv)))
        return study.folder, study.end()


def run_drift(flags: Flags, precisions: str, argv: list[str]) -> tuple[Path, dict[str, Any]]:
    """Run the study; its folder and summary. Raises UserError."""
    names = [name.strip() for name in precisions.split(",")]
    if len(names) < 2 or len(set(names)) != len(names):
        raise UserError(f"--precision '{precisions}' has nothing to compare", "give two or more, the one to compare with first: fp32,bf16")
    runs = [StudyRun(name, name, flags.changed(precision=name, check_operators=False)) for name in names]
    first, *_ = [prepare(run.flags) for run in runs]
    config = {"study": "drift", "precisions": names, "layout": msgspec.to_builtins(first.layout)}
    return run_study(first, runs, _curve, argv, label=f"drift-{first.workload.name}-{flags.trainer}", config=config)


def _curve(run: StudyRun, folder: Path, summary: dict[str, Any]) -> CurveRecord:
    history = History(RunRecords(folder, Record))
    return CurveRecord(
        precision=run.label,
        run=folder.name,
        verdict=summary["verdict"],
        losses=history.losses,
        step_ns=history.step_times_ns,
        reasons=summary["reasons"],
    )
