"""The site's pages: each one file, style and script inlined, a policy that allows nothing else.

The same rules as a run's report: text is escaped by the template engine with acting characters made
visible, what scripts need travels in a JSON data block, and reaches the page through `textContent`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from bytemlperf.hardware import cards as api
from bytemlperf.hardware.card import Card, Sourced
from bytemlperf.hardware.compare import gbytes_per_s, per_currency, per_watt, rows, tflops
from bytemlperf.hardware.measured import UNKNOWN as NOT_KNOWN
from bytemlperf.hardware.tables import figure_lines
from bytemlperf.report.page import ASSETS as REPORT_ASSETS
from bytemlperf.report.page import content_security_policy, data_block, templates
from bytemlperf.report.text import interval
from bytemlperf.runs.kinds import Figure
from bytemlperf.site.gather import VALID, BoardRow, SiteRun, Unread, name_of
from bytemlperf.site.views import Cell, Column, Drawn, board_table, board_tables, drawn, numeric, report_of, run_table, words
from bytemlperf.version import __version__

ASSETS = Path(__file__).parent / "assets"
FOOTER = f"Made by bytemlperf-llm {__version__}. Self-contained pages; they make no network requests."
MAX_BOARD_ROWS = 5000


class Pages:
    """Renders every page. `boards` maps a suite's name to its file; they are in the navigation."""

    def __init__(self, title: str, boards: Mapping[str, str], currency: str) -> None:
        self.title, self.boards, self.currency = title, boards, currency

    def index(self, runs: Sequence[SiteRun], unread: Sequence[Unread], models: Mapping[str, str]) -> str:
        tiles = [(suite, sum(run.suite == suite for run in runs), file) for suite, file in self.boards.items()]
        valid = sum(run.view.verdict == VALID for run in runs)
        return self._page(
            "index.html.j2",
            self.title,
            "",
            "index",
            tiles=tiles,
            valid=valid,
            total=len(runs),
            table=run_table(runs, ""),
            unread=unread,
            models=models,
        )

    def hardware(self, known: Mapping[str, Card], measured: Mapping[str, int]) -> str:
        money = self.currency
        columns: Drawn[tuple[str, Card]] = [
            (Column("device"), lambda row: words(row[1].name, f"hardware/{row[0]}.html")),
            (Column("vendor", choose=True), lambda row: words(row[1].vendor)),
            (Column("kind", choose=True), lambda row: words(row[1].kind)),
            (Column("runs", numeric=True), lambda row: numeric(measured.get(row[0], 0))),
            (Column("bf16 or fp16, TFLOPS", numeric=True, about="dense"), lambda row: numeric(tflops(row[1], _half(row[1])))),
            (Column("fp8, TFLOPS", numeric=True, about="dense"), lambda row: numeric(tflops(row[1], "fp8"))),
            (Column("memory, GB", numeric=True), lambda row: numeric(row[1].memory_gb.value if row[1].memory_gb else None)),
            (Column("GB/s", numeric=True), lambda row: numeric(gbytes_per_s(row[1]))),
            (Column("TDP, W", numeric=True), lambda row: numeric(api.tdp_watts(row[1]))),
            (Column(f"price, {money}", numeric=True), lambda row: _price(row[1], money)),
            (Column("TFLOPS/W", numeric=True), lambda row: numeric(per_watt(row[1], _half(row[1])))),
            (Column(f"TFLOPS per 1,000 {money}", numeric=True), lambda row: numeric(per_currency(row[1], money, _half(row[1])))),
        ]
        order = sorted(known.items(), key=lambda item: (-measured.get(item[0], 0), item[1].kind == "cpu", item[1].name))
        notes = ["Published figures, dense. – is unknown: no public document gives it. Per watt and per price stand on bf16, else fp16."]
        table = drawn("hardware", columns, order, [name for name, _ in order], notes)
        return self._page("table.html.j2", "Hardware", "", "hardware", tables=[("", table)])

    def card(self, name: str, card: Card, board: Sequence[BoardRow]) -> str:
        """One device: each figure with its source, and what was measured on it."""
        return self._page(
            "card.html.j2",
            card.name,
            "../",
            "hardware",
            card=card,
            name=name,
            lines=[_card_figure(*line) for line in figure_lines(card)],
            tables=board_tables(board, self.currency, "../"),
        )

    def board(self, suite: str, board: Sequence[BoardRow]) -> str:
        table = board_table(board[:MAX_BOARD_ROWS], self.currency, "")
        if len(board) > MAX_BOARD_ROWS:
            table = table._replace(
                notes=[f"The first {MAX_BOARD_ROWS} of {len(board)} rows; the rest is in the runs' reports.", *table.notes]
            )
        return self._page("table.html.j2", f"Leaderboard: {suite}", "", self.boards[suite], tables=[("", table)])

    def model(self, model: str, board: Sequence[BoardRow]) -> str:
        return self._page("table.html.j2", model, "../", "models", tables=board_tables(board, self.currency, "../"))

    def compare(self, known: Mapping[str, Card], board: Sequence[BoardRow]) -> str:
        """Pick two devices or more in the page; published and measured figures side by side."""
        order = [row.label for row in rows(list(known.values()), currency=self.currency)]
        about = "The latest valid run of each case."
        devices = _compared(known, board, self.currency)
        return self._comparison("devices", "hardware.html", about, devices, order)

    def compare_runs(self, runs: Sequence[SiteRun], board: Sequence[BoardRow]) -> str:
        """Pick two runs or more in the page; what they measured of the same case at the same load side by side."""
        measured: dict[str, list[dict[str, object]]] = {}
        for row in board:
            measured.setdefault(row.run.slug, []).extend(_side(row, figure) for figure in row.shown)
        shown: list[dict[str, object]] = [
            {"id": run.slug, "name": run.view.label, "note": run.view.started[:10], "measured": measured.get(run.slug, []), "published": []}
            for run in runs
        ]
        about = "Side by side are figures of the same case at the same load. bmp compare says whether a difference is chance."
        return self._comparison("runs", "index.html", about, shown)

    def _comparison(self, noun: str, every: str, about: str, sides: list[dict[str, object]], order: Sequence[str] = ()) -> str:
        data = data_block({"currency": self.currency, "order": order, "devices": sides, "noun": noun})
        here = "compare" if noun == "devices" else "compare-runs"
        more = {"noun": noun, "every": every, "about": about, "published": bool(order)}
        return self._page("compare.html.j2", f"Compare {noun}", "", here, data=data, **more)

    def _page(self, template: str, title: str, root: str, here: str, **content: object) -> str:
        style = _text(REPORT_ASSETS / "page.css") + _text(ASSETS / "site.css")
        script = _text(ASSETS / "site.js")
        shown = content | {"title": title, "site": self.title, "root": root, "here": here, "boards": self.boards, "footer": FOOTER}
        shown |= {"policy": content_security_policy([script], [style]), "style": style, "script": script}
        return str(templates(ASSETS).get_template(template).render(shown))


def _compared(known: Mapping[str, Card], board: Sequence[BoardRow], currency: str) -> list[dict[str, object]]:
    """Every card, and every measured device without one: published rows, and the latest valid value of each case."""
    devices: dict[str, dict[str, object]] = {}
    for name, card in known.items():
        devices[name] = {"id": name, "name": card.name, "vendor": card.vendor, "published": _published(card, currency)}
    latest = {
        (row.run.device.card_id or f"measured:{row.run.device.name}", row.model, row.key, row.load, figure.metric): (row, figure)
        for row in sorted(board, key=lambda row: row.run.view.started)
        for figure in row.shown
        if row.run.view.verdict == VALID and not figure.offered and row.run.device.name != NOT_KNOWN
    }
    measured: dict[str, list[dict[str, object]]] = {}
    for (identity, *_), (row, figure) in latest.items():
        devices.setdefault(identity, {"id": identity, "name": row.run.device.name, "vendor": "", "published": []})
        measured.setdefault(identity, []).append(_side(row, figure))
    shown = [
        device | {"measured": measured.get(identity, []), "note": "measured" if identity in measured else ""}
        for identity, device in devices.items()
    ]
    return sorted(shown, key=lambda device: (not device["measured"], str(device["name"])))


def _side(row: BoardRow, figure: Figure) -> dict[str, object]:
    bounds = [value if bound is None else bound for bound, value in ((figure.low, figure.value), (figure.high, figure.value))]
    return {
        "group": " · ".join(filter(None, (row.run.suite, row.model, row.subject, row.key, row.load))),
        "case": name_of(figure),
        "unit": figure.unit,
        "better": figure.better,
        "value": figure.value,
        "low": bounds[0],
        "high": bounds[1],
        "span": interval(figure.low, figure.high),
        "offered": figure.offered,
        "money": row.per_currency if figure is row.ranked else None,
        "watt": row.per_watt if figure is row.ranked else None,
        "link": report_of(row.run, ""),
    }


def _published(card: Card, currency: str) -> list[dict[str, object]]:
    return [
        {"case": row.label, "unit": row.unit, "better": row.better, **dict.fromkeys(("value", "low", "high"), row.values[0])}
        for row in rows([card], currency=currency)
    ]


def _card_figure(label: str, value: str, figure: Sourced) -> tuple[str, str, str, str]:
    remark = "; ".join(text for text in (figure.derived, figure.note) if text)
    return label, value, f"{figure.source}: {figure.where}", remark


def _half(card: Card) -> str:
    return "bf16" if api.peak_flops(card, "bf16") else "fp16"


def _price(card: Card, currency: str) -> Cell:
    price = api.price(card, "purchase", currency)
    return numeric(price.amount, small=str(price.date)) if price else numeric(None)


@cache
def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")
