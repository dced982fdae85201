"""What `bmp extensions` prints: every extension of every point, where it comes from, and whether it can start here."""

from __future__ import annotations

import json
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bytemlperf.command.exits import one_line
from bytemlperf.extensions import OURS, Extension, Point
from bytemlperf.version import __version__


def print_extensions(points: Sequence[Point], as_json: bool) -> None:
    """As a table or as JSON; imports every one of them."""
    found = [(extension, extension.missing()) for point in points for extension in point.all().values()]
    if as_json:
        print(json.dumps([_fields(extension, missing) for extension, missing in found], indent=2))
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("what", "name", "from", "starts here"):
        table.add_column(name, overflow="fold", no_wrap=name != "starts here")
    last = ""
    for extension, missing in found:
        what = extension.point.what
        state = Text(f"no: {one_line(missing)}", "red") if missing else Text("yes")
        table.add_row(what if what != last else "", Text(one_line(extension.name)), one_line(extension.package) or "built in", state)
        last = what
    Console(highlight=False, markup=False).print(table)


def _fields(extension: Extension, missing: str) -> dict[str, str | bool]:
    return {
        "point": extension.point.what,
        "group": extension.point.group,
        "name": extension.name,
        "target": extension.target,
        "from": extension.package or f"{OURS} {__version__}",
        "built_in": not extension.package,
        "starts_here": not missing,
        "missing": missing,
    }
