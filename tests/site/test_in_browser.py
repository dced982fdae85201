"""The site in a real Chromium, opened from disk: inert, quiet, and its filters, sorting and comparison work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bytemlperf.site.build import build_site
from tests.report.browser import Opened
from tests.report.made import HOSTILE, llm_run
from tests.submit.made import general_run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    runs = folder / "runs"
    for place, name in enumerate(HOSTILE):
        engine = {"name": name, "model": name, "versions": {name: name}}
        llm_run(runs / f"h{place}", count=60, label=name, scenario=name, engine=engine)
    llm_run(runs / "fast", label="fast", in_flight=8, rate=40.0)
    llm_run(runs / "open", label="open", rate=40.0)
    llm_run(runs / "slow", label="slow", in_flight=8, rate=20.0, slower=2.0)
    llm_run(
        runs / "broken", label="broken", end={"issued_requests": 0, "stopped_by_user": False, "failure": HOSTILE[0], "duration_ns": 10**10}
    )
    general_run(runs, ["bert", "resnet50"])
    built = build_site([runs], folder / "out", title=HOSTILE[0], assigned=["fast=gaudi3", "slow=gaudi2"])
    return built.start.parent


def open_page(opened: Opened, site: Path, name: str) -> Any:
    return opened.open(f"{(site / name).as_uri()}")


def shown(page: Any, column: int) -> list[str]:
    """Texts of a column in the rows that are shown."""
    return [text.strip() for text in page.locator(f".board tbody tr:visible > :nth-child({column}) > bdi").all_inner_texts()]


def column_of(page: Any, title: str) -> int:
    heads = [text.split("\xa0")[0].strip() for text in page.locator(".board thead th").all_inner_texts()]
    return heads.index(title) + 1


def test_every_page_is_inert_and_asks_nothing(opened: Opened, site: Path):
    pages = [path for path in sorted(site.rglob("*.html")) if path.name != "report.html"]
    names = {path.relative_to(site).parts[0] for path in pages}
    assert {"index.html", "hardware.html", "compare.html", "models", "hardware"} <= names
    for path in [*(path for path in pages if path.parent.name != "hardware"), site / "hardware/intel-gaudi3.html"]:
        page = opened.open(path.as_uri())
        assert opened.complaints(site.as_uri()) == [], path
        assert page.locator("img, iframe, object, svg script, [onload], [onerror]").count() == 0


def test_hostile_names_are_text(opened: Opened, site: Path):
    page = open_page(opened, site, "index.html")
    text = page.locator("body").inner_text()
    for name in HOSTILE:
        if name.isascii() and name.isprintable():
            assert name in text
    assert "\u202e" not in text
    assert page.title() == HOSTILE[0]


def test_the_filter_and_the_choices(opened: Opened, site: Path):
    page = open_page(opened, site, "index.html")
    total = page.locator(".board tbody tr").count()
    assert page.locator(".count").inner_text() == f"{total} of {total}"
    page.get_by_label("Filter").fill("gaudi")
    assert sorted(shown(page, column_of(page, "run"))) == ["fast", "slow"]
    page.get_by_label("Filter").fill("")
    page.get_by_label("suite").select_option("General models")
    assert shown(page, column_of(page, "suite")) == ["General models"]
    page.get_by_label("suite").select_option("")
    page.get_by_label("verdict").select_option("invalid")
    assert "broken" in shown(page, column_of(page, "run"))
    assert "fast" not in shown(page, column_of(page, "run"))


def test_a_leaderboard_begins_with_valid_runs_and_sorts(opened: Opened, site: Path):
    page = open_page(opened, site, "leaderboard-llm-serving.html")
    assert page.get_by_label("verdict").input_value() == "valid"
    assert set(shown(page, column_of(page, "verdict"))) == {"valid"}
    page.get_by_label("case").select_option("chat")
    page.get_by_label("load", exact=True).select_option("closed loop, 8 in flight")
    rank, run = column_of(page, "rank"), column_of(page, "run")
    page.get_by_role("button", name="rank").click()
    page.get_by_role("button", name="rank").click()
    assert list(zip(shown(page, rank), shown(page, run), strict=True)) == [("1", "fast"), ("2", "slow")]
    page.get_by_role("button", name="rank").click()
    assert shown(page, run) == ["slow", "fast"]
    assert page.locator("th[aria-sort=descending]").count() == 1


def test_unknown_is_last_both_ways(opened: Opened, site: Path):
    page = open_page(opened, site, "hardware.html")
    price = column_of(page, "price, USD")
    for order in (max, min):
        page.get_by_role("button", name="price, USD").click()
        found = shown(page, price)
        known = [float(text.replace(",", "")) for text in found if text != "–"]
        assert found[len(known) :] == ["–"] * (len(found) - len(known))
        assert known[0] == order(known)
        assert known == sorted(known, reverse=order is max)


def test_price_normalisation_is_on_the_leaderboard(opened: Opened, site: Path):
    page = open_page(opened, site, "leaderboard-llm-serving.html")
    page.get_by_label("case").select_option("chat")
    page.get_by_label("load", exact=True).select_option("closed loop, 8 in flight")
    run, value, money = (column_of(page, title) for title in ("run", "output token throughput, tokens/s", "per 1,000 USD"))
    rows = dict(zip(shown(page, run), zip(shown(page, value), shown(page, money), strict=True), strict=True))
    for name, thousands in (("fast", 15.625), ("slow", 8.125)):
        rate, normalised = (float(text.replace(",", "")) for text in rows[name])
        assert normalised == pytest.approx(rate / thousands, rel=0.01)


def test_two_devices_are_picked_and_compared(opened: Opened, site: Path):
    page = open_page(opened, site, "hardware.html")
    page.get_by_label("compare Intel Gaudi 3").check()
    assert page.get_by_role("link", name="2 devices").count() == 0
    page.get_by_label("compare Intel Gaudi 2").check()
    page.get_by_role("link", name="Compare 2 devices").click()
    page.wait_for_selector("html[data-chosen='2']", state="attached")
    assert page.locator("#published thead th").all_inner_texts()[1:] == ["Intel Gaudi 3", "Intel Gaudi 2"]
    bf16 = page.locator("#published tbody tr", has_text="bf16 dense")
    assert bf16.locator("td").all_inner_texts() == ["1,835", "4320.24×"]
    assert bf16.locator("td.best").inner_text() == "1,835"
    price = page.locator("#published tbody tr", has=page.locator("bdi", has_text="price"))
    assert price.first.locator("td").first.inner_text() == "15,625", "a published figure keeps its digits"
    assert page.locator("#measured tbody tr", has_text="TPOT p50").locator("td a").count() == 2
    page.get_by_label("Add a device").select_option(label="NVIDIA T4")
    page.wait_for_selector("html[data-chosen='3']", state="attached")
    page.get_by_label("remove Intel Gaudi 3").click()
    page.wait_for_selector("html[data-chosen='2']", state="attached")
    assert page.locator("#published thead th").all_inner_texts()[1:] == ["Intel Gaudi 2", "NVIDIA T4"]
    labels = page.locator("#published tbody th bdi").all_inner_texts()
    assert labels.index("fp32 dense") < labels.index("bf16 dense") < labels.index("memory"), "one order whatever comes first"
    assert opened.complaints(site.as_uri()) == []


def test_two_runs_are_picked_and_compared_where_their_load_is_the_same(opened: Opened, site: Path):
    page = open_page(opened, site, "leaderboard-llm-serving.html")
    for name in ("fast", "slow"):
        page.get_by_label(f"compare {name}").check()
    page.get_by_role("link", name="Compare 2 runs").click()
    page.wait_for_selector("html[data-chosen='2']", state="attached")
    assert page.locator("#measured thead th").all_inner_texts()[1:] == ["fast", "slow"]
    assert page.locator("#published").count() == 0
    row = page.locator("#measured tbody tr", has_text="output token throughput").first
    assert row.locator("td a").count() == 2
    assert row.locator("td.best a").inner_text() == row.locator("td a").first.inner_text()
    page.get_by_label("Add a run").select_option(label="open (2026-11-24)")
    page.wait_for_selector("html[data-chosen='3']", state="attached")
    assert row.locator("td a").count() == 2, "another load is another row"
    assert page.locator("#measured th.group", has_text="Poisson").count() == 1
    assert page.locator("#measured tbody tr", has_text="goodput").locator("td.best").count() == 0, "a figure without an interval"
    assert opened.complaints(site.as_uri()) == []


def test_filters_order_and_darkness_are_in_the_address(opened: Opened, site: Path):
    page = open_page(opened, site, "index.html")
    page.get_by_label("suite").select_option("LLM serving")
    page.get_by_label("Filter").fill("gaudi")
    page.get_by_role("button", name="run", exact=False).first.click()
    page.locator("#theme").click()
    before = shown(page, column_of(page, "run"))
    page.reload()
    assert (page.get_by_label("suite").input_value(), page.get_by_label("Filter").input_value()) == ("LLM serving", "gaudi")
    assert shown(page, column_of(page, "run")) == before == ["fast", "slow"]
    assert page.locator("th[aria-sort=ascending]").count() == 1
    assert page.locator("html").get_attribute("data-theme") == "dark"
    page.get_by_role("link", name="Hardware").click()
    assert page.locator("html").get_attribute("data-theme") == "dark", "on every page"
    page.get_by_role("link", name="Runs", exact=True).click()
    page.get_by_role("link", name="fast", exact=True).click()
    page.wait_for_selector("html[data-drawn]", state="attached", timeout=60_000)
    assert page.locator("html").get_attribute("data-theme") == "dark", "in a run's report"


def test_an_empty_table_says_so(opened: Opened, site: Path):
    page = open_page(opened, site, "index.html")
    page.get_by_label("Filter").fill("no run is called this")
    page.get_by_text("Nothing fits these filters.").wait_for()
    page.get_by_role("button", name="Show all").click()
    assert page.locator(".count").inner_text().split(" of ")[0] != "0"


@pytest.mark.parametrize("name", ["compare-runs.html#fast,slow", "hardware/intel-gaudi3.html", "leaderboard-general-models.html"])
def test_no_word_is_broken_on_a_phone(opened: Opened, site: Path, name: str):
    page = opened.page
    page.set_viewport_size({"width": 390, "height": 800})
    opened.open(f"{site.as_uri()}/{name}")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    broken = """[...document.querySelectorAll('tbody th, tbody td.t')].filter(cell => {
        const range = document.createRange(), text = cell.querySelector('bdi')?.firstChild ?? cell.firstChild;
        if (!text || text.nodeType !== 3 || !cell.offsetWidth) return false;
        return [...text.data.matchAll(/[a-z]{2,16}/g)].some(word => {
            range.setStart(text, word.index); range.setEnd(text, word.index + word[0].length);
            return range.getClientRects().length > 1;
        });
    }).map(cell => cell.textContent).slice(0, 3)"""
    assert page.evaluate(broken) == []


def test_a_leaderboard_fits_a_phone(opened: Opened, site: Path):
    page = open_page(opened, site, "leaderboard-llm-serving.html")
    page.set_viewport_size({"width": 390, "height": 800})
    wide = "[...document.querySelectorAll('.board, .board .scroll, .board td')].filter(e => e.scrollWidth > e.clientWidth + 1).length"
    assert page.evaluate(wide) == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    label = "getComputedStyle(document.querySelector('.board tbody td.n:not(.pick)'), '::before').content"
    assert page.evaluate(label) == '"rank"'


@pytest.mark.parametrize("anchor", ["#__proto__,constructor", "#%zz,intel-gaudi3", "#<img src=x onerror=window.pwned=1>"])
def test_an_address_with_nonsense_chooses_nothing_else(opened: Opened, site: Path, anchor: str):
    page = opened.open(f"{(site / 'compare.html').as_uri()}{anchor}")
    assert page.locator("#chosen li").count() == ("intel-gaudi3" in anchor)
    assert opened.complaints(site.as_uri()) == []


def test_a_run_leads_to_its_report(opened: Opened, site: Path):
    page = open_page(opened, site, "index.html")
    page.get_by_role("link", name="fast", exact=True).click()
    page.wait_for_selector("html[data-drawn]", state="attached", timeout=60_000)
    assert page.locator("h1").inner_text() == "fast"
    assert opened.complaints(site.as_uri()) == []


def test_without_scripts_everything_is_there_to_read(browser: Any, site: Path):
    context = browser.new_context(java_script_enabled=False)
    try:
        page = context.new_page()
        page.goto((site / "leaderboard-llm-serving.html").as_uri())
        assert page.locator(".board tbody tr:visible").count() > 10
        page.goto((site / "compare.html").as_uri())
        assert page.get_by_role("link", name="table of all devices").is_visible()
    finally:
        context.close()


def test_light_and_dark(opened: Opened, site: Path):
    page = open_page(opened, site, "index.html")
    colour = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(colour)
    page.locator("#theme").click()
    assert page.evaluate(colour) != light
