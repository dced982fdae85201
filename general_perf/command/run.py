"""What `bmp general` does: plan, sweep, table; and what there is, as tables. No parsing and no measuring here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from bytemlperf.command.console import print_table, terminal
from bytemlperf.command.live import LiveView
from bytemlperf.command.signals import Interrupted, interrupt_status
from bytemlperf.errors import UserError
from bytemlperf.export.prometheus import Exporter
from bytemlperf.export.push import receivers_for
from bytemlperf.extras import require
from bytemlperf.report.dashboard import live
from bytemlperf.report.terminal import print_run, publish
from bytemlperf.runs.files import damage_said
from bytemlperf.runs.folder import read_run_of
from bytemlperf.runs.kinds import Table
from bytemlperf.runs.suite import SuiteRun, summarise_suite
from general_perf.backends.registry import backend, backend_names, check_options
from general_perf.card import LanguageModel, Package, Source, zoo
from general_perf.choices import PUBLISHED
from general_perf.command.flags import Flags, Output
from general_perf.command.plan import plan
from general_perf.job.records import Job
from general_perf.job.sweep import FAMILIES, run_sweep
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
    metrics = Exporter(FAMILIES)
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
    return _swept(run, jobs, time_limit_s, output, Exporter(FAMILIES))


def _planned(run: dict[str, Any]) -> tuple[list[Job], float, bool]:
    """The jobs of a run, its time limit and whether it keeps artefacts. Raises UserError."""
    try:
        config = run["config"]
        jobs = [msgspec.convert(entry, Job) for entry in config["plan"]]
        for job in jobs:
            check_options([job.backend], job.backend_options)
        return jobs, float(config["time_limit_s"]), bool(config["keep_artefacts"])
    except (msgspec.ValidationError, KeyError, TypeError, ValueError):
        raise UserError("this run can't be resumed: its plan is of another version", "start a new run") from None


def report_general(folder: Path, *, bytemlperf: bool) -> int:
    """The table of a run, and the reports asked for."""
    run = read_run_of(folder, KIND, "name a run of bmp general")
    with damage_said(folder):
        summary = summarise_suite(folder, run)
        print_run(terminal(), folder, run, summary)
        for path in write_bytemlperf(folder, run, summary) if bytemlperf else ():
            print(path)
        return _status(summary)


def _status(summary: dict[str, Any]) -> int:
    """1 where the run is invalid or a row failed; a refusal is no failure."""
    failed = any(row["status"] == "failed" for row in summary["rows"])
    return EXIT_FAILED if failed or summary["verdict"] == "invalid" else 0


def _swept(run: SuiteRun, jobs: list[Job], time_limit_s: float, output: Output, metrics: Exporter) -> int:
    view = LiveView("", "jobs", quiet=output.quiet, total=len(jobs))
    try:
        with run, view:
            run_sweep(run, jobs, time_limit_s, view, metrics, keep_artefacts=output.keep_artefacts)
    except KeyboardInterrupt:
        raise Interrupted(interrupt_status() - 128, f"resume with: bmp general resume {run.folder}") from None
    summary = run.end()
    written = write_bytemlperf(run.folder, run.run, summary) if output.bytemlperf_report else []
    status = publish(run.folder, summary, output, run=run.run, records=run.records(), written=written)
    return _status(summary) or status


WEIGHTS = {"architecture": "random weights", "trained": "trained here"}


def print_models() -> None:
    """Every card in a line."""
    rows = (
        (card.name, card.model_class, card.task, _weights(card.source), card.dataset or "–", ", ".join([PUBLISHED, *card.sizes]))
        for card in zoo().values()
    )
    columns = ("model", "class", "task", "weights", "data", "sizes")
    print_table(terminal(), Table(title="", columns=columns, rows=list(rows), spare=("data", "weights")))


def _weights(source: Source) -> str:
    if isinstance(source, Package):
        return f"package {source.package}"
    if isinstance(source, LanguageModel):
        return source.name
    kind = str(type(source).__struct_config__.tag)
    return WEIGHTS.get(kind, kind)


def print_backends() -> None:
    """Every backend with its versions, or what it lacks."""
    columns = ("backend", "what", "versions", "precisions", "devices", "reads")
    print_table(terminal(), Table(title="", columns=columns, rows=list(_backends()), spare=("what",)))


def _backends() -> Iterator[tuple[str, ...]]:
    for name in backend_names():
        try:
            info = backend(name).describe()
        except (ImportError, UserError) as error:
            yield name, f"not here: {error}", "pip install 'bytemlperf-llm[general]'", "", "", ""
            continue
        versions = ", ".join(f"{package} {version}" for package, version in info.versions.items())
        yield name, info.about, versions, ", ".join(info.precisions), ", ".join(info.devices), ", ".join(info.formats)
