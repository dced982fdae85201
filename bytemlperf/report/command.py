"""`bmp report`, `bmp-llm report` and `bmp watch`: parse, wire, nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bytemlperf.command.flags import Option, RunFolder, with_flags


@with_flags
def report(
    run: RunFolder,
    format_name: Annotated[str, Option("Format: html (default), md, json or pdf.", "--format")] = "html",
    out: Annotated[Path | None, Option("Output file. Default: report.FORMAT in the run folder.")] = None,
) -> None:
    """Write a run's report as one file to read, print or send."""
    from bytemlperf.report.write import write_report

    print(write_report(run, format_name, out))


@with_flags
def watch(
    run: RunFolder,
    port: Annotated[int, Option("Port on loopback; 0: any free one.", least=0, most=65535)] = 0,
    every: Annotated[float, Option("Seconds between checks of the folder.", least=0.2)] = 5.0,
) -> None:
    """Show a run in the browser while it goes on: its report, rebuilt when records were added."""
    from bytemlperf.report.watch import watch_run

    raise typer.Exit(watch_run(run, port, every))
