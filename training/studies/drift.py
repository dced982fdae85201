"""`bmp train drift`: the same workload and seed in several precisions, against the first of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from bytemlperf.errors import UserError
from bytemlperf.runs.records import RunRecords
from training.command.run import prepare
from training.plan.flags import Flags
from training.results.history import History
from training.results.records import Record
from training.results.study_records import CurveRecord
from training.studies.study import StudyRun, run_study


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
