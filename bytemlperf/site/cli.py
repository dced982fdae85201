"""bmp site: parse, wire, nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bytemlperf.command.groups import PlainHelpGroup

app = typer.Typer(cls=PlainHelpGroup, help="Build a static site from many runs.", no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def _root() -> None:
    """Build a static site from many runs."""


@app.command()
def build(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, or folders of them.", show_default=False)],
    out: Annotated[Path, typer.Option(help="A new folder, or a site made before.", show_default=False)],
    title: Annotated[str, typer.Option(help="Title of the site.")] = "Benchmark results",
    cards: Annotated[Path | None, typer.Option(help="Your own spec cards and prices. Default: $BMP_CARDS.", show_default=False)] = None,
    device: Annotated[
        list[str] | None,
        typer.Option(
            help="PATTERN=CARD or PATTERN=CARD*COUNT: hardware of the runs whose folder or label matches; repeatable.", show_default=False
        ),
    ] = None,
    currency: Annotated[
        str | None,
        typer.Option(help="Currency of prices. Default: that of your own prices, else the most common one.", show_default=False),
    ] = None,
) -> None:
    """Build hardware, comparison, leaderboard, model and report pages as files that open from disk."""
    from bytemlperf.command.exits import one_line
    from bytemlperf.site.build import build_site

    built = build_site(runs, out, title=title, cards_path=cards, assigned=device or (), currency=currency)
    for text in built.problems:
        print(f"problem: {one_line(text)}")
    print(f"{built.pages} pages; open {built.start}")
