"""Runs beside each other: which figures they share, how each differs from the baseline, what was set differently."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from bytemlperf.compare.statistics import Change, change, significant
from bytemlperf.errors import UserError
from bytemlperf.hardware.measured import is_remote
from bytemlperf.report.gather import RunView, view_run
from bytemlperf.report.run_page import name_of
from bytemlperf.report.text import flattened
from bytemlperf.runs.files import DAMAGED, damage_said, why
from bytemlperf.runs.folder import part
from bytemlperf.runs.kinds import Figure, Section, Text
from bytemlperf.runs.verdicts import VERDICTS

Judgement = Literal["better", "worse", "different", "negligible", "same", "unknown"]
"""`same` is: no difference seen; `different` is one of a figure that is neither better high nor low; `negligible` one that is no chance
and smaller than the smallest effect that was asked for."""

MIN_EFFECT = 0.01
_NAMES = "label|runs_dir|started_at|fail_if|json|quiet"
_MEASURED = r"config\.probe\.|\.prompts\.salt$|\.link\.(gtransfers_per_s|lanes)$"
NOT_SETTINGS = re.compile(rf"config\.(flags\.)?({_NAMES})$|{_MEASURED}")
"""Names, salts, what `rate: auto` measured on its way to the rate, and links that go slower while nothing uses them."""
SAME_MEMORY = 0.02
"""Kernels keep a little more or less of a machine's memory to themselves at every start."""


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """One run's figure in a row, and how it differs from the baseline's (None in the baseline's own column)."""

    figure: Figure | None
    change: Change | None = None
    judgement: Judgement = "unknown"

    @property
    def ratio(self) -> float | None:
        """New over baseline; None where there is nothing to tell."""
        return None if self.change is None else self.change.ratio


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One figure over all runs, in their order."""

    key: str
    metric: str
    label: str
    unit: str
    better: str
    headline: bool
    sides: list[Side]


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Runs of one kind. `names` are short and distinct; `settings` are rows of what differs: key, and a text for each run; `paired`
    are those of the baseline's schedule; `beside` is what their suite shows of all of them together; `different_loads` says that and how
    the runs' loads differ, empty where they don't."""

    kind: str
    views: list[RunView]
    names: list[str]
    baseline: int
    rows: list[Row]
    settings: list[list[str]]
    notes: list[str]
    paired: list[bool]
    beside: list[Section] = []
    different_loads: str = ""

    def row(self, metric: str) -> list[Row]:
        """The rows of a metric, or of a label."""
        return [row for row in self.rows if metric in (row.metric, row.label)]


def gather(folders: Sequence[Path]) -> tuple[list[RunView], list[str]]:
    """Every run that can be read, and a sentence for each that can't. Raises UserError where fewer than one is left."""
    views, problems = [], []
    for folder in folders:
        try:
            with damage_said(folder):
                views.append(view_run(folder, sections=False))
        except UserError as error:
            problems.append(error.cause)
    if not views:
        raise UserError("; ".join(problems) or "no run to compare", "name folders below the runs directory")
    problems += [f"{view.folder.name}: {text}" for view in views for text in view.problems]
    return views, problems


def compare_all(
    views: Sequence[RunView], baseline: RunView, metrics: Sequence[str] = (), min_effect: float = MIN_EFFECT
) -> list[Comparison]:
    """One comparison for each kind, that of the baseline first. Other kinds have their first run as baseline. A change of less than
    `min_effect` (a share) is negligible, however sure."""
    kinds = list(dict.fromkeys([baseline.kind, *(view.kind for view in views)]))
    comparisons = []
    for kind in kinds:
        members = [view for view in views if view.kind == kind]
        first = baseline if kind == baseline.kind else members[0]
        comparisons.append(_compare(members, members.index(first), metrics, min_effect))
    return comparisons


def _compare(views: list[RunView], baseline: int, metrics: Sequence[str], min_effect: float) -> Comparison:
    names = short_names(views)
    tables = [{(figure.key, figure.metric): figure for figure in view.figures} for view in views]
    keys = list(dict.fromkeys(key for table in tables for key in table))
    schedule = views[baseline].run.get("schedule_sha256")
    paired = [bool(schedule) and view.run.get("schedule_sha256") == schedule for view in views]
    rows = []
    for key in keys:
        figures = [table.get(key) for table in tables]
        first = next(figure for figure in figures if figure is not None)
        if metrics and not any(wanted in (first.metric, first.label) for wanted in metrics):
            continue
        rows.append(_row(first, figures, baseline, paired))
    rows = _judged(sorted(rows, key=lambda row: not row.headline), min_effect)
    return Comparison(
        kind=views[0].kind,
        views=list(views),
        names=names,
        baseline=baseline,
        rows=rows,
        settings=_settings(views),
        notes=_notes(views, names, baseline),
        paired=paired,
        beside=_beside(views, names),
        different_loads=_different_loads(rows, names),
    )


def _row(first: Figure, figures: list[Figure | None], baseline: int, paired: list[bool]) -> Row:
    base = figures[baseline]
    sides = []
    for place, figure in enumerate(figures):
        difference = None
        if place != baseline and figure is not None and base is not None:
            difference = _change(base, figure, paired=paired[place])
        sides.append(Side(figure=figure, change=difference))
    return Row(
        key=first.key,
        metric=first.metric,
        label=name_of(first),
        unit=first.unit,
        better=first.better,
        headline=any(figure.headline for figure in figures if figure is not None),
        sides=sides,
    )


def _change(base: Figure, figure: Figure, *, paired: bool) -> Change:
    if base.unit != figure.unit:
        return Change(ratio=None, method="another unit")
    if base.better == "higher" and base.load != figure.load:
        return Change(ratio=None, method="another load, which throughput follows")
    return change(base, figure, paired=paired)


def _different_loads(rows: Sequence[Row], names: Sequence[str]) -> str:
    """Each run's loads, of the rows where they differ."""
    loads: dict[str, dict[str, None]] = {}
    for row in rows:
        if len({side.figure.load for side in row.sides if side.figure is not None}) > 1:
            for name, side in zip(names, row.sides, strict=True):
                if side.figure is not None:
                    loads.setdefault(name, {})[side.figure.load or "not known"] = None
    each = "; ".join(f"{name}: {' and '.join(texts)}" for name, texts in loads.items())
    return f"Different loads: {each}. Rates follow the load and are not judged." if each else ""


def _judged(rows: list[Row], min_effect: float) -> list[Row]:
    """The same with judgements, false alarms held down over all of them."""
    places = [(row, side) for row in range(len(rows)) for side in range(len(rows[row].sides)) if rows[row].sides[side].change is not None]
    changes = [rows[row].sides[side].change for row, side in places]
    real = significant([None if each is None else each.p_value for each in changes])
    judged = [list(row.sides) for row in rows]
    for (row, side), each, is_real in zip(places, changes, real, strict=True):
        assert each is not None
        judgement = judge(rows[row].better, each, is_real=is_real, min_effect=min_effect)
        judged[row][side] = msgspec.structs.replace(judged[row][side], judgement=judgement)
    return [msgspec.structs.replace(row, sides=sides) for row, sides in zip(rows, judged, strict=True)]


def judge(better: str, difference: Change, *, is_real: bool, min_effect: float = 0.0) -> Judgement:
    """What a difference means for somebody who has to choose."""
    if difference.ratio is None or difference.p_value is None:
        return "unknown"
    if not is_real:
        return "same"
    if abs(difference.ratio - 1) < min_effect:
        return "negligible"
    if better == "neither":
        return "different"
    return "better" if (difference.ratio < 1) == (better == "lower") else "worse"


def geometric_mean(rows: Sequence[Row], place: int) -> tuple[float, int] | None:
    """Over the rows that have a ratio: its geometric mean, and how many they are."""
    ratios = [side.change.ratio for row in rows for side in [row.sides[place]] if side.change is not None and side.change.ratio]
    return (math.exp(math.fsum(map(math.log, ratios)) / len(ratios)), len(ratios)) if ratios else None


def _beside(views: Sequence[RunView], names: Sequence[str]) -> list[Section]:
    """What their suite shows of all of them, or why it can't: a summary may be a stranger's."""
    try:
        return views[0].suite.beside(names, [view.summary or {} for view in views])
    except DAMAGED as error:
        return [Text(body=f"they can't be shown together: {why(error)}", style="warning")]


def short_names(views: Sequence[RunView]) -> list[str]:
    """Labels; where two are the same, with the folder's last part; counted where that doesn't help."""
    labels = [view.label for view in views]
    names = [
        label if labels.count(label) == 1 else f"{label} {view.folder.name.rsplit('-', 1)[-1]}"
        for label, view in zip(labels, views, strict=True)
    ]
    return [name if names.count(name) == 1 else f"{name} ({place})" for place, name in enumerate(names, start=1)]


def _settings(views: Sequence[RunView]) -> list[list[str]]:
    """What differs in configuration, subject, hardware and packages."""
    flat = [dict(flattened(_described(view))) for view in views]
    keys = list(dict.fromkeys(key for each in flat for key in each))
    rows = []
    for key in keys:
        values = [each.get(key, "–") for each in flat]
        if len(set(values)) > 1 and not NOT_SETTINGS.search(key) and not _as_much_memory(key, values):
            rows.append([key, *values])
    return rows


def _as_much_memory(key: str, values: Sequence[str]) -> bool:
    if not key.endswith(("memory_bytes", "total_bytes")) or not all(map(str.isdigit, values)):
        return False
    sizes = list(map(int, values))
    return max(sizes) <= min(sizes) * (1 + SAME_MEMORY)


def _described(view: RunView) -> dict[str, Any]:
    return {
        "config": view.run.get("config"),
        "measured": view.subject,
        "client machine" if is_remote(view.run) else "hardware": part(view.run, "environment", "hardware"),
        "packages": part(view.run, "environment", "packages"),
        "git": part(view.run, "environment", "git").get("commit"),
        "schedule": view.run.get("schedule_sha256"),
    }


def _notes(views: list[RunView], names: list[str], baseline: int) -> list[str]:
    notes = [
        f"{name}: {view.verdict}: {'; '.join(view.reasons) or 'see its report'}"
        for name, view in zip(names, views, strict=True)
        if view.verdict in VERDICTS and view.verdict != "valid"
    ]
    shared = [{figure.key for figure in view.figures} for view in views]
    for place, name in enumerate(names):
        if place != baseline and shared[place] and not shared[place] & shared[baseline]:
            notes.append(f"{name} measured nothing that {names[baseline]} measured: nothing to compare")
    return notes
