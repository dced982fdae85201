"""bmp: all suites under one command. Each suite's typer app is found by entry point, so that a
suite can come with another package; `bmp llm …` is `bmp-llm …`."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import NoReturn

import typer

from bytemlperf_llm.terminal_exit import exit_cleanly

SUITES_GROUP = "bytemlperf.suites"

app = typer.Typer(
    name="bmp", help="Benchmark accelerators: serving, operators, models, training.", no_args_is_help=True, add_completion=False
)


@app.callback()
def _root() -> None:
    """Benchmark accelerators: serving, operators, models, training."""


def main() -> NoReturn:
    """Mount every suite and run."""
    for suite in sorted(entry_points(group=SUITES_GROUP), key=lambda entry: entry.name):
        app.add_typer(suite.load(), name=suite.name)
    exit_cleanly(app)
