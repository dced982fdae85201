"""`bmp train scale`: the same workload on more and more ranks. `strong` keeps the global batch, `weak` a rank's share.

Each run has its own run folder inside the study's; all use as many threads a rank as the largest one
can have, so that a rank does the same work everywhere. Runs are repeated back and forth, and their steps pooled.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from bytemlperf.errors import UserError
from bytemlperf.runs.records import RunRecords
from training.command.run import prepare
from training.plan.flags import Flags
from training.plan.plan import check_flags, default_threads, resolve_workload, usable_cores
from training.results.history import History
from training.results.records import Record
from training.results.study_records import PointRecord
from training.results.summary import PHASES
from training.studies.study import StudyRun, run_study
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
    found = []
    for ranks in counts:
        share = batch * ranks if mode == "weak" else batch
        micro = flags.micro_batch or min(workload.training.micro_batch, max(1, share // ranks))
        each = flags.changed(nproc=ranks, dp=ranks, global_batch=share, micro_batch=micro, threads=device_threads, check_operators=False)
        check_flags(each, resolve_workload(each))
        found.append(each)
    return found


def run_scale(flags: Flags, nproc: str, mode: ScalingMode, repeats: int, argv: list[str]) -> tuple[Path, dict[str, Any]]:
    """Run the study; its folder and summary. Raises UserError."""
    counts = parse_counts(nproc)
    threads = flags.threads or default_threads(max(counts))
    runs = point_flags(flags, counts, mode, threads)
    first, *_ = [prepare(each) for each in runs]
    config = {
        "study": "scale",
        "mode": mode,
        "ranks": counts,
        "repeats": repeats,
        "threads": threads,
        "cores": usable_cores() if first.device.kind == "cpu" else None,
    }
    studied = [
        StudyRun(f"{each.nproc} rank{'s' * (each.nproc > 1)}, global batch {each.global_batch}", f"{each.nproc}-ranks", each)
        for each in there_and_back(runs, repeats)
    ]
    return run_study(first, studied, _point, argv, label=f"scale-{first.workload.name}-{flags.trainer}-{mode}", config=config)


def there_and_back(runs: list[Flags], repeats: int) -> list[Flags]:
    """Each run `repeats` times, in an order that a machine which grows slower or faster favours none: 1 2 4 4 2 1 1 2 4."""
    return [each for time in range(repeats) for each in (runs if time % 2 == 0 else runs[::-1])]


def _point(run: StudyRun, folder: Path, summary: dict[str, Any]) -> PointRecord:
    history = History(RunRecords(folder, Record))
    measured = history.measured
    parts = {name: statistics.fmean(ns for step in measured for ns in getattr(step, f"{name}_ns")) for name in PHASES} if measured else {}
    traffic = [] if not history.traces else [(each.op, each.calls, each.bytes) for each in history.traces[-1].transfers]
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
        alone=[(each.op, each.bytes, each.bus_bytes, statistics.median(each.ns)) for each in history.collectives],
        reasons=summary["reasons"],
    )
