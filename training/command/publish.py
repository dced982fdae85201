"""What a finished run prints and leaves behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

EXIT_INVALID = 1


def publish(folder: Path, summary: dict[str, Any], run: dict[str, Any], *, quiet: bool) -> int:
    """Table and verdict; the folder's path is the last line on standard output."""
    if not quiet:
        from rich.console import Console

        from training.results.study_table import print_study
        from training.results.table import print_summary

        (print_study if "study" in run["config"] else print_summary)(Console(), run, summary)
    print(folder, flush=True)
    return EXIT_INVALID if summary["verdict"] == "invalid" else 0


def publish_folder(folder: Path, summary: dict[str, Any], *, quiet: bool) -> int:
    """`publish` for a folder whose run.json is to be read."""
    from bytemlperf.runs.folder import read_run_json

    return publish(folder, summary, read_run_json(folder), quiet=quiet)
