"""bmp micro: parse, wire, nothing else. Heavy imports stay inside the commands."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core

from bytemlperf.errors import UserError
from micro.command.flags import Flags, with_flags

SUITE_MEASURE_S = 0.5
"""Of a case in `all`: hundreds of cases in minutes, with wider intervals."""


class OperatorGroup(typer.core.TyperGroup):
    """A first word that is no command is an operator's name: `bmp micro gemm` is `bmp micro op gemm`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """As click's, with operators."""
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            args = ["op", *args]
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=OperatorGroup,
    help="Measure operators and collectives: `bmp micro gemm`, `bmp micro run FILE`.",
    invoke_without_command=True,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.callback()
def _root(list_all: Annotated[bool, typer.Option("--list", help="List operators, their arguments, and providers.")] = False) -> None:
    """Measure operators and collectives."""
    if list_all:
        from micro.command.listing import print_lists

        print_lists()
        raise typer.Exit(0)


@app.command("op", hidden=True)
@with_flags
def op(
    name: Annotated[str, typer.Argument(help="Name of the operator; see `bmp micro --list`.", show_default=False)],
    flags: Flags,
    arg: Annotated[
        list[str] | None,
        typer.Option("--arg", "-a", help="NAME=VALUE[,VALUE…], in place of the basic suite's; repeatable.", show_default=False),
    ] = None,
) -> None:
    """Sweep one operator."""
    from micro.cases.selection import operator_cases
    from micro.command.run import run_cases

    raise typer.Exit(run_cases(operator_cases(name, arg or [], flags.provider), flags, flags.label or name, sys.argv))


@app.command("run")
@with_flags
def run(
    workload: Annotated[Path, typer.Argument(help="A workload file (.json, .csv), or a folder of them.", show_default=False)],
    flags: Flags,
) -> None:
    """Run ByteMLPerf's or xpu-perf's workload files."""
    from micro.cases.selection import workload_cases
    from micro.command.run import run_cases

    raise typer.Exit(run_cases(workload_cases(workload, flags.provider), flags, flags.label or workload.stem, sys.argv))


@app.command("all")
@with_flags
def run_all(
    flags: Flags,
    suite: Annotated[str, typer.Option(help="Case suite; 'basic' takes seconds per operator on a laptop.")] = "basic",
) -> None:
    """Sweep every operator."""
    from micro.cases.selection import suite_cases
    from micro.command.run import run_cases

    if flags.measure_seconds is None:
        flags = replace(flags, measure_seconds=SUITE_MEASURE_S)
    raise typer.Exit(run_cases(suite_cases(suite, flags.provider), flags, flags.label or suite, sys.argv))


@app.command()
def resume(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.", show_default=False)],
    budget: Annotated[
        float | None, typer.Option(help="Time budget of the rest of the sweep, in seconds.", show_default=False, min=0)
    ] = None,
    prometheus_port: Annotated[
        int | None, typer.Option(help="Serve live metrics on this loopback port.", min=0, max=65535, show_default=False)
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only the run folder's path.")] = False,
) -> None:
    """Resume a sweep: cases without a row, and those that a budget left out."""
    from micro.command.run import resume_run

    raise typer.Exit(resume_run(run_folder, budget, prometheus_port, sys.argv, quiet=quiet))


@app.command()
def check(
    provider: Annotated[str | None, typer.Argument(help="Name of the provider; see `bmp micro --list`.", show_default=False)] = None,
    operator: Annotated[
        list[str] | None, typer.Option("--operator", "-o", help="Only this operator; repeatable. Default: all.", show_default=False)
    ] = None,
    device: Annotated[str, typer.Option(help="Device: cpu, cuda or cuda:N.")] = "cpu",
    seed: Annotated[int, typer.Option(help="Seed of the random inputs.", min=0)] = 0,
    max_case_seconds: Annotated[float, typer.Option("--max-case-seconds", help="Timeout of a case, in seconds.", min=0.1)] = 60.0,
    out: Annotated[Path | None, typer.Option(help="Write every case as a line of JSON to this file.", show_default=False)] = None,
    cheats: Annotated[
        bool, typer.Option("--cheats", help="Test the check itself: built-in cheating providers must all be caught.")
    ] = False,
) -> None:
    """Check a provider's results over all operators and awkward shapes, untimed. Exit 1 if any is wrong."""
    from micro.command.check import check_cheats, check_provider

    if cheats == (provider is not None):
        raise UserError("give either a provider or --cheats", "list providers with: bmp micro --list")
    if provider is None:
        raise typer.Exit(check_cheats(operator or [], device=device, seed=seed, limit_s=max_case_seconds, out=out))
    raise typer.Exit(check_provider(provider, operator or [], device=device, seed=seed, limit_s=max_case_seconds, out=out))


@app.command()
def export(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.", show_default=False)],
    csv: Annotated[Path | None, typer.Option(help="CSV file to write.", show_default=False)] = None,
    jsonl: Annotated[Path | None, typer.Option(help="JSONL file to write.", show_default=False)] = None,
) -> None:
    """Export a run with xpu-perf's field names."""
    from micro.results.exports import export_run

    export_run(run_folder, csv, jsonl)
