"""`bmp report` and `bmp-llm report`: parse, wire, nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    run: Annotated[Path, typer.Argument(help="A run folder of any kind.", show_default=False)],
    format_name: Annotated[str, typer.Option("--format", help="html, md, json or pdf.")] = "html",
    out: Annotated[Path | None, typer.Option(help="Where to write it. Default: report.FORMAT in the run folder.")] = None,
) -> None:
    """Write a run's report: one file, to be read, printed or sent."""
    from bytemlperf_llm.report.write import write_report

    print(write_report(run, format_name, out))
