"""Commands on a run folder whatever its kind."""

from __future__ import annotations

from pathlib import Path

from bytemlperf.command.console import terminal
from bytemlperf.command.exits import one_line
from bytemlperf.errors import UserError
from bytemlperf.report.terminal import print_run
from bytemlperf.runs.files import damage_said
from bytemlperf.runs.folder import read_run_json, write_json
from bytemlperf.runs.kinds import Verified, run_kind
from bytemlperf.runs.lock import FolderLock
from bytemlperf.runs.suite import summarise_suite, verify_suite
from bytemlperf.runs.verdicts import EXIT_INVALID, exit_status


def summarize_any(folder: Path) -> int:
    """Compute and keep the summary again; print it."""
    run = read_run_json(folder)
    status = run_kind(str(run.get("kind"))).summarize(folder)
    if status is not None:
        return status
    with FolderLock(folder), damage_said(folder):
        summary = summarise_suite(folder, run)
        write_json(folder / "summary.json", summary)
        print_run(terminal(), folder, run, summary)
    print(folder)
    return exit_status(summary.get("verdict"))


def verified_folder(folder: Path, default_kind: str = "") -> Verified:
    """What its kind finds. `default_kind` is that of a folder whose run.json can't be read. Raises UserError."""
    try:
        kind = read_run_json(folder).get("kind")
    except UserError:
        if not default_kind:
            raise
        kind = default_kind  # a damaged run.json is one of the findings
    with damage_said(folder):
        return run_kind(str(kind)).verify(folder) or verify_suite(folder)


def verify_any(folder: Path, default_kind: str = "") -> int:
    """One line for each finding."""
    verified = verified_folder(folder, default_kind)
    for text in verified.unchecked:
        print(f"not checked: {one_line(text)}")
    for text in verified.findings:
        print(f"problem: {one_line(text)}")
    if not verified.findings:
        print(f"{folder}: {verified.records} records and all that was computed from them are unchanged since the run")
    return EXIT_INVALID if verified.findings else 0
