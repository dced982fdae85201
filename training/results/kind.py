"""What a training run can tell: the suite's RunKind."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from bytemlperf.runs.kinds import Figure, RunKind, Section
from training.results.records import Record
from training.results.study_records import StudyRecord


class TrainingKind(RunKind):
    """Runs, and scaling, drift and prediction studies over them: `config.study` says which."""

    name = "Training"
    record = Record | StudyRecord

    def summarise(self, run: dict[str, Any], records: Iterable[Any]) -> dict[str, Any]:
        """From the records alone."""
        from training.results.study_summary import summarise_study
        from training.results.summary import summarise

        if "study" in run["config"]:
            return summarise_study(run, records)
        return summarise(run, records)

    def contradictions(self, run: dict[str, Any], records: Iterable[Any]) -> Iterator[str]:
        """Steps against the plan in run.json: none beyond it, none left out, as many ranks' times as there are ranks."""
        from training.results.checks import against_plan
        from training.results.history import History

        if "study" not in run["config"]:
            yield from against_plan(run["config"], History(records))

    def figures(self, run: dict[str, Any], summary: dict[str, Any], records: Iterable[Any]) -> list[Figure]:
        """What a comparison can use."""
        from training.results.figures import figures
        from training.results.study_page import study_figures

        if "study" in run["config"]:
            return study_figures(run, summary)
        return figures(run, summary, records)

    def sections(self, run: dict[str, Any], summary: dict[str, Any], records: Iterable[Any]) -> list[Section]:
        """The page."""
        from training.results.sections import sections
        from training.results.study_page import study_sections

        if "study" in run["config"]:
            return study_sections(summary)
        return sections(summary, records)

    def terminal(self, run: dict[str, Any], summary: dict[str, Any], records: Iterable[Any]) -> list[Section]:  # noqa: ARG002
        """What a run's end shows."""
        from training.results.sections import terminal_sections
        from training.results.study_page import study_table

        if "study" in run["config"]:
            return [study_table(summary)]
        return terminal_sections(run, summary)


KIND = TrainingKind()
