"""bmp: all suites under one command, and what works on the runs of any of them.

Suites' typer apps (`bytemlperf.suites`) and single commands (`bytemlperf.commands`) are found by entry
point, so that either can come with another package; `bmp llm …` is `bmp-llm …`.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from bytemlperf.command.exits import exit_cleanly
from bytemlperf.command.groups import PlainHelpGroup

SUITES_GROUP = "bytemlperf.suites"
COMMANDS_GROUP = "bytemlperf.commands"

app = typer.Typer(
    name="bmp",
    cls=PlainHelpGroup,
    help="Benchmark accelerators: serving, operators, models, training.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


@app.callback()
def _root() -> None:
    """Benchmark accelerators: serving, operators, models, training."""


@app.command()
def summarize(run: Annotated[Path, typer.Argument(help="A run folder of any kind.", show_default=False)]) -> None:
    """Compute a run's summary again, from its records alone."""
    from bytemlperf.runs.verify import summarize_any

    raise typer.Exit(summarize_any(run))


@app.command()
def verify(run: Annotated[Path, typer.Argument(help="A run folder of any kind.", show_default=False)]) -> None:
    """Check that a run is as it was left; list what was damaged or changed."""
    from bytemlperf.runs.verify import verify_any

    raise typer.Exit(verify_any(run))


def main() -> NoReturn:
    """Mount every suite and command, and run."""
    for command in sorted(entry_points(group=COMMANDS_GROUP), key=lambda entry: entry.name):
        app.command(command.name)(command.load())
    for suite in sorted(entry_points(group=SUITES_GROUP), key=lambda entry: entry.name):
        app.add_typer(suite.load(), name=suite.name)
    exit_cleanly(app)
