"""What a campaign's records say of each engine under each load: its repeats as one, and engines beside each other.

A figure of several repeats is their mean with Student's interval over the repeats: what one run varies from the next is in it, which
no single run knows. Engines are compared as runs are (`bytemlperf.compare`), the first engine as the baseline.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from msgspec.structs import replace

from bytemlperf.compare.comparison import Comparison, compare_all
from bytemlperf.compare.gate import failures
from bytemlperf.errors import UserError
from bytemlperf.report.gather import RunView
from bytemlperf.runs.conditions import parse
from bytemlperf.runs.folder import part
from bytemlperf.runs.kinds import Figure
from bytemlperf.runs.verdicts import UNFIT, VERDICTS
from bytemlperf_llm.campaign.records import CAPACITY_LOAD, JobRecord, Key, last_of_each
from bytemlperf_llm.kind import mean_bounds
from bytemlperf_llm.sweep.row import PointRow, readings

FAILED = "failed"
"""Said of an engine under a load where no run was measured."""
NOT_RUN = "not run"


class Cell(NamedTuple):
    """An engine under a load; `records` are its runs that have ended, by repeat."""

    engine: str
    scenario: str
    load: str
    planned: int
    records: list[JobRecord]

    @property
    def case(self) -> str:
        """What engines are compared on."""
        return f"{self.scenario} · {self.load}"

    @property
    def name(self) -> str:
        return f"{self.engine} · {self.case}"

    @property
    def measured(self) -> list[JobRecord]:
        return [record for record in self.records if record.status == "ok"]

    @property
    def verdict(self) -> str:
        """The worst of its runs; FAILED where none was measured."""
        known = [record.verdict for record in self.measured]
        return max(
            known, key=lambda verdict: VERDICTS.index(verdict) if verdict in VERDICTS else 0, default=FAILED if self.records else NOT_RUN
        )  # type: ignore[arg-type]

    @property
    def figures(self) -> list[Figure]:
        """Of all repeats together, under the cell's case."""
        tables = [{figure.metric: figure for figure in record.figures} for record in self.measured]
        metrics = dict.fromkeys(metric for table in tables for metric in table)
        return [replace(_pooled([table[metric] for table in tables if metric in table]), key=self.case) for metric in metrics]

    def figure(self, metric: str) -> Figure | None:
        return next((figure for figure in self.figures if figure.metric == metric), None)


def _pooled(figures: list[Figure]) -> Figure:
    """One figure of several runs'. One that a run couldn't claim is not claimed."""
    unknown = next((figure for figure in figures if figure.value is None), None)
    if unknown is not None or len(figures) == 1:
        return unknown or figures[0]
    values = [figure.value for figure in figures if figure.value is not None]
    low, high = mean_bounds(values)
    if figures[0].unit == "%" and high is not None:
        high = max(*values, min(high, 100.0))
    return replace(figures[0], value=statistics.fmean(values), low=low, high=high, count=len(values), samples=values, statistic="mean")


def cells_of(records: Iterable[JobRecord], run: dict[str, Any]) -> list[Cell]:
    """In the order of the campaign's file: scenario, load, engine."""
    ended = last_of_each(records)
    planned: dict[tuple[str, str, str], list[Key]] = {}
    for engine, scenario, load, repeat in part(run, "config").get("jobs", []):
        planned.setdefault((engine, scenario, load), []).append((engine, scenario, load, repeat))
    return [Cell(*cell, planned=len(keys), records=[ended[key] for key in keys if key in ended]) for cell, keys in planned.items()]


def point_of(cell: Cell) -> PointRow | None:
    """As a point of its engine's curve; None where it was not measured, or is no load but a search."""
    if not cell.measured or cell.load == CAPACITY_LOAD:
        return None
    first = cell.measured[0]
    return PointRow(
        curve=cell.engine,
        load=first.level,
        state="measured",
        verdict=cell.verdict,
        devices=first.devices,
        figures=readings(cell.figures),
    )


def unlike(cells: list[Cell]) -> list[str]:
    """A sentence for each run whose schedule is not that of the first engine's under the same load."""
    first: dict[tuple[str, int], JobRecord] = {}
    found = []
    for cell in cells:
        for record in cell.measured:
            other = first.setdefault((cell.case, record.repeat), record)
            if other.schedule_sha256 != record.schedule_sha256:
                found.append(
                    f"{record.name}: another schedule than {other.engine}'s, so not the same load: their tokenizers differ, or their files"
                )
    return found


def lost_runs(cells: list[Cell]) -> dict[tuple[str, str], list[JobRecord]]:
    """Runs that failed, by engine and reason."""
    lost: dict[tuple[str, str], list[JobRecord]] = {}
    for cell in cells:
        for record in cell.records:
            if record.status == "failed":
                lost.setdefault((record.engine, record.reason), []).append(record)
    return lost


def beside_each_other(cells: list[Cell], folder: Path, kind: str) -> Comparison:
    """All engines, each as one run of every case."""
    engines = dict.fromkeys(cell.engine for cell in cells)
    views = [_view(engine, [cell for cell in cells if cell.engine == engine], folder, kind) for engine in engines]
    return compare_all(views, views[0])[0]


def _view(engine: str, cells: list[Cell], folder: Path, kind: str) -> RunView:
    unfit = {verdict: [cell.case for cell in cells if cell.verdict == verdict] for verdict in (FAILED, NOT_RUN, *UNFIT)}
    verdict, cases = next(((verdict, cases) for verdict, cases in unfit.items() if cases), ("valid", []))
    lost = verdict in (FAILED, NOT_RUN)
    summary = {"verdict": "invalid" if lost else verdict, "reasons": [f"{case} {verdict}" if lost else case for case in cases]}
    figures = [replace(figure, label=f"{cell.case} {figure.label}") for cell in cells for figure in cell.figures]
    return RunView(folder=folder / engine, run={"kind": kind, "label": engine}, summary=summary, figures=figures)


def gate_failures(comparison: Comparison, conditions: Iterable[str]) -> list[str]:
    """A sentence for each way in which a condition is met, or can't be evaluated."""
    found: list[str] = []
    for text in conditions:
        try:
            found += failures([comparison], [parse(text)])
        except UserError as error:
            found.append(f"{text}: {error.cause}")
    return list(dict.fromkeys(found))
