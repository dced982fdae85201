"""bmp site: parse, wire, nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from bytemlperf.command.flags import Argument, CardFiles, Option, with_flags
from bytemlperf.command.groups import App

app = App("Build a static site from many runs.")


@app.command(short_help="Build a site that opens from disk.")
@with_flags
def build(
    runs: Annotated[tuple[Path, ...], Argument("Run folders or runs' names, or folders of runs.", run=True)],
    out: Annotated[Path, Option("A new folder, or a site made before.")],
    title: Annotated[str, Option("Title of the site.")] = "Benchmark results",
    cards: CardFiles = None,
    card: Annotated[
        tuple[str, ...],
        Option("CARD, CARD*COUNT or PATTERN=CARD*COUNT: hardware of all runs, or of those whose folder or label matches; repeatable."),
    ] = (),
    currency: Annotated[str | None, Option("Currency of prices. Default: that of your own prices, else the most common one.")] = None,
) -> None:
    """Build hardware, comparison, leaderboard, model and report pages as files that open from disk."""
    from bytemlperf.command.exits import one_line
    from bytemlperf.site.build import build_site

    built = build_site(runs, out, title=title, cards_path=cards, assigned=card, currency=currency)
    for text in built.problems:
        print(f"problem: {one_line(text)}")
    print(f"{built.pages} pages; open {built.start}")
