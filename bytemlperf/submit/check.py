"""Reading a submission and applying the rules to it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from bytemlperf.errors import UserError
from bytemlperf.runs.files import UNREADABLE, damage_said, json_of
from bytemlperf.runs.folder import misshapen, read_run_json
from bytemlperf.runs.kinds import run_kind
from bytemlperf.runs.records import RunRecords
from bytemlperf.runs.suite import verify_suite
from bytemlperf.submit.declaration import Declaration, read_declaration
from bytemlperf.submit.rules import Finding, Read, RunRead, all_rules, declared_files

RUNS = "runs"


class Checked(NamedTuple):
    """A submission and what the rules say of it."""

    declared: Declaration
    runs: list[Path]
    findings: list[Finding]

    @property
    def accepted(self) -> bool:
        """No rule found a problem; warnings are told and accepted."""
        return not any(finding.level == "problem" for finding in self.findings)


def check_submission(folder: Path) -> Checked:
    """Apply every rule. Raises UserError where there is nothing to apply them to."""
    declared = read_declaration(folder)
    files = [
        Finding("problem", "files", str(path), "declared but missing, or not a regular file")
        for path in declared_files(declared)
        if not _plain(folder, path)
    ]
    runs = run_folders(folder)
    read, unreadable = [], []
    for path in runs:
        try:
            read.append(read_one(path))
        except UserError as error:
            unreadable.append(Finding("problem", "verify", path.name, error.cause))
    lock_path = folder / declared.environment.lock
    lock = lock_path.read_text(encoding="utf-8", errors="replace") if _plain(folder, Path(declared.environment.lock)) else ""
    return Checked(declared, runs, [*files, *unreadable, *all_rules(Read(declared, read, lock))])


def run_folders(folder: Path) -> list[Path]:
    """The run folders below runs/. Raises UserError when there is none."""
    runs = folder / RUNS
    folders = sorted(path.parent for path in runs.glob("*/run.json"))
    for path in (runs, *folders):
        if path.is_symlink():
            raise UserError(f"{path} is a link", "put the run folders there themselves")
    if not folders:
        raise UserError(f"{runs} holds no run folder", "put the complete, unchanged run folders there")
    return folders


def read_one(path: Path) -> RunRead:
    """One run folder: its run.json, verdict, what verify finds, and its jobs. Raises UserError."""
    run = read_run_json(path)
    problems = misshapen(run)
    with damage_said(path):
        problems += verify_suite(path).findings
        kind = run_kind(str(run.get("kind")))
        return RunRead(path.name, run, _verdict(path), problems, kind.jobs(run, RunRecords(path, kind.record)))


def _verdict(path: Path) -> str:
    try:
        summary = json_of(path / "summary.json")
    except UNREADABLE:
        return ""  # verify says so
    return str(summary.get("verdict", "")) if isinstance(summary, dict) else ""


def _plain(folder: Path, path: Path) -> bool:
    """A plain file of the folder itself: no link leads to it, and none to a folder on the way."""
    if path.is_absolute() or ".." in path.parts:
        return False
    return (folder / path).is_file() and not any((folder / part).is_symlink() for part in (path, *path.parents[:-1]))
