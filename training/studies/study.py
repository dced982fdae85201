"""What every study does: several runs, each in a run folder of its own inside the study's, and a record of each."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from bytemlperf.command.console import sayer
from bytemlperf.runs.suite import SuiteRun
from training.command.run import PACKAGES, Prepared, train
from training.plan.flags import Flags


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
