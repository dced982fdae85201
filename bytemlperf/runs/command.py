"""`bmp summarize` and `bmp verify`, of `bmp-llm` too: parse, wire, nothing else."""

from __future__ import annotations

import typer

from bytemlperf.command.flags import RunFolder, with_flags


@with_flags
def summarize(run: RunFolder) -> None:
    """Recompute a run's summary from its records."""
    from bytemlperf.runs.verify import summarize_any

    raise typer.Exit(summarize_any(run))


@with_flags
def verify(run: RunFolder) -> None:
    """Check that a run is unchanged: recompute every published figure, and list what was damaged or changed."""
    from bytemlperf.runs.verify import verify_any

    raise typer.Exit(verify_any(run))
