"""`bmp compare RUN…`: parse, wire, nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from bytemlperf.command.flags import Argument, CardFiles, Option, parse_percent, with_flags
from bytemlperf.errors import UserError
from bytemlperf.runs.names import run_named

if TYPE_CHECKING:
    from bytemlperf.compare.comparison import Comparison
    from bytemlperf.compare.show import Shown
    from bytemlperf.report.gather import RunView
    from bytemlperf.runs.kinds import Table

EXIT_GATE = 1
FILES_ONLY = ("html", "pdf")


@with_flags
def compare(
    runs: Annotated[
        tuple[Path, ...], Argument("Runs of any kind, the baseline first: folders, ids, labels, or latest, latest~1.", run=True)
    ],
    baseline: Annotated[str | None, Option("Folder, id or label of the baseline. Default: the first run.")] = None,
    metric: Annotated[tuple[str, ...], Option("Show only this figure, such as 'ttft p99'; repeatable.")] = (),
    everything: Annotated[bool, Option("Show every figure, not only the headlines.", "--all")] = False,
    fail_if: Annotated[tuple[str, ...], Option("Fail (exit 1) if: 'ttft p99 > 5%', 'any worse > 5%', 'e2e p50 > 900'; repeatable.")] = (),
    min_effect: Annotated[str, Option("Smallest change to call better or worse, in percent; what is below is negligible.")] = "1%",
    card: Annotated[
        tuple[str, ...],
        Option("CARD, CARD*COUNT or PATTERN=CARD*COUNT: hardware of all runs, or of those whose name matches; repeatable."),
    ] = (),
    cards: CardFiles = None,
    format_name: Annotated[Literal["table", "md", "html", "json", "pdf"], Option("Format:", "--format")] = "table",
    out: Annotated[Path | None, Option("Write to this file instead of standard output.")] = None,
) -> None:
    """Compare runs: differences with intervals, and whether chance explains them."""
    from bytemlperf.compare.comparison import compare_all, gather
    from bytemlperf.compare.gate import failures
    from bytemlperf.compare.show import Shown
    from bytemlperf.runs.conditions import parse

    if format_name in FILES_ONLY and out is None:
        raise UserError("a page needs a file", f"add --out comparison.{format_name}")
    conditions = [parse(text) for text in fail_if]
    views, problems = gather(runs)
    comparisons = compare_all(views, _baseline(views, baseline), metric, parse_percent("--min-effect", min_effect))
    if metric and not any(comparison.rows for comparison in comparisons):
        raise UserError(f"no run has a figure {metric[0]!r}", "leave out --metric to see them all")
    problems += _kind_problems(comparisons)
    shown = Shown(
        comparisons=comparisons,
        problems=problems,
        failures=failures(comparisons, conditions),
        gated=bool(conditions),
        normalised=_normalised(comparisons, card, cards),
        everything=everything or bool(metric),
    )
    _show(shown, format_name, out)
    if shown.failures:
        raise typer.Exit(EXIT_GATE)


def _baseline(views: list[RunView], name: str | None) -> RunView:
    if name is None:
        return views[0]
    for view in views:
        if name in (view.label, view.folder.name) or run_named(Path(name)).absolute() == view.folder.absolute():
            return view
    raise UserError(f"--baseline {name!r} is not one of the runs", f"name one of {', '.join(view.label for view in views)}")


def _kind_problems(comparisons: list[Comparison]) -> list[str]:
    if len(comparisons) < 2:
        return []
    kinds = ", ".join(f"{each.kind} ({', '.join(each.names)})" for each in comparisons)
    return [f"runs of different kinds can't be compared: {kinds}; each kind is shown separately"]


def _normalised(comparisons: list[Comparison], chosen: Iterable[str], prices: Path | None) -> list[Table]:
    from bytemlperf.compare.normalised import devices_of, normalised_table
    from bytemlperf.hardware.cards import load
    from bytemlperf.hardware.measured import assignments_of

    cards = load(prices)
    assignments = assignments_of(chosen, cards)
    tables = [normalised_table(each, devices_of(each, assignments, cards)) for each in comparisons]
    return [table for table in tables if table is not None]


def _show(shown: Shown, format_name: str, out: Path | None) -> None:
    from bytemlperf.compare import page, show
    from bytemlperf.report.write import write_output

    if format_name == "table" and out is None:
        from bytemlperf.compare.terminal import print_comparison

        print_comparison(shown)
        return
    makers: dict[str, Callable[[Shown], str | bytes]] = {
        "md": show.markdown,
        "table": show.markdown,
        "json": show.as_json,
        "html": page.page,
        "pdf": page.as_pdf,
    }
    content = makers[format_name](shown)
    if out is None:
        print(content, end="")
        return
    write_output(out, content)
    print(out)
