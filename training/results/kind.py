"""What a training run can tell: the suite's RunKind."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bytemlperf.runs.folder import part
from bytemlperf.runs.kinds import Figure, RunKind, Section
from training.results.checks import against_plan
from training.results.figures import figures
from training.results.history import History
from training.results.records import Record
from training.results.sections import sections, terminal_sections
from training.results.study_page import study_figures, study_sections, study_table
from training.results.study_records import StudyRecord
from training.results.study_summary import summarise_study
from training.results.summary import summarise


class TrainingKind(RunKind):
    """Runs, and scaling, drift and prediction studies over them: `config.study` says which."""

    name = "Training"
    record = Record | StudyRecord

    def summarise(self, run: dict[str, Any], records: Iterable[Any]) -> dict[str, Any]:
        """From the records alone."""
        return summarise_study(run, records) if _is_study(run) else summarise(run, records)

    def contradictions(self, run: dict[str, Any], records: Iterable[Any]) -> Iterable[str]:
        """Steps against the plan in run.json: none beyond it, none left out, as many ranks' times as there are ranks."""
        return () if _is_study(run) else against_plan(run["config"], History(records))

    def figures(self, run: dict[str, Any], summary: dict[str, Any], records: Iterable[Any]) -> list[Figure]:
        """What a comparison can use."""
        return study_figures(run, summary) if _is_study(run) else figures(run, summary, records)

    def devices_used(self, run: dict[str, Any]) -> int | None:
        """One a rank; ranks on a CPU share it."""
        world = part(run, "config", "layout").get("world")
        return world if isinstance(world, int) and part(run, "trainer").get("device") != "cpu" else None

    def sections(self, run: dict[str, Any], summary: dict[str, Any], records: Iterable[Any]) -> list[Section]:
        """The page."""
        return study_sections(summary) if _is_study(run) else sections(summary, records)

    def terminal(self, run: dict[str, Any], summary: dict[str, Any], records: Iterable[Any]) -> list[Section]:  # noqa: ARG002
        """What a run's end shows."""
        return [study_table(summary)] if _is_study(run) else terminal_sections(run, summary)


def _is_study(run: dict[str, Any]) -> bool:
    return "study" in run["config"]


KIND = TrainingKind()
