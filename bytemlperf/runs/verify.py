"""Commands on a run folder whatever its kind: LLM serving has its own code, the others share one."""

from __future__ import annotations

from pathlib import Path

from bytemlperf.command.exits import one_line
from bytemlperf.runs.files import damage_said
from bytemlperf.runs.folder import read_run_json, write_json
from bytemlperf.runs.lock import FolderLock
from bytemlperf.runs.suite import summarise_suite, verify_suite
from bytemlperf.runs.verdicts import EXIT_INVALID, exit_status
from bytemlperf_llm.run.command import summarize_run, verify_run_folder


def summarize_any(folder: Path) -> int:
    """Compute and keep the summary again; say the verdict."""
    if read_run_json(folder).get("kind") == "llm":
        return summarize_run(folder)
    with FolderLock(folder), damage_said(folder):
        summary = summarise_suite(folder)
        write_json(folder / "summary.json", summary)
    for reason in (*summary.get("reasons", []), *summary.get("warnings", [])):
        print(one_line(str(reason)))
    print(f"{folder}: {str(summary.get('verdict', 'no verdict')).upper()}")
    return exit_status(summary.get("verdict"))


def verify_any(folder: Path) -> int:
    """One line for each finding."""
    if read_run_json(folder).get("kind") == "llm":
        return verify_run_folder(folder)
    with damage_said(folder):
        findings, count = verify_suite(folder)
    for text in findings:
        print(f"problem: {one_line(text)}")
    if not findings:
        print(f"{folder}: {count} records and the summary are as the run left them")
    return EXIT_INVALID if findings else 0
