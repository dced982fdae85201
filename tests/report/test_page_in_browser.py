"""Pages in a real browser: nothing from the data acts, nothing is asked of a network, every plot is drawn."""

from __future__ import annotations

from pathlib import Path

import pytest

from bytemlperf.report.page import Page, Tile, render
from bytemlperf.report.write import write_report
from bytemlperf.runs.kinds import Plot, Table, Text
from tests.metrics.records import failed
from tests.report.made import HOSTILE, llm_records, llm_run, llm_run_json, write_run

MAX_PAGE_BYTES = 6_000_000


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(llm_run(tmp_path_factory.mktemp("report") / "run"))


def test_a_report_draws_every_plot_under_its_policy_without_a_request(report, opened):
    page = opened.open(report.as_uri())
    plots = page.locator(".canvas").count()
    assert plots >= 12
    assert page.locator(".canvas.js-plotly-plot svg.main-svg").count() >= plots
    assert opened.complaints(report.as_uri()) == []
    assert report.stat().st_size < MAX_PAGE_BYTES


def test_the_verdict_and_headline_figures_come_first_and_the_cause_before_the_tables(report, opened):
    page = opened.open(report.as_uri())
    assert page.locator(".verdict strong").inner_text() == "VALID"
    assert "TTFT p50" in page.locator(".tiles").inner_text()
    headings = page.locator("main h2").all_inner_texts()
    assert headings[:4] == ["Causes", "Where the time went", "Latency", "Over time"]
    causes, stages = (page.locator("main section").nth(place).inner_text() for place in (0, 1))
    assert "The slowest 10 % of" in causes
    assert "waited in the engine's queue" in stages


def test_the_policy_is_what_keeps_scripts_out(report, opened, tmp_path):
    """The check itself: a script that is not ours is refused and noticed."""
    broken = tmp_path / "broken.html"
    broken.write_text(report.read_text().replace("</footer>", "</footer><script>window.pwned=1</script>"))
    opened.open(broken.as_uri())
    assert any("violation" in text for text in opened.complaints(broken.as_uri()))
    assert not opened.page.evaluate("window.pwned"), "refused, not only noticed"


def test_hostile_strings_in_a_run_change_nothing(tmp_path, opened):
    run = llm_run_json(label=" ".join(HOSTILE), scenario=HOSTILE[0])
    run["engine"] |= {"model": HOSTILE[2], "notes": list(HOSTILE), "versions": {HOSTILE[1]: HOSTILE[3]}}
    run["config"]["header_names"] = list(HOSTILE)
    run["config"]["metadata"] = {text: text for text in HOSTILE}
    run["command"] += list(HOSTILE)
    records = llm_records(200)
    records += [failed(1000 + place, 6000.0 + place, 6010.0, error_detail=text) for place, text in enumerate(HOSTILE)]
    report = write_report(write_run(tmp_path / "run", run, records))
    page = opened.open(report.as_uri())
    assert opened.complaints(report.as_uri()) == []
    assert "‹U+202E›" in page.locator("h1").inner_text(), "a mark that turns text round is shown, not obeyed"
    assert page.locator("main img, main svg:not(.main-svg *):not(.main-svg)").count() == 0
    assert page.locator("a[href^='http'], a[href^='javascript']").count() == 0
    assert "\x1b" not in report.read_text()


def test_hostile_strings_in_every_block_of_a_page_change_nothing(tmp_path, opened):
    text = " ".join(HOSTILE)
    plot = Plot(
        title=text,
        data=[
            {"type": "bar", "name": text, "x": list(HOSTILE), "y": list(range(len(HOSTILE))), "text": list(HOSTILE)},
            {"type": "scatter", "name": HOSTILE[7], "x": list(HOSTILE), "y": [3] * len(HOSTILE), "hovertext": list(HOSTILE)},
        ],
        layout={"xaxis": {"title": HOSTILE[6]}, "annotations": [{"text": HOSTILE[7], "x": 0, "y": 1}], "title": {"text": HOSTILE[0]}},
        note=text,
        alt=text,
    )
    sections = [Text(title=text, body=text), Text(body=text, style="code"), Table(title=text, columns=HOSTILE, rows=[HOSTILE]), plot]
    tiles = [Tile(label=text, value=text, unit=text, detail=text)]
    page = Page(
        title=text, kicker=text, verdict="invalid", reasons=[text], facts=[(text, text)], problems=[text], warnings=[text], tiles=tiles,
        sections=sections, footer=text,
    )  # fmt: skip
    path = tmp_path / "page.html"
    path.write_text(render(page))
    shown = opened.open(path.as_uri())
    for details in shown.locator("details summary").all():
        details.click()
    shown.locator(".canvas").hover()
    assert opened.complaints(path.as_uri()) == []
    assert shown.locator("a[href^='http'], a[href^='javascript'], main img").count() == 0
    assert "<a href='https://example.org/'>" in shown.locator(".canvas").text_content(), "shown as it was written"


def test_light_and_dark_and_the_switch_between(report, browser):
    backgrounds = {}
    for scheme in ("light", "dark"):
        context = browser.new_context(color_scheme=scheme)
        page = context.new_page()
        page.goto(report.as_uri())
        page.wait_for_selector("html[data-drawn]", state="attached")
        backgrounds[scheme] = page.evaluate("getComputedStyle(document.body).backgroundColor")
        page.locator("#theme").click()
        backgrounds[f"{scheme}, switched"] = page.evaluate("getComputedStyle(document.body).backgroundColor")
        context.close()
    assert backgrounds["light"] == backgrounds["dark, switched"]
    assert backgrounds["dark"] == backgrounds["light, switched"] != backgrounds["light"]


def test_everything_can_be_reached_with_the_keyboard(report, opened):
    page = opened.open(report.as_uri())
    reached: list[str] = []
    for _ in range(80):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate(
                "document.activeElement.className + '|' + document.activeElement.tagName + '|' + document.activeElement.textContent"
            )
        )
    assert reached[0].startswith("skip|A"), "the first stop leads past the header"
    assert any("|BUTTON|Dark" in stop for stop in reached)
    assert any(stop.startswith("scroll|DIV") for stop in reached), "wide tables can be scrolled"
    assert any("|SUMMARY|Values" in stop for stop in reached), "a plot's values can be read without a pointer"
    page.locator(".values summary").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector(".values[open] tbody tr:nth-child(4)")


def test_printing_gives_light_pages_with_the_folded_tables(report, opened, tmp_path):
    opened.page.emulate_media(color_scheme="dark")
    page = opened.open(report.as_uri())
    printed = page.pdf(format="A4")
    assert printed.startswith(b"%PDF")
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


def test_a_page_is_read_without_scripts_too(report, browser):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report.as_uri())
    assert "TTFT from sent" in page.locator("main").inner_text()
    assert "needs JavaScript" in page.locator("noscript").first.inner_text()
    context.close()


def test_a_narrow_screen_does_not_scroll_sideways(report, browser):
    context = browser.new_context(viewport={"width": 390, "height": 800})
    page = context.new_page()
    page.goto(report.as_uri())
    page.wait_for_selector("html[data-drawn]", state="attached")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    context.close()


def test_texts_keep_their_room_in_a_wide_table(tmp_path, opened):
    """A dozen columns of figures don't squeeze the others to a letter a line."""
    words = "a sentence of some length that says why a model was refused"
    row = ("resnet50@small/torch-inductor/fp32", *[123_456_789.5] * 12, words)
    path = tmp_path / "page.html"
    table = Table(title="wide", columns=[f"a column {place}" for place in range(len(row))], rows=[row])
    path.write_text(render(Page(title="t", sections=[table])))
    cells = opened.open(path.as_uri()).locator("tbody tr").first
    letter = cells.evaluate("row => parseFloat(getComputedStyle(row).fontSize) / 2")
    assert cells.locator("th").bounding_box()["width"] > 14 * letter
    assert cells.locator("td").last.bounding_box()["width"] > 24 * letter
