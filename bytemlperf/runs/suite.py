"""A run folder of the suites other than LLM serving: written record by record, resumed, summarised.

run.json is there before the first record; each record is one `write()`, so that a killed sweep
keeps every case that it counted; the summary is computed from the records on disk. What a record
holds is the suite's own (FORMAT: one JSON object a line).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from bytemlperf.errors import UserError
from bytemlperf.hardware.discover import discover, git_state, package_versions
from bytemlperf.redaction import Redactor
from bytemlperf.runs.checksums import NAME as CHECKSUMS
from bytemlperf.runs.checksums import write_checksums
from bytemlperf.runs.files import DAMAGED, UNREADABLE, damage_said, json_of, why
from bytemlperf.runs.folder import FORMAT_VERSION, create_run_folder, read_run_json, write_json
from bytemlperf.runs.kinds import Verified, run_kind
from bytemlperf.runs.lock import FolderLock, refuse_links
from bytemlperf.runs.log import LogFull, RecordLog, cut_torn_tail, refuse_running
from bytemlperf.runs.records import RunRecords, suite_records
from bytemlperf.version import __version__

LOG_NAME = "records.jsonl"
MAX_FINDINGS = 20


class SuiteRun:
    """An open run folder. Use as a context manager: leaving it writes how the run ended."""

    def __init__(self, folder: Path, run: dict[str, Any], log: RecordLog, lock: FolderLock) -> None:
        self.folder, self.run = folder, run
        self._lock = lock
        self._log = log
        self._failure = ""
        self._ended = False

    @classmethod
    def begin(
        cls,
        runs_dir: Path,
        kind: str,
        label: str,
        config: dict[str, Any],
        *,
        command: list[str],
        seed: int,
        packages: Iterable[str] = (),
        more: dict[str, Any] | None = None,
    ) -> SuiteRun:
        """Make the folder and its run.json. `config` is fully resolved; `packages` are distributions whose
        versions are kept; `more` are further top-level keys (`backend`, `trainer`, …). Raises UserError."""
        folder = create_run_folder(runs_dir, kind, label)
        lock = FolderLock(folder)
        redactor = Redactor()
        run = {
            "format_version": FORMAT_VERSION,
            "kind": kind,
            "label": label,
            "started_at": _now(),
            "command": redactor.command(command),
            "config": config,
            "seed": seed,
            "environment": {
                "bytemlperf_llm": __version__,
                "python": sys.version.split()[0],
                "packages": package_versions(("bytemlperf-llm", *packages)),
                "hardware": discover(),
                "git": git_state(Path.cwd()),
            },
            **(more or {}),
        }
        described = redactor.deep(run)
        assert isinstance(described, dict)
        try:
            write_json(folder / "run.json", described)
            log = RecordLog(folder / LOG_NAME)
        except OSError as error:
            raise UserError(f"can't write into {folder}: {error.strerror}", "give a folder with enough space with --runs-dir") from None
        return cls(folder, described, log, lock)

    @classmethod
    def resume(cls, folder: Path, kind: str, *, command: list[str], check: Callable[[dict[str, Any]], object] | None = None) -> SuiteRun:
        """Go on with a run that was stopped or killed; `records()` tells what is done. A torn last line is cut off. Raises
        UserError where the folder is no run of this kind, can't be written, or is still written by another process; `check`
        gets run.json before anything is changed, and may raise its own."""
        read_run_json(folder)  # says what it is instead
        lock = FolderLock(folder)
        refuse_links(folder)
        run = read_run_json(folder)
        if run.get("kind") != kind:
            raise UserError(f"{folder} is a run of kind {run.get('kind')}", "resume it with its own suite's command")
        if check is not None:
            check(run)
        path = folder / LOG_NAME
        refuse_running(folder)
        try:
            cut_torn_tail(path)
        except OSError as error:
            raise UserError(f"{path} can't be read: {error.strerror}", "make it readable and writable") from None
        try:
            log = RecordLog(path, resume=True)
        except OSError as error:
            raise UserError(f"can't resume {folder}: {error.strerror}", "wait for the run to end, or make it writable") from None
        entry = {"at": _now(), "command": Redactor().command(command), "end_before": run.pop("end", None)}
        with damage_said(folder):
            run["resumed"] = [*run.get("resumed", []), entry]
            for name in ("summary.json", CHECKSUMS):
                (folder / name).unlink(missing_ok=True)
            write_json(folder / "run.json", run)
        return cls(folder, run, log, lock)

    def records(self) -> Iterator[dict[str, Any]]:
        """What is on disk."""
        return suite_records(self.folder)

    def append(self, record: Any) -> None:
        """Keep one record (a msgspec Struct or a dict). Raises UserError when the disk takes no more."""
        try:
            self._log.append(record)
        except LogFull as error:
            self._failure = f"records can no longer be written: {error}"
            raise UserError(f"records can no longer be written: {error}", f"free disk space; the run so far is in {self.folder}") from None

    def fail(self, why: str) -> None:
        """The run as a whole went wrong: its verdict becomes invalid."""
        self._failure = self._failure or why

    def __enter__(self) -> SuiteRun:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self.end(stopped=kind is not None and not issubclass(kind, Exception))

    def end(self, *, stopped: bool = False, **facts: Any) -> dict[str, Any]:
        """Write how it ended, the summary and the page; returns the summary. Further calls change nothing."""
        first = not self._ended
        if first:
            self._ended = True
            with suppress(OSError):
                self._log.close()
            self.run["end"] = {"at": _now(), "stopped_by_user": stopped, "failure": self._failure, **facts}
            with suppress(OSError):  # a full disk: the records are kept, and `summarise` works without
                write_json(self.folder / "run.json", self.run)
                write_checksums(self.folder)
        summary = summarise_suite(self.folder, self.run)
        with suppress(OSError):
            write_json(self.folder / "summary.json", summary)
        if first:
            from bytemlperf.report.write import report_after_run

            report_after_run(self.folder)
            self._lock.release()
        return summary


def summarise_suite(folder: Path, run: dict[str, Any] | None = None) -> dict[str, Any]:
    """The summary of a run of any suite but LLM serving, from what is on disk. Raises UserError."""
    run = read_run_json(folder) if run is None else run
    records = RunRecords(folder)
    kind = run_kind(str(run.get("kind")))
    with damage_said(folder):
        summary = kind.summarise(run, records)
    warnings = [*summary.get("warnings", []), *records.damages]
    end = run.get("end")
    if not isinstance(end, dict):
        warnings.append("the run has no end: it was killed")
    elif end.get("failure"):
        summary["verdict"] = "invalid"
        summary["reasons"] = [str(end["failure"]), *summary.get("reasons", [])]
    elif end.get("stopped_by_user"):
        warnings.append("stopped by the user: the rest was not measured")
    summary["warnings"] = warnings
    return summary


def verify_suite(folder: Path) -> Verified:
    """What is wrong with a run folder. Raises UserError."""
    from bytemlperf.runs.checksums import check_checksums

    run = read_run_json(folder)
    damages: list[str] = []
    count = sum(1 for _ in suite_records(folder, damages))
    return Verified([*check_checksums(folder), *damages, *_against_plan(folder, run), *_check_summary(folder, run)], [], count)


def _check_summary(folder: Path, run: dict[str, Any]) -> list[str]:
    try:
        kept = json_of(folder / "summary.json", dict[str, Any])
    except FileNotFoundError:
        return [f"there is no summary.json; write it with: bmp summarize {folder}"]
    except UNREADABLE as error:
        return [f"summary.json can't be read: {why(error)}"]
    try:
        computed = json.loads(json.dumps(summarise_suite(folder, run)))
    except DAMAGED as error:
        return [f"the summary can't be computed from the records as they are: {why(error)}"]
    return _differences(kept, computed)


def _against_plan(folder: Path, run: dict[str, Any]) -> list[str]:
    """What the records have and the plan doesn't, or the other way round, where the kind can tell."""
    try:
        found = list(islice(run_kind(str(run.get("kind"))).contradictions(run, suite_records(folder)), MAX_FINDINGS + 1))
    except DAMAGED as error:
        return [f"the records can't be checked against the plan: {why(error)}"]
    return [*found[:MAX_FINDINGS], "… and more like these"] if len(found) > MAX_FINDINGS else found


def _differences(kept: dict[str, Any], computed: dict[str, Any]) -> list[str]:
    names = [name for name in {**kept, **computed} if kept.get(name) != computed.get(name)]
    return [f"summary.json: {name} is not what the records give" for name in names]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
