"""Tables in a terminal: of texts from anywhere, of which none acts; and one that fits, with columns left out rather than figures cut."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from bytemlperf.command.exits import markup_of

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

WIDEST_COLUMNS = 1000


def listing(
    columns: Collection[str], rows: Iterable[Iterable[str | Text]], *, right: Collection[str] = (), whole: Collection[str] = ()
) -> Table:
    """A table; what is no rich text comes from outside and is shown as it is. The columns `right` stand on the right, those in
    `whole` are never wrapped. Without a name for any column there is no head."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_header=any(columns))
    for name in columns:
        table.add_column(markup_of(name), justify="right" if name in right else "left", no_wrap=name in whole, overflow="fold")
    for row in rows:
        table.add_row(*(markup_of(cell) if isinstance(cell, str) else cell for cell in row))
    return table


def first_that_fits(tables: Iterable[Table], width: int) -> Table | None:
    """The first of the tables, widest first, that needs no more than `width` columns; None where none does."""
    from rich.console import Console

    ruler = Console(width=WIDEST_COLUMNS)
    return next((table for table in tables if ruler.measure(table).maximum <= width), None)
