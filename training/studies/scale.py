"""`bmp train scale`: the same workload on more and more ranks. `strong` keeps the global batch, `weak` a rank's share.

Each run has its own run folder inside the study's; all use as many threads a rank as the largest one
can have, so that a rank does the same work everywhere. Runs are repeated back and forth, and their steps pooled.
"""

from __future__ import annotations

import os
import statistics
from pathlib import Path
from typing import Any

import msgspec

from bytemlperf.command.console import terminal
from bytemlperf.errors import UserError
from bytemlperf.runs.folder import read_run_json
from bytemlperf.runs.records import RunRecords
from bytemlperf.runs.suite import SuiteRun
from training.command.run import PACKAGES, prepare, train
from training.plan.flags import Flags
from training.plan.plan import check_flags, default_threads, resolve_workload, usable_cores
from training.results.history import History
from training.results.study_records import PointRecord
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
    prepared = [prepare(each) for each in runs]
    device = prepared[0].device.kind
    config = {
        "study": "scale",
        "mode": mode,
        "workload": msgspec.to_builtins(prepared[0].workload),
        "trainer": flags.trainer,
        "sharding": flags.sharding,
        "ranks": counts,
        "repeats": repeats,
        "threads": threads,
        "cores": usable_cores() if device == "cpu" else None,
        "device": device,
    }
    label = flags.label or f"scale-{prepared[0].workload.name}-{flags.trainer}-{mode}"
    more = {"trainer": flags.trainer, "beside": {"load_before": round(os.getloadavg()[0], 2)}}
    study = SuiteRun.begin(flags.runs_dir, "training", label, config, command=argv, seed=flags.seed, packages=PACKAGES, more=more)
    console = terminal(stderr=True)
    with study:
        for each in there_and_back(runs, repeats):
            if not flags.quiet:
                console.print(
                    f"[bold]{each.nproc} rank{'' if each.nproc == 1 else 's'}[/], global batch {each.global_batch}", highlight=False
                )
            folder, _ = train(each.changed(runs_dir=study.folder / "runs", label=f"{each.nproc}-ranks"), argv)
            study.append(point_of(folder, each.nproc))
        summary = study.end()
    return study.folder, summary


def there_and_back(runs: list[Flags], repeats: int) -> list[Flags]:
    """Each run `repeats` times, in an order that a machine which grows slower or faster favours none: 1 2 4 4 2 1 1 2 4."""
    return [each for time in range(repeats) for each in (runs if time % 2 == 0 else runs[::-1])]


def point_of(folder: Path, ranks: int) -> PointRecord:
    """A finished run as a point."""
    from bytemlperf.runs.suite import summarise_suite

    run = read_run_json(folder)
    summary, history = summarise_suite(folder, run), History(RunRecords(folder))
    measured = history.measured
    parts = {name: statistics.fmean(ns for step in measured for ns in getattr(step, f"{name}_ns")) for name in PHASES} if measured else {}
    traffic = [] if not history.traces else [(each.op, each.calls, each.bytes) for each in history.traces[-1].transfers]
    return PointRecord(
        ranks=ranks,
        run=folder.name,
        verdict=summary["verdict"],
        samples=run["config"]["workload"]["training"]["global_batch"],
        tokens=measured[0].tokens if measured else 0,
        step_ns=history.step_times_ns,
        parts_ns=parts,
        hidden_share=summary["split"].get("hidden_share"),
        traffic=traffic,
        alone=[(each.op, each.bytes, each.bus_bytes, statistics.median(each.ns)) for each in history.collectives],
        reasons=summary["reasons"],
    )
