"""Runs as the site needs them: read once, given a place of their own, and the rows of the leaderboards."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain, count
from pathlib import Path
from typing import NamedTuple

from bytemlperf.errors import UserError
from bytemlperf.hardware.card import Card
from bytemlperf.hardware.measured import Assignment, Device, assigned_to, device_of
from bytemlperf.report.gather import RunView, view_run
from bytemlperf.runs.files import damage_said
from bytemlperf.runs.folder import part, read_run_json
from bytemlperf.runs.kinds import Figure, run_kind

VALID = "valid"
NO_MODEL = ("", "none")
QUANTISED = " weights, "
"""What `engines.loaded_weights.dtype_text` puts between the weights' type and the arithmetic's."""


class SiteRun(NamedTuple):
    """One run and the name of its pages."""

    view: RunView
    device: Device
    slug: str

    @property
    def suite(self) -> str:
        return self.view.kind_name

    @property
    def measured(self) -> str:
        """Engine, backend or trainer; else what the command was about."""
        return str(self.view.subject.get("name") or "")


class BoardRow(NamedTuple):
    """One case of one run, with its figures by metric. `subject` says what was measured where a run measured several. `ranked` is the
    figure that it is ranked by, None where it has none: what an open loop carries is what was asked for. `per_currency` and `per_watt` are
    the ranked rate over the price (in thousands) and over the TDP of the devices that the run used; `per_rent` is what one unit of the
    currency buys by the hour's price."""

    run: SiteRun
    model: str
    subject: str
    key: str
    load: str
    figures: Mapping[str, Figure]
    ranked: Figure | None = None
    per_currency: float | None = None
    per_watt: float | None = None
    per_rent: float | None = None
    rank: int | None = None

    @property
    def shown(self) -> list[Figure]:
        """What the row is there for: the ranked figure, then the headlines; all rates and shares where there are none."""
        headlines = [figure for figure in self.figures.values() if figure.headline]
        chosen = headlines or [figure for figure in self.figures.values() if figure.better == "higher"]
        return [self.ranked, *(figure for figure in chosen if figure is not self.ranked)] if self.ranked else chosen


class Unread(NamedTuple):
    """A folder that is no run, and why."""

    folder: str
    why: str


def find_runs(places: Sequence[Path]) -> list[Path]:
    """Run folders among and directly below `places`, and those in them that have ranks of their own. A place without any is kept, so that
    reading it says what it is instead. Raises UserError where no place has one."""
    runs_in = {
        place: [place] if (place / "run.json").exists() else sorted(path.parent for path in place.glob("*/run.json")) for place in places
    }
    empty = [place for place, runs in runs_in.items() if not runs]
    if len(empty) == len(runs_in):
        named = ", ".join(map(str, empty)) or "nothing"
        raise UserError(f"{named} neither is nor holds a run folder", "name run folders, or a folder of them")
    runs = list(chain(*runs_in.values()))
    return list(dict.fromkeys([*runs, *chain(*map(_runs_inside, runs)), *empty]))


def _runs_inside(run: Path) -> list[Path]:
    with suppress(UserError):
        if run_kind(str(read_run_json(run).get("kind"))).ranks_runs:
            return sorted(path.parent for path in run.glob("*/run.json"))
    return []


def read_runs(folders: Sequence[Path], known: Mapping[str, Card], assigned: Sequence[Assignment]) -> tuple[list[SiteRun], list[Unread]]:
    """Newest first. What can't be read at all is named."""
    runs: dict[str, SiteRun] = {}
    unread = []
    for folder in folders:
        try:
            with damage_said(folder):
                view = view_run(folder, sections=False)
                assignment = assigned_to((folder.name, view.label), assigned)
                device = device_of(view.run, known, assignment, view.suite.devices_used(view.run))
        except UserError as error:
            unread.append(Unread(folder.name, error.cause))
            continue
        slug = unused(re.sub(r"[^a-zA-Z0-9._-]+", "-", folder.name).strip("-.") or "run", runs)
        runs[slug] = SiteRun(view, device, slug)
    return sorted(runs.values(), key=lambda run: run.view.started, reverse=True), unread


def board(runs: Sequence[SiteRun], currency: str) -> list[BoardRow]:
    """What the leaderboards hold: a row for each case of each run, ranked among valid runs of the same case at the same load."""
    return _ranked([row for run in runs for row in _rows(run, currency)])


def model_of(view: RunView, figure: Figure) -> str:
    """The model that a figure is of: what the run's subject says, a workload's name, or the case's first word; "" for none.
    With quantised weights it is another model, and called so."""
    named = str(view.subject.get("model") or "")
    if named not in NO_MODEL:
        weights, quantised, _ = str(view.subject.get("dtype") or "").partition(QUANTISED)
        return f"{named}, {weights} weights" if quantised else named
    workload = part(view.run, "config", "workload").get("name")
    if workload:
        return str(workload)
    return view.suite.model_of(figure)


def name_of(figure: Figure) -> str:
    """What a reader calls the metric, without its case."""
    return (figure.label or figure.metric.replace("_", " ")).removeprefix(figure.key).strip()


def _rows(run: SiteRun, currency: str) -> Iterator[BoardRow]:
    cases: dict[tuple[str, str, str], dict[str, Figure]] = {}
    for figure in run.view.figures:
        if figure.value is not None and figure.better != "neither":
            case = (model_of(run.view, figure), *run.view.suite.case_of(figure))
            cases.setdefault(case, {})[figure.metric] = figure
    for case, figures in cases.items():
        if not any(figure.headline or figure.better == "higher" for figure in figures.values()):
            continue
        first = next(iter(figures.values()))
        row = BoardRow(run, *case, first.load, figures, _ranking(list(figures.values())))
        yield _normalised(row, currency)


def _ranking(figures: Sequence[Figure]) -> Figure | None:
    """The first headline that is better high, else the first rate, else the first headline; none of what was offered."""
    if any(figure.offered for figure in figures):
        return None
    by_preference = (
        *(figure for figure in figures if figure.headline and figure.better == "higher"),
        *(figure for figure in figures if figure.is_rate),
        *(figure for figure in figures if figure.headline),
    )
    return next(iter(by_preference), None)


def _normalised(row: BoardRow, currency: str) -> BoardRow:
    if row.ranked is None or not row.ranked.is_rate or not row.ranked.value:
        return row
    device, rate = row.run.device.of(row.ranked.metric), row.ranked.value
    bought = device.per_rent(rate, currency) if row.ranked.unit.endswith("/s") else None
    return row._replace(per_currency=device.per_price(rate, currency), per_watt=device.per_watt(rate), per_rent=bought)


def _ranked(rows: Sequence[BoardRow]) -> list[BoardRow]:
    """Grouped by case, the ranked ones first. A rank is one more than the runs that are better for sure: by the whole of both intervals."""
    groups: dict[tuple[str, ...], list[BoardRow]] = {}
    for row in rows:
        by = (row.ranked.metric, row.ranked.unit) if row.ranked else ()
        groups.setdefault((row.run.view.kind, row.model, row.key, row.load, *by), []).append(row)
    ranked: list[BoardRow] = []
    for members in sorted(groups.values(), key=lambda members: members[0].ranked is None):
        valid = [(row, _span(row.ranked)) for row in members if row.ranked and row.run.view.verdict == VALID]
        lows = sorted(low for _, (low, _) in valid)
        placed = [(row._replace(rank=1 + len(lows) - bisect_right(lows, high)), -low) for row, (low, high) in valid]
        ranked += [row for row, _ in sorted(placed, key=lambda pair: (pair[0].rank, pair[1]))]
        ranked += [row for row in members if not row.ranked or row.run.view.verdict != VALID]
    return ranked


def _span(figure: Figure) -> tuple[float, float]:
    """The interval, as a number that is better high; the value itself where it has none."""
    value = figure.value or 0.0
    low, high = (value if figure.low is None else figure.low), (value if figure.high is None else figure.high)
    return (-high, -low) if figure.better == "lower" else (low, high)


def unused(name: str, taken: Container[str]) -> str:
    """The name, with a number behind it where it is taken."""
    return next(free for free in chain([name], (f"{name}-{number}" for number in count(2))) if free not in taken)
