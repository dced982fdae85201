"""What a page explains where it uses it."""

from __future__ import annotations

from pathlib import Path

import pytest

from bytemlperf.report.page import Page, Tile, render
from bytemlperf.report.terms import TERMS, term_in
from bytemlperf.runs.kinds import Table

GLOSSARY = Path(__file__).parents[2] / "docs" / "glossary.md"


def test_the_page_and_the_glossary_say_the_same() -> None:
    rows = [line.strip("| \n").split(" | ", 1) for line in GLOSSARY.read_text().splitlines() if line.startswith("| ")]
    meanings = {name.strip(): meaning for names, meaning in rows for name in (names, *names.split(","))}
    aliases = {"acceptance": "acceptance length, rate"}
    assert {term: meanings.get(aliases.get(term, term)) for term in TERMS} == TERMS


@pytest.mark.parametrize(
    ("label", "term"),
    [
        ("TTFT p50", "TTFT"),
        ("requests within SLO", "SLO"),
        ("Goodput", "goodput"),
        ("time", ""),
        ("slot", ""),
        ("Send delay, ms", "send delay"),
    ],
)
def test_the_term_of_a_label(label: str, term: str) -> None:
    assert term_in(label) == term


def test_each_term_in_use_is_explained_once() -> None:
    table = Table(title="Latency", columns=("", "p50"), rows=[["TTFT", "1"], ["TTFT from sent", "2"], ["<b>TPOT</b>", "3"]])
    html = render(Page(title="run", tiles=[Tile(label="TTFT p50", value="1")], sections=[table]))
    assert html.count('popovertarget="term-ttft"') == 3
    assert html.count('<div popover id="term-ttft"') == 1
    assert html.count('<div popover id="term-') == 2
    assert "time to first token: first token − due" in html
    assert "<b>TPOT</b>" not in html.split("</main>")[0], "labels stay escaped"
