"""A run folder as a page needs it: whatever can be read, and a sentence for whatever can't.

A folder that is no run at all raises; everything else (a torn log, a newer format, a kind that isn't
installed, a damaged summary) becomes a problem that the page names above what is left.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from bytemlperf.errors import UserError
from bytemlperf.runs.files import DAMAGED, UNREADABLE, json_of, why
from bytemlperf.runs.folder import FORMAT_VERSION, misshapen, read_run_json
from bytemlperf.runs.kinds import Figure, RunKind, Section, run_kind
from bytemlperf.runs.records import RunRecords

MAX_PROBLEMS_SHOWN = 20
MadeT = TypeVar("MadeT")


class RunView(msgspec.Struct, kw_only=True):
    """One run, gathered. `summary` is None where there is none and none can be computed."""

    folder: Path
    run: dict[str, Any]
    summary: dict[str, Any] | None = None
    figures: list[Figure] = []
    sections: list[Section] = []
    problems: list[str] = []
    suite: RunKind = msgspec.field(default_factory=RunKind)

    @property
    def kind_name(self) -> str:
        return self.suite.name or self.kind

    @property
    def kind(self) -> str:
        return str(self.run.get("kind") or "unknown")

    @property
    def label(self) -> str:
        return str(self.run.get("label") or self.folder.name)

    @property
    def started(self) -> str:
        """UTC, to the second."""
        return str(self.run.get("started_at") or "")[:19].replace("T", " ")

    @property
    def verdict(self) -> str:
        return str((self.summary or {}).get("verdict") or "unknown")

    @property
    def reasons(self) -> list[str]:
        return [str(reason) for reason in (self.summary or {}).get("reasons", [])]

    @property
    def warnings(self) -> list[str]:
        return [str(warning) for warning in (self.summary or {}).get("warnings", [])]

    @property
    def subject(self) -> dict[str, Any]:
        """What was measured: the engine, backend or trainer."""
        for name in ("engine", "backend", "trainer"):
            found = self.run.get(name)
            if found:
                return found if isinstance(found, dict) else {"name": str(found)}
        return {}


def view_run(folder: Path, records: RunRecords[Any] | None = None, *, sections: bool = True, samples: bool = True) -> RunView:
    """Gather one run, from `records` where they were walked already; without `samples` figures may come from the summary
    alone. Raises UserError where the folder is no run."""
    run, problems = _read_run(folder)
    view = RunView(folder=folder, run=run, problems=problems)
    try:
        view.suite = kind = run_kind(view.kind)
    except UserError as error:
        problems.append(f"{error.cause}: only the parts common to all runs are shown")
        kind = None
    records = records or RunRecords(folder, view.suite.record, samples=samples)
    view.summary = _summary(view, kind, records)
    if kind is not None:
        summary = view.summary or {}
        view.figures = _attempt(problems, "figures", lambda: kind.figures(run, summary, records)) or []
        if sections:
            view.sections = _attempt(problems, "sections", lambda: kind.sections(run, summary, records)) or []
    known = " ".join(view.warnings)
    damages = [*map(str, records.damages), *records.notes]
    problems += [damage for damage in damages[:MAX_PROBLEMS_SHOWN] if damage not in known]
    if len(damages) > MAX_PROBLEMS_SHOWN:
        problems.append(f"{len(damages) - MAX_PROBLEMS_SHOWN} more lines of the logs are not records")
    return view


def _read_run(folder: Path) -> tuple[dict[str, Any], list[str]]:
    try:
        run = read_run_json(folder)
        return run, misshapen(run)
    except UserError as error:
        newer = _newer_format(folder)
        if newer is None:
            raise
        return newer, [f"{error.cause}: the readable parts are shown; {error.fix}"]


def _newer_format(folder: Path) -> dict[str, Any] | None:
    """run.json of a format after ours, None where that's not what is wrong with it."""
    with suppress(OSError, ValueError):
        run = json_of(folder / "run.json")
        if isinstance(run, dict) and isinstance(run.get("format_version"), int) and run["format_version"] > FORMAT_VERSION:
            return run
    return None


def _summary(view: RunView, kind: RunKind | None, records: RunRecords[Any]) -> dict[str, Any] | None:
    """What summary.json says; computed where it is missing or damaged."""
    path = view.folder / "summary.json"
    try:
        kept = json_of(path)
        if isinstance(kept, dict):
            return kept
        view.problems.append("summary.json is damaged: recomputed from the records")
    except FileNotFoundError:
        pass  # a killed run
    except UNREADABLE as error:
        view.problems.append(f"summary.json can't be read ({why(error)}): recomputed from the records")
    if kind is None:
        return None
    return _attempt(view.problems, "the summary", lambda: _computed(view, kind, records))


def _computed(view: RunView, kind: RunKind, records: RunRecords[Any]) -> dict[str, Any]:
    summary = kind.summarise(view.run, records)
    if view.run.get("end") is None and not any("no end" in str(text) for text in summary.get("warnings", [])):
        summary["warnings"] = [*summary.get("warnings", []), "the run has no end: it was killed or is still in progress"]
    return summary


def _attempt(problems: list[str], what: str, compute: Callable[[], MadeT]) -> MadeT | None:
    try:
        return compute()
    except UserError as error:
        problems.append(f"{what}: {error.cause}; {error.fix}")
    except DAMAGED as error:
        problems.append(f"{what} can't be built from the folder's contents: {why(error)}")
    return None
