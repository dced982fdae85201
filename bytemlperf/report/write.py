"""Writing a run's report: which format, where to, and what to say where it can't be made."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from bytemlperf.errors import UserError
from bytemlperf.report.gather import RunView, view_run
from bytemlperf.report.page import render
from bytemlperf.report.pdf import print_page
from bytemlperf.report.plain import json_report, markdown_report
from bytemlperf.report.run_page import run_page
from bytemlperf.runs.checksums import renew_checksum
from bytemlperf.runs.files import damage_said, writing
from bytemlperf.runs.folder import write_text
from bytemlperf.runs.records import RunRecords


def _html(view: RunView) -> str:
    return render(run_page(view))


FORMATS: dict[str, Callable[[RunView], str | bytes]] = {
    "html": _html,
    "md": markdown_report,
    "json": json_report,
    "pdf": lambda view: print_page(_html(view)),
}
"""Format name to what makes it; the name is the file's suffix."""


def write_report(folder: Path, format_name: str = "html", out: Path | None = None, records: RunRecords[Any] | None = None) -> Path:
    """Make the report of a run folder; returns where it is. Raises UserError."""
    make = FORMATS.get(format_name)
    if make is None:
        raise UserError(f"--format {format_name!r} is unknown", f"give one of {', '.join(FORMATS)}")
    path = out or folder / f"report.{format_name}"
    with damage_said(folder):
        content = make(view_run(folder, records))
    write_output(path, content)
    if out is None:
        with suppress(OSError):  # a folder that takes no more
            renew_checksum(folder, path.name)
    return path


def write_output(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all. Raises UserError where that can't be."""
    with writing(path, "give another path with --out"):
        if isinstance(content, str):
            write_text(path, content)
        else:
            path.write_bytes(content)


def report_after_run(folder: Path, records: RunRecords[Any] | None = None) -> Path | None:
    """The page of a run that has just ended; `records` are those that its summary was made of. Whatever
    goes wrong is one line: a page is no reason to lose a run."""
    try:
        return write_report(folder, records=records)
    except UserError as error:
        print(f"no report.html: {error.cause}; {error.fix}, then bmp report {folder}", file=sys.stderr)
    except Exception as error:  # a mistake of ours in a page must not become the run's
        print(f"no report.html: {type(error).__name__}: {error}; try bmp report {folder}", file=sys.stderr)
    return None
