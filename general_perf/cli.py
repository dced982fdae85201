"""bmp general and bmp convert: parse, wire, nothing else. Heavy imports stay inside the commands."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from bytemlperf.command.flags import Argument, Option, Quiet, RunFolder, with_flags
from bytemlperf.command.groups import suite_app
from general_perf.command.flags import ConvertFlags, Flags


def _models() -> list[str]:
    from general_perf.card import zoo

    return list(zoo())


app = suite_app(
    "Measure common models: compile, accuracy, numerics, speed. `bmp general MODEL…` runs them; see `bmp general run --help`.",
    "run",
    _models,
    options_too=True,
)


@app.command("run", short_help="Measure models on backends.")
@with_flags
def run(flags: Flags) -> None:
    """Measure models on backends: a process and a row for each model, backend and precision."""
    from general_perf.command.run import run_general

    raise typer.Exit(run_general(flags, sys.argv))


@app.command(short_help="Resume a sweep that was stopped or killed.")
@with_flags
def resume(run: RunFolder, quiet: Quiet = False) -> None:
    """Run the unfinished jobs, into the same folder."""
    from general_perf.command.run import resume_general

    raise typer.Exit(resume_general(run, sys.argv, quiet=quiet))


@app.command(short_help="Write reports of a run: ByteMLPerf's JSON.")
@with_flags
def report(
    run: RunFolder, bytemlperf: Annotated[bool, Option("ByteMLPerf's report JSON, one for each model and backend.")] = False
) -> None:
    """Show a run's table again, and write its reports."""
    from general_perf.command.run import report_general

    raise typer.Exit(report_general(run, bytemlperf=bytemlperf))


@app.command()
def models() -> None:
    """List the zoo: class, task, weights, sizes, data."""
    from general_perf.command.run import print_models

    print_models()


@app.command()
def backends() -> None:
    """List backends with their versions, or what they lack."""
    from general_perf.command.run import print_backends

    print_backends()


@app.command(short_help="Install backends from scratch and report the cost.")
@with_flags
def usability(
    backends: Annotated[tuple[str, ...], Argument("Backends, or all.")],
    no_cache: Annotated[bool, Option("Download again what pip's cache holds.")] = False,
    out: Annotated[Path | None, Option("Also write the result to this JSON file.", "--out -o")] = None,
    folder: Annotated[Path | None, Option("Directory for the temporary environments. Default: the system's.")] = None,
) -> None:
    """Install each backend into a fresh virtual environment; report time, size and packages. Needs a package index."""
    from general_perf.usability.installed import measure_installs

    measure_installs(backends, out, folder=folder, no_cache=no_cache)


@with_flags
def convert(flags: ConvertFlags) -> None:
    """Convert a model for deployment, and check the result against the source."""
    from general_perf.convert.convert import run_convert

    raise typer.Exit(run_convert(flags))
