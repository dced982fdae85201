"""A comparison in a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bytemlperf.command.exits import markup_of, one_line
from bytemlperf.compare.show import METHOD, Shown, figure_table, left_out, others, overall_table, sentence, shown_rows
from bytemlperf.report.text import cell
from bytemlperf.runs.kinds import Table

if TYPE_CHECKING:
    from rich.console import Console

PLAIN_WIDTH = 140
COLOURS = {"worse": "red", "better": "green"}


def print_comparison(shown: Shown) -> None:
    """Tables, then what to know of them, then the gate."""
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=PLAIN_WIDTH)
    for comparison in shown.comparisons:
        rows = shown_rows(comparison, everything=shown.everything)
        _print_table(console, figure_table(comparison, rows))
        console.print(one_line(left_out(comparison, rows)), markup=False, style="dim")
        overall = overall_table(comparison)
        if overall is not None:
            _print_table(console, overall)
        for place in others(comparison):
            console.print(one_line(sentence(comparison, place)), markup=False)
        for note in comparison.notes:
            console.print(one_line(note), markup=False, style="yellow")
        if comparison.settings:
            console.print(f"{len(comparison.settings)} settings differ; --format md or html lists them", style="dim")
    for table in shown.normalised:
        _print_table(console, table)
    for problem in shown.problems:
        console.print(one_line(problem), markup=False, style="yellow")
    console.print(METHOD, style="dim")
    for failure in shown.failures:
        console.print(f"FAIL {one_line(failure)}", markup=False, style="bold red")
    if shown.gated and not shown.failures:
        console.print("gate passed", style="bold green")


def _print_table(console: Console, table: Table) -> None:
    from rich import box
    from rich.table import Table as RichTable

    drawn = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, title=markup_of(table.title) or None, title_justify="left")
    for place, name in enumerate(table.columns):
        drawn.add_column(markup_of(str(name)), justify="left" if place == 0 else "right", style="bold" if place == 0 else "")
    for row in table.rows:
        drawn.add_row(*(_marked(cell(value)) for value in row))
    console.print(drawn)
    if table.note:
        console.print(one_line(table.note), markup=False, style="dim")


def _marked(text: str) -> str:
    first, *rest = text.split("\n")
    colour = next((colour for word, colour in COLOURS.items() if rest and rest[-1].endswith(word)), None)
    shown = f"[{colour}]{markup_of(first)}[/]" if colour else markup_of(first)
    return "\n".join([shown, *(f"[dim]{markup_of(line)}[/]" for line in rest)])
