"""Runs as the site needs them: read once, given a place of their own, and the rows of the leaderboards."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping, Sequence
from itertools import chain, count
from pathlib import Path
from typing import NamedTuple

from bytemlperf.errors import UserError
from bytemlperf.hardware import cards as api
from bytemlperf.hardware.card import Card
from bytemlperf.hardware.compare import PER_CURRENCY
from bytemlperf.report.gather import RunView, view_run
from bytemlperf.runs.files import damage_said
from bytemlperf.runs.folder import part
from bytemlperf.runs.kinds import Figure
from bytemlperf.site.devices import Assignment, Device, device_of

SECONDS_AN_HOUR = 3600
RATE_UNITS = re.compile(r"/s$|FLOP/s$|FLOPS$|OPS$")
OF_ONE_DEVICE = re.compile(r"per[_ ](device|gpu|rank)\b", re.IGNORECASE)
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
    def started(self) -> str:
        return str(self.view.run.get("started_at") or "")[:19].replace("T", " ")

    @property
    def measured(self) -> str:
        """Engine, backend or trainer; else what the command was about."""
        return str(self.view.subject.get("name") or "")


class BoardRow(NamedTuple):
    """One figure of one run. `per_currency` and `per_watt` are the value over the price (in thousands) and over
    the TDP of the devices that the run used; `per_rent` is what one unit of the currency buys by the hour's price."""

    run: SiteRun
    model: str
    figure: Figure
    per_currency: float | None = None
    per_watt: float | None = None
    per_rent: float | None = None
    rank: int | None = None


class Unread(NamedTuple):
    """A folder that is no run, and why."""

    folder: str
    why: str


def find_runs(places: Sequence[Path]) -> list[Path]:
    """Run folders among and directly below `places`. A place without any is kept, so that reading it says what it
    is instead. Raises UserError where no place has one."""
    runs_in = {
        place: [place] if (place / "run.json").exists() else sorted(path.parent for path in place.glob("*/run.json")) for place in places
    }
    empty = [place for place, runs in runs_in.items() if not runs]
    if len(empty) == len(runs_in):
        named = ", ".join(map(str, empty)) or "nothing"
        raise UserError(f"{named} neither is nor holds a run folder", "name run folders, or a folder of them")
    return list(dict.fromkeys([*chain(*runs_in.values()), *empty]))


def read_runs(folders: Sequence[Path], known: Mapping[str, Card], assigned: Sequence[Assignment]) -> tuple[list[SiteRun], list[Unread]]:
    """Newest first. What can't be read at all is named."""
    runs: dict[str, SiteRun] = {}
    unread = []
    for folder in folders:
        try:
            with damage_said(folder):
                view = view_run(folder, sections=False)
                device = device_of(folder.name, view.label, view.run, known, assigned)
        except UserError as error:
            unread.append(Unread(folder.name, error.cause))
            continue
        slug = unused(re.sub(r"[^a-zA-Z0-9._-]+", "-", folder.name).strip("-.") or "run", runs)
        runs[slug] = SiteRun(view, device, slug)
    return sorted(runs.values(), key=lambda run: run.started, reverse=True), unread


def board(runs: Sequence[SiteRun], known: Mapping[str, Card], currency: str) -> list[BoardRow]:
    """What the leaderboards hold: each run's headlines and rates, ranked within equal case and metric among valid runs."""
    rows = [_row(run, figure, known, currency) for run in runs for figure in run.view.figures if _on_board(figure)]
    return _ranked(rows)


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


def case_of(figure: Figure) -> str:
    """What a reader calls case and metric."""
    return figure.label or figure.metric


def _on_board(figure: Figure) -> bool:
    return figure.value is not None and figure.better != "neither" and (figure.headline or figure.better == "higher")


def _row(run: SiteRun, figure: Figure, known: Mapping[str, Card], currency: str) -> BoardRow:
    row = BoardRow(run, model_of(run.view, figure), figure)
    device = run.device
    if device.card_id is None or device.used is None or figure.better != "higher" or not RATE_UNITS.search(figure.unit):
        return row
    card, value = known[device.card_id], figure.value
    used = 1 if OF_ONE_DEVICE.search(figure.metric) else device.used
    bought, rented, watts = api.price(card, "purchase", currency), api.price(card, "hour", currency), api.tdp_watts(card)
    assert value is not None
    return row._replace(
        per_currency=value / (bought.amount * used / PER_CURRENCY) if bought else None,
        per_rent=value * SECONDS_AN_HOUR / (rented.amount * used) if rented and figure.unit.endswith("/s") else None,
        per_watt=value / (watts * used) if watts else None,
    )


def _ranked(rows: Sequence[BoardRow]) -> list[BoardRow]:
    groups: dict[tuple[str, str, str, str, str], list[BoardRow]] = {}
    for row in rows:
        groups.setdefault((row.run.view.kind, row.model, row.figure.key, row.figure.metric, row.figure.unit), []).append(row)
    ranked: list[BoardRow] = []
    for members in groups.values():
        valid = [row for row in members if row.run.view.verdict == VALID]
        ordered = sorted(valid, key=lambda row: row.figure.value or 0.0, reverse=members[0].figure.better == "higher")
        ranked += [row._replace(rank=index + 1) for index, row in enumerate(ordered)]
        ranked += [row for row in members if row.run.view.verdict != VALID]
    return ranked


def unused(name: str, taken: Container[str]) -> str:
    """The name, with a number behind it where it is taken."""
    return next(free for free in chain([name], (f"{name}-{number}" for number in count(2))) if free not in taken)
