"""Writing the site: into a new folder, or over a site that this program made; never over anything else."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from bytemlperf.errors import UserError
from bytemlperf.hardware import cards as api
from bytemlperf.hardware.card import Card
from bytemlperf.hardware.measured import assignments_of
from bytemlperf.report.write import write_report
from bytemlperf.site.gather import SiteRun, board, find_runs, read_runs, unused
from bytemlperf.site.pages import Pages
from bytemlperf.site.views import COMPARE_DEVICES, COMPARE_RUNS

MARK = ".bytemlperf-site"
"""A file that says: this folder is a site of ours, and may be written anew."""

DEFAULT_CURRENCY = "USD"


class Built(NamedTuple):
    start: Path
    pages: int
    problems: list[str]


def build_site(
    places: Sequence[Path],
    out: Path,
    *,
    title: str = "Benchmark results",
    cards_path: Path | None = None,
    assigned: Sequence[str] = (),
    currency: str | None = None,
) -> Built:
    """Make every page. Raises UserError for bad input; a run that can't be read is a problem that is told."""
    known = api.load(cards_path)
    assignments = assignments_of(assigned, known)
    folders = find_runs(places)
    money = currency or _usual_currency(known)
    _clear(out)
    runs, unread = read_runs(folders, known, assignments)
    rows = board(runs, money)
    pages = Pages(title, _files({run.suite for run in runs}, "leaderboard"), money)
    models = {name: f"models/{file}" for name, file in _files({row.model for row in rows if row.model}, "").items()}
    measured = Counter(run.device.card_id for run in runs if run.device.card_id)

    written = {
        "index.html": pages.index(runs, unread, models),
        "hardware.html": pages.hardware(known, measured),
        COMPARE_DEVICES: pages.compare(known, rows),
        COMPARE_RUNS: pages.compare_runs(runs, rows),
        **{file: pages.board(suite, [row for row in rows if row.run.suite == suite]) for suite, file in pages.boards.items()},
        **{file: pages.model(model, [row for row in rows if row.model == model]) for model, file in models.items()},
        **{
            f"hardware/{name}.html": pages.card(name, card, [row for row in rows if row.run.device.card_id == name])
            for name, card in known.items()
        },
    }
    try:
        for name, text in written.items():
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            (out / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"can't write into {out}: {error.strerror}", "free disk space, or give another path with --out") from None
    problems = [f"{folder}: {why}" for folder, why in unread] + [text for run in runs for text in _report(run, out)]
    return Built(out / "index.html", len(written) + len(runs), problems)


def _report(run: SiteRun, out: Path) -> list[str]:
    """A run's own page; one that can't be made is told, and the rest of the site is there."""
    path = out / "runs" / run.slug / "report.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        write_report(run.view.folder, "html", path)
    except UserError as error:
        return [f"{run.view.folder.name}: no report: {error.cause}"]
    return [f"{run.view.folder.name}: {text}" for text in run.view.problems]


def _usual_currency(known: Mapping[str, Card]) -> str:
    prices = [price for card in known.values() for price in card.prices]
    own = [price for price in prices if price.source == "own"]
    return next((currency for currency, _ in Counter(price.currency for price in own or prices).most_common(1)), DEFAULT_CURRENCY)


def _files(names: set[str], prefix: str) -> dict[str, str]:
    """A file name for each, safe in a path, and nobody else's."""
    files: dict[str, str] = {}
    for name in sorted(names):
        slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:60] or "unnamed"
        stem = unused("-".join(part for part in (prefix, slug) if part), [file.removesuffix(".html") for file in files.values()])
        files[name] = f"{stem}.html"
    return files


def _clear(out: Path) -> None:
    """An empty folder with our mark. Raises UserError where something else is there."""
    try:
        if out.exists() and not out.is_dir():
            raise UserError(f"{out} is not a folder", "give another path with --out")
        if out.exists() and any(out.iterdir()):
            if not (out / MARK).exists():
                raise UserError(f"{out} is not empty and not a site made by this command", "give a new folder with --out")
            shutil.rmtree(out)
        out.mkdir(parents=True, exist_ok=True)
        (out / MARK).write_text("Made by bmp site build, which may rewrite this folder.\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"can't write {out}: {error.strerror}", "give a writable folder with --out") from None
