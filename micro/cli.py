"""bmp micro: parse, wire, nothing else. Heavy imports stay inside the commands."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core


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

Providers = Annotated[
    list[str] | None, typer.Option("--provider", "-p", help="Whose kernels; repeatable, or 'all'. Default: torch.", show_default=False)
]
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")]
Threads = Annotated[int, typer.Option(help="Threads of CPU kernels; 0 leaves it to the library.", min=0)]
Hot = Annotated[bool, typer.Option("--hot", help="One set of buffers, warm in the caches, instead of turns through more than they hold.")]
Seed = Annotated[int, typer.Option(help="Of the random inputs.", min=0)]
Budget = Annotated[float | None, typer.Option(help="Seconds for the whole sweep; what is left out is a row.", show_default=False, min=0)]
MaxCase = Annotated[float, typer.Option("--max-case-seconds", help="Skip a case that would take longer; end one that does.", min=0.1)]
MaxMemory = Annotated[
    str | None, typer.Option("--max-memory", help="Such as 4GiB: skip what needs more. Default: 80 % of what is free.", show_default=False)
]
Measure = Annotated[float, typer.Option("--measure-seconds", help="Sampling of one case ends then at the latest.", min=0.01)]
Precision = Annotated[float, typer.Option(help="Sampling ends when the median's 95 % interval is this share of it.", min=1e-4)]
RunsDir = Annotated[Path, typer.Option(help="Where run folders go.")]
Label = Annotated[str | None, typer.Option(help="Name of the run.", show_default=False)]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only the run folder's path.")]


@app.callback()
def _root(list_all: Annotated[bool, typer.Option("--list", help="List operators, their arguments, and providers.")] = False) -> None:
    """Measure operators and collectives."""
    if list_all:
        from micro.commands import print_lists

        print_lists()
        raise typer.Exit(0)


@app.command("op", hidden=True)
def op(
    name: Annotated[str, typer.Argument(help="An operator; see `bmp micro --list`.", show_default=False)],
    arg: Annotated[
        list[str] | None,
        typer.Option("--arg", "-a", help="NAME=VALUE[,VALUE…], in place of the basic suite's; repeatable.", show_default=False),
    ] = None,
    provider: Providers = None,
    device: Device = "cpu",
    threads: Threads = 0,
    hot: Hot = False,
    seed: Seed = 0,
    budget: Budget = None,
    max_case_seconds: MaxCase = 60.0,
    max_memory: MaxMemory = None,
    measure_seconds: Measure = 2.0,
    precision: Precision = 0.01,
    runs_dir: RunsDir = Path("runs"),
    label: Label = None,
    quiet: Quiet = False,
) -> None:
    """Sweep one operator."""
    from micro.commands import Flags, operator_cases, run_cases

    flags = Flags(provider or [], device, threads, hot, seed, budget, max_case_seconds, max_memory, measure_seconds, precision)
    cases = operator_cases(name, arg or [], flags)
    raise typer.Exit(run_cases(cases, flags, runs_dir, label or name, sys.argv, quiet=quiet))


@app.command("run")
def run(
    workload: Annotated[Path, typer.Argument(help="A workload file (.json, .csv), or a folder of them.", show_default=False)],
    provider: Providers = None,
    device: Device = "cpu",
    threads: Threads = 0,
    hot: Hot = False,
    seed: Seed = 0,
    budget: Budget = None,
    max_case_seconds: MaxCase = 60.0,
    max_memory: MaxMemory = None,
    measure_seconds: Measure = 2.0,
    precision: Precision = 0.01,
    runs_dir: RunsDir = Path("runs"),
    label: Label = None,
    quiet: Quiet = False,
) -> None:
    """Run ByteMLPerf's or xpu-perf's workload files."""
    from micro.commands import Flags, run_cases, workload_cases

    flags = Flags(provider or [], device, threads, hot, seed, budget, max_case_seconds, max_memory, measure_seconds, precision)
    raise typer.Exit(run_cases(workload_cases(workload, flags), flags, runs_dir, label or workload.stem, sys.argv, quiet=quiet))


@app.command("all")
def run_all(
    suite: Annotated[str, typer.Option(help="Which cases; 'basic' are seconds an operator on a laptop.")] = "basic",
    provider: Providers = None,
    device: Device = "cpu",
    threads: Threads = 0,
    hot: Hot = False,
    seed: Seed = 0,
    budget: Budget = None,
    max_case_seconds: MaxCase = 60.0,
    max_memory: MaxMemory = None,
    measure_seconds: Measure = 2.0,
    precision: Precision = 0.01,
    runs_dir: RunsDir = Path("runs"),
    label: Label = None,
    quiet: Quiet = False,
) -> None:
    """Sweep every operator."""
    from micro.commands import Flags, run_cases, suite_cases

    flags = Flags(provider or [], device, threads, hot, seed, budget, max_case_seconds, max_memory, measure_seconds, precision)
    raise typer.Exit(run_cases(suite_cases(suite, flags), flags, runs_dir, label or suite, sys.argv, quiet=quiet))


@app.command()
def resume(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.", show_default=False)],
    budget: Budget = None,
    quiet: Quiet = False,
) -> None:
    """Go on with a sweep: cases without a row, and those that a budget left out."""
    from micro.commands import resume_run

    raise typer.Exit(resume_run(run_folder, budget, sys.argv, quiet=quiet))
