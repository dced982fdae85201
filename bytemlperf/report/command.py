"""`bmp report`, `bmp-llm report` and `bmp watch`: parse, wire, nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    run: Annotated[Path, typer.Argument(help="A run folder of any kind.", show_default=False)],
    format_name: Annotated[str, typer.Option("--format", help="Format: html, md, json or pdf.")] = "html",
    out: Annotated[Path | None, typer.Option(help="Output file. Default: report.FORMAT in the run folder.")] = None,
) -> None:
    """Write a run's report as one file to read, print or send."""
    from bytemlperf.report.write import write_report

    print(write_report(run, format_name, out))


def watch(
    run: Annotated[Path, typer.Argument(help="A run folder of any kind; the run may still be in progress.", show_default=False)],
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on loopback; 0 picks a free one.")] = 0,
    every: Annotated[float, typer.Option(min=0.2, help="Seconds between checks of the folder.")] = 5.0,
) -> None:
    """Show a run in the browser while it goes on: its report, made anew when records were added."""
    from bytemlperf.report.watch import watch_run

    raise typer.Exit(watch_run(run, port, every))
