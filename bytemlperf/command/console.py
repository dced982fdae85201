"""The one way to print a result: sections, as a page has them, fitted to the width that there is.

No figure, name or word is cut. A table that is too wide wraps its texts between words; then it leaves out the columns that it
calls spare, and says which; where that is not enough it goes on below itself, whole, with the columns again that tell its rows
apart. A file or a pipe has no width to fit.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from bytemlperf.command.exits import one_line
from bytemlperf.report.text import UNAVAILABLE, cell, mostly_numbers, visible
from bytemlperf.runs.kinds import Section, Table, Text
from bytemlperf.runs.verdicts import COLOURS as VERDICT_COLOURS
from bytemlperf.statistics.statistics import INSUFFICIENT

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text as RichText

UNLIMITED = 10_000
GAP = 2
LEAST_TEXT = 18
"""Columns that a wrapped text keeps at least."""
NO_FIGURES = frozenset((INSUFFICIENT, UNAVAILABLE, ""))
MOST_KEYS = 2 / 3
"""Of the width, for the columns that a table which goes on below itself has again."""
COLOURS = {
    **VERDICT_COLOURS,
    **dict.fromkeys(("worse", "failed", "FAIL", "broken", "missing", "no:"), "red"),
    **dict.fromkeys(("better", "passed", "ok", "ready", "holds"), "green"),
}
"""Of a cell by its first or last word."""
STYLES = {"note": "dim", "warning": "yellow", "error": "bold red", "plain": "", "code": ""}


def terminal(*, stderr: bool = False) -> Console:
    """Where a command prints: as wide as the terminal is; a file or a pipe takes lines of any length, whatever COLUMNS says there:
    Python's readline leaves that to every child."""
    from rich.console import Console

    console = Console(stderr=stderr, highlight=False)
    if not console.is_terminal:
        console.width = UNLIMITED
    return console


def sayer(*, quiet: bool, clean: Callable[[str], str] = str) -> Callable[[str], None]:
    """Says sentences on standard error, each `clean` and in a line; with `quiet` none."""
    return (lambda _: None) if quiet else lambda text: print(one_line(clean(text)), file=sys.stderr, flush=True)


def print_sections(console: Console, sections: Iterable[Section]) -> None:
    """Texts and tables in their order; tables of label and value stand beside each other where there is room. Plots are for a page."""
    for pairs, members in groupby(sections, key=_of_pairs):
        if pairs:
            _print_beside(console, [section for section in members if isinstance(section, Table)])
            continue
        before: Section | None = None
        for section in members:
            if isinstance(section, Text):
                print_text(console, section.body, title=section.title, style=section.style)
            elif isinstance(section, Table):
                console.print(end="\n" if isinstance(before, Text) else "")
                print_table(console, section)
            before = section


def print_text(console: Console, body: str, *, title: str = "", style: str = "plain", end: str = "\n") -> None:
    """A paragraph, its title bold before it; a warning has a mark; lines of code are not wrapped."""
    from rich.text import Text as RichText

    mark = ("! ", "yellow") if style == "warning" else ("", "")
    head = (f"{visible(title)}{': ' if body else ''}", "bold") if title else ("", "")
    shown = "" if style == "warning" else STYLES.get(style, style)
    console.print(RichText.assemble(mark, head, (visible(body), shown)), soft_wrap=style == "code", end=end)


def print_table(console: Console, table: Table) -> None:
    """Raises nothing: what doesn't fit is wrapped, left out by name, or shown below."""
    if not table.rows:
        return
    columns, left_out = _without_spare(_columns(table), table.spare, console.width)
    if table.title:
        print_text(console, "", title=table.title)
    for number, part in enumerate(_parts(columns, console.width)):
        if number:
            console.print()
        console.print(_drawn(part, _widths(part, console.width)))
    for note in (table.note, f"left out at this width: {' · '.join(left_out)}" if left_out else ""):
        if note:
            print_text(console, note, style="note")
    console.print()


def fits(console: Console, table: Table) -> bool:
    """Whether it can be shown in one piece."""
    return _room(_columns(table)) <= console.width


class _Column(NamedTuple):
    head: str
    cells: list[str]
    right: bool

    @property
    def natural(self) -> int:
        return _longest([line for text in (self.head, *self.cells) for line in text.split("\n")])

    @property
    def least(self) -> int:
        """Figures stay whole; texts and heads wrap between words."""
        words = self.head.split()
        if self.right:
            return max(_longest(words), _longest([line for text in self.cells for line in text.split("\n")]))
        words += [word for text in self.cells for word in text.split()]
        return min(self.natural, max(_longest(words), LEAST_TEXT))


def _longest(texts: Sequence[str]) -> int:
    from rich.cells import cell_len

    return max(map(cell_len, texts), default=0)


def _columns(table: Table) -> list[_Column]:
    """Columns that have something to show."""
    columns = []
    for place, name in enumerate(table.columns):
        cells = [cell(row[place]) if place < len(row) else "" for row in table.rows]
        columns.append(_Column(visible(str(name)), cells, place > 0 and mostly_numbers(cells)))
    return columns


def _room(columns: Sequence[_Column]) -> int:
    """What the columns need at least."""
    return sum(column.least for column in columns) + GAP * (len(columns) - 1)


def _without_spare(columns: list[_Column], spare: Sequence[str], width: int) -> tuple[list[_Column], list[str]]:
    """The columns that fit once the first so many spare ones are gone, those without a figure before the others, and their names; all
    where even the rest wouldn't fit."""
    told = {column.head for column in columns if not NO_FIGURES.issuperset(column.cells)}
    order = sorted(spare, key=told.__contains__)
    for count in range(len(order) + 1):
        kept = [column for column in columns if column.head not in order[:count]]
        if _room(kept) <= width:
            return kept, [column.head for column in columns if column not in kept]
    return columns, []


def _parts(columns: list[_Column], width: int) -> Iterator[list[_Column]]:
    """The columns in as many tables as the width asks for, those that tell the rows apart in each."""
    keys = columns[: _key_count(columns, width)]
    part = list(keys)
    for column in columns[len(keys) :]:
        if len(part) > len(keys) and _room([*part, column]) > width:
            yield part
            part = list(keys)
        part.append(column)
    yield part


def _key_count(columns: Sequence[_Column], width: int) -> int:
    """How many of the first columns no two rows have alike, an empty cell being as the one above; 1 where they would take most of the
    width."""
    filled = [_filled(column.cells) for column in columns]
    for count in range(1, len(columns)):
        rows = list(zip(*filled[:count], strict=True))
        if len(set(rows)) == len(rows):
            return count if _room(columns[:count]) <= width * MOST_KEYS else 1
    return 1


def _filled(cells: list[str]) -> list[str]:
    filled: list[str] = []
    for text in cells:
        filled.append(text or "".join(filled[-1:]))
    return filled


def _widths(columns: Sequence[_Column], width: int) -> list[int]:
    """Each column's width: what it needs, and of the room that is left an even share of what it would like."""
    widths = [column.least for column in columns]
    free = max(0, width - _room(columns))
    wishes = sorted((column.natural - column.least, place) for place, column in enumerate(columns))
    for number, (wish, place) in enumerate(wishes):
        more = min(wish, free // (len(wishes) - number))
        widths[place] += more
        free -= more
    return widths


def _drawn(columns: Sequence[_Column], widths: Sequence[int]) -> RenderableType:
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text as RichText

    heads = any(column.head for column in columns)
    drawn = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, GAP - 1, 0, 0), show_header=heads)
    for place, (column, width) in enumerate(zip(columns, widths, strict=True)):
        head = RichText(column.head, "bold", justify="right" if column.right else "left")
        style = "bold" if place == 0 else ""
        drawn.add_column(head, width=width, justify="right" if column.right else "left", style=style, overflow="fold", vertical="top")
    for row in zip(*(column.cells for column in columns), strict=True):
        drawn.add_row(*map(_styled, row))
    return drawn


def _styled(text: str) -> RichText:
    """The first line, coloured by what it says, and what stands below it dim."""
    from rich.text import Text as RichText

    first, *below = text.split("\n")
    words = text.split()
    colour = next((COLOURS[word] for word in (*words[:1], *words[-1:]) if word in COLOURS), "")
    return RichText("\n").join([RichText(first, colour), *(RichText(line, "not bold dim") for line in below)])


def _of_pairs(section: Section) -> bool:
    return isinstance(section, Table) and len(section.columns) == 2 and not any(section.columns) and not section.title


def _print_beside(console: Console, tables: Sequence[Table]) -> None:
    """Tables of label and value in a row; below each other where they don't fit."""
    from rich.table import Table as RichTable

    sides = [_columns(table) for table in tables if table.rows]
    if sum(sum(column.natural for column in side) + GAP for side in sides) + 2 * GAP * (len(sides) - 1) <= console.width < UNLIMITED:
        grid = RichTable.grid(padding=(0, 2 * GAP))
        grid.add_row(*(_drawn(side, [column.natural for column in side]) for side in sides))
        console.print(grid)
    else:
        rows = [row for table in tables for row in table.rows]
        columns = _columns(Table(title="", columns=["", ""], rows=rows))
        console.print(_drawn(columns, _widths(columns, console.width)))
    for table in tables:
        if table.note:
            print_text(console, table.note, style="note")
    console.print()
