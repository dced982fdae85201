"""bmp general: parse, wire, nothing else. Heavy imports stay inside the commands."""

from __future__ import annotations

import typer

app = typer.Typer(help="Measure common models: compile, accuracy, numerics, speed.", no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def _root() -> None:
    """Measure common models: compile, accuracy, numerics, speed."""
