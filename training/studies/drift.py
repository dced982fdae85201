"""`bmp train drift`: the same workload and seed in several precisions, against the first of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from bytemlperf.command.console import terminal
from bytemlperf.errors import UserError
from bytemlperf.runs.records import RunRecords
from bytemlperf.runs.suite import SuiteRun
from training.command.run import PACKAGES, prepare, train
from training.plan.flags import Flags
from training.results.history import History
from training.results.study_records import CurveRecord


def run_drift(flags: Flags, precisions: str, argv: list[str]) -> tuple[Path, dict[str, Any]]:
    """Run the study; its folder and summary. Raises UserError."""
    names = [name.strip() for name in precisions.split(",")]
    if len(names) < 2 or len(set(names)) != len(names):
        raise UserError(f"--precision '{precisions}' has nothing to compare", "give two or more, the one to compare with first: fp32,bf16")
    runs = [flags.changed(precision=name, check_operators=False) for name in names]
    prepared = [prepare(each) for each in runs]
    config = {
        "study": "drift",
        "workload": msgspec.to_builtins(prepared[0].workload),
        "trainer": flags.trainer,
        "sharding": flags.sharding,
        "precisions": names,
        "layout": msgspec.to_builtins(prepared[0].layout),
        "device": prepared[0].device.kind,
    }
    label = flags.label or f"drift-{prepared[0].workload.name}-{flags.trainer}"
    more = {"trainer": flags.trainer}
    study = SuiteRun.begin(flags.runs_dir, "training", label, config, command=argv, seed=flags.seed, packages=PACKAGES, more=more)
    console = terminal(stderr=True)
    with study:
        for each, name in zip(runs, names, strict=True):
            if not flags.quiet:
                console.print(f"[bold]{name}[/]", highlight=False)
            folder, summary = train(each.changed(runs_dir=study.folder / "runs", label=name), argv)
            history = History(RunRecords(folder))
            study.append(
                CurveRecord(
                    precision=name,
                    run=folder.name,
                    verdict=summary["verdict"],
                    losses=history.losses,
                    step_ns=history.step_times_ns,
                    reasons=summary["reasons"],
                )
            )
        summary = study.end()
    return study.folder, summary
