"""Commands on a run folder whatever its kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bytemlperf.command.exits import one_line
from bytemlperf.command.flags import RunOutput
from bytemlperf.report.terminal import publish
from bytemlperf.report.text import counted
from bytemlperf.runs.files import damage_said
from bytemlperf.runs.folder import read_run_json, write_json
from bytemlperf.runs.kinds import run_kind
from bytemlperf.runs.lock import FolderLock
from bytemlperf.runs.records import RunRecords
from bytemlperf.runs.suite import summarise_suite, verify_suite
from bytemlperf.runs.verdicts import EXIT_INVALID


def summarize_any(folder: Path) -> int:
    """Compute and keep the summary again; print it."""
    with FolderLock(folder), damage_said(folder):
        run = read_run_json(folder)
        kind = run_kind(str(run.get("kind")))
        records: RunRecords[Any] = RunRecords(folder, kind.record)
        summary = summarise_suite(folder, run, records)
        write_json(folder / "summary.json", summary)
        return publish(folder, summary, RunOutput(), run=run, records=records)


def verify_any(folder: Path) -> int:
    verified = verify_suite(folder)
    for text in verified.unchecked:
        print(f"not checked: {one_line(text)}")
    for text in verified.findings:
        print(f"problem: {one_line(text)}")
    if not verified.findings:
        print(f"{folder}: {counted(verified.records, 'record')}, and all that was computed from them: unchanged since the run")
    return EXIT_INVALID if verified.findings else 0
