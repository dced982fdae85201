"""What `bmp general` does: plan, sweep, table. No parsing and no measuring here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from bytemlperf.command.console import terminal
from bytemlperf.command.live import LiveView
from bytemlperf.command.signals import Interrupted, interrupt_status
from bytemlperf.errors import UserError
from bytemlperf.export.prometheus import Exporter
from bytemlperf.export.push import receivers_for
from bytemlperf.extras import require
from bytemlperf.report.dashboard import live
from bytemlperf.report.terminal import print_run
from bytemlperf.runs.files import damage_said
from bytemlperf.runs.folder import read_run_json
from bytemlperf.runs.suite import SuiteRun, summarise_suite
from general_perf.backends.registry import check_options
from general_perf.command.flags import Flags, Output
from general_perf.command.plan import plan
from general_perf.job.job import Job
from general_perf.job.live import exporter
from general_perf.job.sweep import run_sweep
from general_perf.results.bytemlperf_report import write_bytemlperf

KIND = "general"
EXIT_FAILED = 1
PACKAGES = ("torch", "transformers", "diffusers", "onnx", "onnxscript", "onnxruntime", "openvino", "nncf", "numpy", "scikit-learn")


def run_general(flags: Flags, argv: list[str]) -> int:
    """Plan everything, run it, show it. Exit status 1 where a row failed or the run is invalid. Raises UserError."""
    receivers_for(flags, KIND)  # an address that can't be used is said before anything is measured
    jobs = plan(flags)
    require("bmp general", "general", "torch", "numpy")
    label = flags.label or "-".join([*flags.models[:2], *flags.backends[:1]])
    config = {
        "jobs": [job.id for job in jobs],
        "plan": [msgspec.to_builtins(job) for job in jobs],
        "flags": flags.recorded(),
        "time_limit_s": flags.time_limit_s,
        "keep_artefacts": flags.keep_artefacts,
    }
    metrics = exporter()
    with live(metrics, flags, quiet=flags.quiet) as begun:
        run = SuiteRun.begin(flags.runs_dir, KIND, label, config, command=argv, seed=flags.seed, packages=PACKAGES)
        begun(run.folder)
        return _swept(run, jobs, flags.time_limit_s, flags, metrics)


def resume_general(folder: Path, argv: list[str], *, quiet: bool) -> int:
    """Do what a run has left. Raises UserError for a folder that is no run of this kind."""
    require("bmp general", "general", "torch", "numpy")
    run = SuiteRun.open(folder, KIND)
    jobs, time_limit_s, keep_artefacts = _planned(run.run)
    run.go_on(command=argv)
    output = Output(runs_dir=folder.parent, keep_artefacts=keep_artefacts, quiet=quiet)
    return _swept(run, jobs, time_limit_s, output, exporter())


def _planned(run: dict[str, Any]) -> tuple[list[Job], float, bool]:
    """The jobs of a run, its time limit and whether it keeps artefacts. Raises UserError."""
    try:
        config = run["config"]
        jobs = [msgspec.convert(each, Job) for each in config["plan"]]
        for job in jobs:
            check_options([job.backend], job.backend_options)
        return jobs, float(config["time_limit_s"]), bool(config["keep_artefacts"])
    except (msgspec.ValidationError, KeyError, TypeError, ValueError):
        raise UserError("this run can't be resumed: its plan is of another version", "start a new run") from None


def report_general(folder: Path, *, bytemlperf: bool) -> int:
    """The table of a run, and the reports asked for."""
    run = read_run_json(folder)
    if run.get("kind") != KIND:
        raise UserError(f"{folder} is a run of kind {run.get('kind')}", "name a run of bmp general")
    with damage_said(folder):
        summary = summarise_suite(folder, run)
        print_run(terminal(), folder, run, summary)
        for path in write_reports(folder, run, summary, bytemlperf=bytemlperf):
            print(path)
        return _status(summary)


def _status(summary: dict[str, Any]) -> int:
    """1 where the run is invalid or a row failed; a refusal is no failure."""
    failed = any(row["status"] == "failed" for row in summary["rows"])
    return EXIT_FAILED if failed or summary["verdict"] == "invalid" else 0


def write_reports(folder: Path, run: dict[str, Any], summary: dict[str, Any], *, bytemlperf: bool) -> list[Path]:
    """ByteMLPerf's JSON, as asked; their paths."""
    if not bytemlperf:
        return []

    return write_bytemlperf(folder, run, summary)


def _swept(run: SuiteRun, jobs: list[Job], time_limit_s: float, output: Output, metrics: Exporter) -> int:

    view = LiveView("", "jobs", quiet=output.quiet, total=len(jobs))
    try:
        with run, view:
            run_sweep(run, jobs, time_limit_s, view, metrics, keep_artefacts=output.keep_artefacts)
    except KeyboardInterrupt:
        raise Interrupted(interrupt_status() - 128, f"resume with: bmp general resume {run.folder}") from None
    summary = run.end()
    written = write_reports(run.folder, run.run, summary, bytemlperf=output.bytemlperf_report)
    if not output.quiet:
        print_run(terminal(), run.folder, run.run, summary, run.records())
        for path in written:
            print(path)
    print(run.folder)
    return _status(summary)
