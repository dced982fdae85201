"""bmp micro: parse, wire, nothing else. Heavy imports stay inside the commands."""

from __future__ import annotations

import typer

app = typer.Typer(help="Measure operators and collectives.", no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def _root() -> None:
    """Measure operators and collectives."""
