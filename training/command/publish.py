"""What a finished run prints and leaves behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bytemlperf.command.console import terminal
from bytemlperf.report.terminal import print_run
from bytemlperf.runs.folder import read_run_json

EXIT_INVALID = 1


def publish(folder: Path, summary: dict[str, Any], *, quiet: bool) -> int:
    """Table and verdict; the folder's path is the last line on standard output."""
    if not quiet:
        print_run(terminal(), folder, read_run_json(folder), summary)
    print(folder, flush=True)
    return EXIT_INVALID if summary["verdict"] == "invalid" else 0
