"""bmp micro: parse, wire, nothing else. Heavy imports stay inside the commands."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from bytemlperf.command.flags import Argument, Option, RunFolder, only, with_flags
from bytemlperf.command.groups import suite_app
from bytemlperf.errors import UserError
from micro.command.flags import Flags

SUITE_MEASURE_S = 0.5
"""Of a case in `all`: hundreds of cases in minutes, with wider intervals."""


def _operators() -> list[str]:
    from micro.registry import OPERATORS

    return list(OPERATORS)


app = suite_app("Measure operators and collectives: `bmp micro gemm`, `bmp micro run FILE`.", "op", _operators)


@app.command("list")
def list_all() -> None:
    """List operators, their arguments, and providers."""
    from micro.command.run import print_lists

    print_lists()


@app.command("op", hidden=True)
@with_flags
def op(
    name: Annotated[str, Argument("Name of the operator; see `bmp micro list`.")],
    flags: Flags,
    arg: Annotated[tuple[str, ...], Option("NAME=VALUE[,VALUE…], in place of the basic suite's; repeatable.", "--arg -a")] = (),
) -> None:
    """Sweep one operator."""
    from micro.cases.selection import operator_cases
    from micro.command.run import run_cases

    raise typer.Exit(run_cases(operator_cases(name, arg, flags.providers), flags, flags.label or name, sys.argv))


@app.command("run")
@with_flags
def run(
    workload: Annotated[Path, Argument("A workload file (.json, .csv), or a folder of them.")],
    flags: Flags,
) -> None:
    """Run ByteMLPerf's or xpu-perf's workload files."""
    from micro.cases.selection import workload_cases
    from micro.command.run import run_cases

    raise typer.Exit(run_cases(workload_cases(workload, flags.providers), flags, flags.label or workload.stem, sys.argv))


@app.command("all")
@with_flags
def run_all(
    flags: Flags,
    suite: Annotated[str, Option("Case suite; 'basic' takes seconds per operator on a laptop.")] = "basic",
) -> None:
    """Sweep every operator."""
    from micro.cases.selection import suite_cases
    from micro.command.run import run_cases

    if flags.seconds is None:
        flags = flags.changed(seconds=SUITE_MEASURE_S)
    raise typer.Exit(run_cases(suite_cases(suite, flags.providers), flags, flags.label or suite, sys.argv))


@app.command(short_help="Resume a sweep that was stopped or killed.")
@with_flags
def resume(run: RunFolder, flags: Annotated[Flags, only("budget_s", "prometheus_port", "quiet")]) -> None:
    """Resume a sweep: cases without a row, and those that a budget left out."""
    from micro.command.run import resume_run

    raise typer.Exit(resume_run(run, flags, sys.argv))


@app.command(short_help="Check a provider's results against the reference.")
@with_flags
def check(
    flags: Annotated[Flags, only("device", "seed", "time_limit_s")],
    provider: Annotated[str | None, Argument("Name of the provider; see `bmp micro list`.")] = None,
    operator: Annotated[tuple[str, ...], Option("Only this operator; repeatable. Default: all.", "--operator -o")] = (),
    out: Annotated[Path | None, Option("Write every case as a line of JSON to this file.")] = None,
    cheats: Annotated[bool, Option("Test the check itself: built-in cheating providers must all be caught.")] = False,
) -> None:
    """Check a provider's results over all operators and awkward shapes, untimed. Exit 1 if any is wrong."""
    from micro.command.check import check_cheats, check_provider

    if cheats == (provider is not None):
        raise UserError("give either a provider or --cheats", "list providers with: bmp micro list")
    raise typer.Exit(check_cheats(operator, flags, out) if provider is None else check_provider(provider, operator, flags, out))


@app.command()
@with_flags
def export(run: RunFolder, out: Annotated[tuple[Path, ...], Option("File to write, FILE.csv or FILE.jsonl; repeatable.")]) -> None:
    """Export a run with xpu-perf's field names."""
    from micro.results.exports import export_run

    export_run(run, out)
