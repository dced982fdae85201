"""A comparison in a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bytemlperf.command.console import fits, print_sections, print_text, terminal
from bytemlperf.command.exits import one_line
from bytemlperf.compare.comparison import Comparison
from bytemlperf.compare.show import METHOD, Shown, figure_table, left_out, others, overall_table, sentence, shown_rows
from bytemlperf.runs.kinds import Plot, Section, Text

if TYPE_CHECKING:
    from rich.console import Console


def print_comparison(shown: Shown) -> None:
    """That loads differ, tables, what to know of them; last the answer in a line a run, and the gate."""
    console = terminal()
    for comparison in shown.comparisons:
        print_sections(console, _sections(console, comparison, everything=shown.everything))
    print_sections(console, [*shown.normalised, *(Text(body=one_line(problem), style="warning") for problem in shown.problems)])
    print_text(console, METHOD, style="note")
    for comparison in shown.comparisons:
        for place in others(comparison):
            print_text(console, one_line(sentence(comparison, place)), style="bold")
    for failure in shown.failures:
        print_text(console, f"FAIL {one_line(failure)}", style="bold red")
    if shown.gated and not shown.failures:
        print_text(console, "gate passed", style="bold green")


def _sections(console: Console, comparison: Comparison, *, everything: bool) -> Iterator[Section]:
    rows, overall = shown_rows(comparison, everything=everything), overall_table(comparison)
    if comparison.different_loads:
        yield Text(body=one_line(comparison.different_loads), style="error")
    yield from (section for section in comparison.beside if not isinstance(section, Plot))
    table = figure_table(comparison, rows)
    if fits(console, table):
        yield table
    else:  # a value and its change stay together
        yield from (figure_table(comparison, rows, places=[place]) for place in others(comparison))
    if left := left_out(comparison, rows):
        yield Text(body=left, style="note")
    if overall is not None:
        yield overall
    for note in comparison.notes:
        yield Text(body=one_line(note), style="warning")
    if comparison.settings:
        yield Text(body=f"settings that differ: {len(comparison.settings)}; --format md or html lists them", style="note")
