"""The table that a terminal has room for: no figure is cut, columns are left out instead."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

WIDEST_COLUMNS = 1000


def first_that_fits(tables: Iterable[Table], width: int) -> Table | None:
    """The first of the tables, widest first, that needs no more than `width` columns; None where none does."""
    from rich.console import Console

    ruler = Console(width=WIDEST_COLUMNS)
    return next((table for table in tables if ruler.measure(table).maximum <= width), None)
