"""bmp convert: the compile step as a conversion tool. Parses, wires, nothing else."""

from __future__ import annotations

import typer

from bytemlperf.command.flags import with_flags
from general_perf.command.flags import ConvertFlags


@with_flags
def convert(flags: ConvertFlags) -> None:
    """Convert a model for deployment, and check the result against the source."""
    from general_perf.convert.convert import run_convert

    raise typer.Exit(run_convert(flags))
