"""What `bmp extensions` prints: every extension of every point, where it comes from, and whether it can start here."""

from __future__ import annotations

import json
from collections.abc import Sequence

from bytemlperf.command.console import print_table, terminal
from bytemlperf.command.exits import one_line
from bytemlperf.extensions import OURS, Extension, Point
from bytemlperf.runs.kinds import Table
from bytemlperf.version import __version__


def print_extensions(points: Sequence[Point], as_json: bool) -> None:
    """As a table or as JSON; imports every one of them."""
    every = [(extension, extension.missing()) for point in points for extension in point.all().values()]
    if as_json:
        print(json.dumps([_fields(extension, missing) for extension, missing in every], indent=2))
        return
    rows = [
        (
            extension.point.what if place == 0 or every[place - 1][0].point is not extension.point else "",
            one_line(extension.name),
            one_line(extension.package) or "built in",
            f"no: {one_line(missing)}" if missing else "yes",
        )
        for place, (extension, missing) in enumerate(every)
    ]
    print_table(terminal(), Table(title="", columns=("what", "name", "from", "starts here"), rows=rows))


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
