"""A run folder of any suite: reserved, described, written record by record, summarised at its end; gone on with.

run.json is written twice, whole each time: before the first record, and at the end. Each record is one `write()`, so that a
killed run keeps every record that it counted; the summary is computed from the records on disk. What a record holds is the
suite's own (FORMAT: one JSON object a line).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bytemlperf.errors import UserError
from bytemlperf.hardware.machine import discover, git_state, package_versions
from bytemlperf.redaction import Redactor
from bytemlperf.runs.checksums import NAME as CHECKSUMS
from bytemlperf.runs.checksums import check_checksums, write_checksums
from bytemlperf.runs.files import DAMAGED, damage_said, pack_logs, read_plain, unpack_logs, why, writing
from bytemlperf.runs.folder import FORMAT_VERSION, create_run_folder, json_text, read_run_json, read_run_of, write_json
from bytemlperf.runs.kinds import RunKind, Unchecked, Verified, few, run_kind
from bytemlperf.runs.lock import FolderLock, refuse_links
from bytemlperf.runs.log import LogFull, RecordLog, cut_torn_tail, refuse_running
from bytemlperf.runs.records import RunRecords
from bytemlperf.version import __version__
from engines.untrusted import decode_json

LOG_NAME = "records.jsonl"


class SuiteRun:
    """An open run folder, locked. Use as a context manager: leaving it writes how the run ended, and removes a folder that was
    reserved and never described."""

    def __init__(self, folder: Path, kind: str, lock: FolderLock, run: dict[str, Any] | None = None) -> None:
        self.folder, self.kind, self.run = folder, kind, run or {}
        self._lock = lock
        self._log: RecordLog | None = None
        self.begun = False
        self._failure = ""
        self.unwritten = ""
        self._summary: dict[str, Any] | None = None
        self._records: RunRecords[Any] | None = None

    @classmethod
    def reserve(cls, runs_dir: Path, kind: str, label: str) -> SuiteRun:
        """A new folder, empty until the run is described. Raises UserError."""
        folder = create_run_folder(runs_dir, kind, label)
        return cls(folder, kind, FolderLock(folder), {"label": label})

    @classmethod
    def begin(cls, runs_dir: Path, kind: str, label: str, config: dict[str, Any], **about: Any) -> SuiteRun:
        run = cls.reserve(runs_dir, kind, label)
        run.describe(config, **about)
        return run

    def describe(
        self,
        config: dict[str, Any],
        *,
        command: list[str],
        seed: int,
        packages: Iterable[str] = (),
        versions: dict[str, str] | None = None,
        more: dict[str, Any] | None = None,
        redactor: Redactor | None = None,
        log: str | None = LOG_NAME,
    ) -> None:
        """Write run.json. `config` is fully resolved; `packages` are distributions whose versions are kept, `versions` others;
        `more` are further top-level keys (`backend`, `trainer`, …); `log` is what `append` writes to, if anything. Raises UserError."""
        redactor = redactor or Redactor()
        described = redactor.deep(
            {
                "format_version": FORMAT_VERSION,
                "kind": self.kind,
                "label": self.run["label"],
                "started_at": _now(),
                "command": redactor.command(command),
                "config": config,
                "seed": seed,
                "environment": {
                    "bytemlperf_llm": __version__,
                    "python": sys.version.split()[0],
                    "packages": package_versions(("bytemlperf-llm", *packages)) | (versions or {}),
                    "hardware": discover(),
                    "git": git_state(Path.cwd()),
                },
                **(more or {}),
            }
        )
        assert isinstance(described, dict)
        self.run = described
        with writing(self.folder, "give a folder with enough space with --runs-dir"):
            write_json(self.folder / "run.json", described)
            self._log = None if log is None else RecordLog(self.folder / log)
        self.begun = True

    @classmethod
    def open(cls, folder: Path, kind: str) -> SuiteRun:
        """A run that was stopped or killed, locked and unchanged until `go_on`. Raises UserError where the folder is no run of this
        kind, or is still written by another process."""
        read_run_json(folder)  # says what it is instead
        lock = FolderLock(folder)
        refuse_links(folder)
        run = read_run_of(folder, kind, "resume it with its own suite's command")
        refuse_running(folder)
        return cls(folder, kind, lock, run)

    def go_on(
        self, *, command: list[str], more: dict[str, Any] | None = None, redactor: Redactor | None = None, log: str | None = LOG_NAME
    ) -> None:
        """What was summed up at its end holds no longer; a torn last line of `log` is cut off. `more` is kept with the command in
        `resumed`. Raises UserError where the folder can't be written."""
        redactor = redactor or Redactor()
        try:
            unpack_logs(self.folder)
            if log is not None:
                cut_torn_tail(self.folder / log)
                self._log = RecordLog(self.folder / log, resume=True)
        except OSError as error:
            raise UserError(f"can't resume {self.folder}: {log}: {error.strerror}", "make it readable and writable") from None
        entry = {"at": _now(), "command": redactor.command(command), "end_before": self.run.pop("end", None), **(more or {})}
        with damage_said(self.folder):
            self.run["resumed"] = [*self.run.get("resumed", []), redactor.deep(entry)]
            for name in ("summary.json", CHECKSUMS):
                (self.folder / name).unlink(missing_ok=True)
            write_json(self.folder / "run.json", self.run)
        self.begun = True

    def records(self) -> RunRecords[Any]:
        """What is on disk; after the end, with what was made of it."""
        return self._records or RunRecords(self.folder, run_kind(self.kind).record)

    def append(self, record: Any) -> None:
        """Keep one record (a msgspec Struct or a dict). Raises UserError when the disk takes no more."""
        assert self._log is not None
        try:
            self._log.append(record)
        except LogFull as error:
            self._failure = f"records can no longer be written: {error}"
            raise UserError(f"records can no longer be written: {error}", f"free disk space; the run so far is in {self.folder}") from None
        if run_kind(self.kind).of_runs:
            with writing(self.folder, "free disk space; the folders of its runs are kept"):
                write_json(self.folder / f"{self.kind}.json", summarise_suite(self.folder, self.run))

    def fail(self, why: str) -> None:
        """The run as a whole went wrong: its verdict becomes invalid."""
        self._failure = self._failure or why

    def __enter__(self) -> SuiteRun:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if self.begun:
            self.end(stopped=kind is not None and not issubclass(kind, Exception))
            return
        with suppress(OSError):  # only an empty one goes
            self.folder.rmdir()
        self._lock.release()

    def end(
        self,
        *,
        stopped: bool = False,
        summarise: bool = True,
        report: bool = True,
        hears: Callable[[Any], None] | None = None,
        **facts: Any,
    ) -> dict[str, Any]:
        """Write how it ended, the summary and the page; returns the summary, computed from what is on disk even where the disk takes
        no more. `hears` gets each record. Without `summarise` there is only how it ended. Further calls change nothing."""
        if self._summary is not None:
            return self._summary
        self._summary = {}
        with suppress(OSError):
            if self._log is not None:
                self._log.close()
            pack_logs(self.folder)
        self.run["end"] = {"at": _now(), "stopped_by_user": stopped, "failure": self._failure, **facts}
        kind = run_kind(self.kind)
        self._records = records = RunRecords[Any](self.folder, kind.record, hears=hears)
        try:
            if summarise:
                self._summary = summarise_suite(self.folder, self.run, records)
                self.run["end"] |= kind.delivered(self._summary)
        finally:
            self._keep()
        if report and summarise and not self.unwritten:
            from bytemlperf.report.write import report_after_run

            report_after_run(self.folder, records)
        self._lock.release()
        return self._summary

    def _keep(self) -> None:
        """run.json, the checksums, summary.json. What has no room is said: the records are there all the same."""
        try:
            write_json(self.folder / "run.json", self.run)
            write_checksums(self.folder)
            if self._summary:
                write_json(self.folder / "summary.json", self._summary)
                if run_kind(self.kind).of_runs:
                    write_json(self.folder / f"{self.kind}.json", self._summary)
        except OSError as error:
            self.unwritten = f"can't write into {self.folder}: {error.strerror}; the records are kept"
            fix = f"free disk space, or make the folder writable, then bmp summarize {self.folder}"
            print(f"warning: {self.unwritten}: {fix}", file=sys.stderr)


def summarise_suite(folder: Path, run: dict[str, Any] | None = None, records: RunRecords[Any] | None = None) -> dict[str, Any]:
    """The summary of a run, from what is on disk; `run` stands for a run.json that is not written yet. Raises UserError."""
    run = read_run_json(folder) if run is None else run
    kind = run_kind(str(run.get("kind")))
    records = records or RunRecords(folder, kind.record)
    with damage_said(folder):
        summary = kind.summarise(run, records)
    warnings = [*summary.get("warnings", []), *map(str, records.damages)]
    end = run.get("end")
    if not isinstance(end, dict):
        warnings.append("the run has no end: it was killed" + (f"; {kind.killed_means}" if kind.killed_means else ""))
    elif end.get("failure"):
        summary["verdict"] = "invalid"
        summary["reasons"] = [str(end["failure"]), *summary.get("reasons", [])]
    elif end.get("stopped_by_user"):
        warnings.append(f"stopped by the user: {kind.stopped_means}")
    summary["warnings"] = warnings
    return summary


def verify_suite(folder: Path) -> Verified:
    """What is wrong with a run folder. Raises UserError where the folder is no run at all."""
    if not (folder / "run.json").exists():
        read_run_json(folder)  # says what the folder is instead
    found = check_checksums(folder)
    try:
        run = read_run_json(folder)
        kind = run_kind(str(run.get("kind")))
    except UserError as error:
        return Verified([*found, error.cause], [], 0)
    records: RunRecords[Any] = RunRecords(folder, kind.record)
    try:
        found += kind.verify(run, records)
    except DAMAGED as error:
        found.append(f"the records can't be checked against the plan: {why(error)}")
    found += _check_summary(folder, run, kind, records)
    found += few(map(str, records.damages))
    unchecked = [text for text in found if isinstance(text, Unchecked)]
    return Verified([text for text in found if not isinstance(text, Unchecked)], [*unchecked], records.count)


def _check_summary(folder: Path, run: dict[str, Any], kind: RunKind, records: RunRecords[Any]) -> list[str]:
    """summary.json, byte for byte, and what run.json has of it, against the one computed now."""
    try:
        kept = read_plain(folder / "summary.json")
    except FileNotFoundError:
        return [f"there is no summary.json; write it with: bmp summarize {folder}"]
    except OSError as error:
        return [f"summary.json can't be read: {error.strerror}"]
    try:
        computed = summarise_suite(folder, run, records)
    except DAMAGED as error:
        return [f"the summary can't be computed from the records as they are: {why(error)}"]
    end, delivered = run.get("end"), kind.delivered(computed)
    stands = {name: end[name] for name in delivered if name in end} if isinstance(end, dict) else {}  # a killed run has none
    found = few(f"run.json: end.{text}" for text in _differences(stands, {name: delivered[name] for name in stands}))
    if kept == json_text(computed).encode():
        return found
    try:
        differences = few(_differences(decode_json(kept), computed))
    except ValueError:
        return [*found, "summary.json is damaged: not valid JSON"]
    return found + ([f"summary.json: {text}" for text in differences] or ["summary.json is not formatted as this program writes it"])


def _differences(kept: object, computed: object) -> Iterator[str]:
    before, now = dict(_leaves(kept)), dict(_leaves(computed))
    for path in {**before, **now}:
        if before.get(path, _ABSENT) != now.get(path, _ABSENT):
            yield f"{path} is {before.get(path, _ABSENT)}, the records give {now.get(path, _ABSENT)}"


_ABSENT = "absent"


def _leaves(value: object, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list | tuple):
        for place, item in enumerate(value):
            yield from _leaves(item, f"{path}[{place}]")
    else:
        yield path, json.dumps(value)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
