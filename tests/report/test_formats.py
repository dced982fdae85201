"""The report in its other forms: Markdown that is inert, JSON with all digits, a PDF that can be read."""

from __future__ import annotations

import json
import re

import pytest

from bytemlperf.errors import UserError
from bytemlperf.report.write import write_report
from tests.report.browser import Opened, chromium, have_chromium
from tests.report.made import HOSTILE, llm_run, llm_run_json, read


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return llm_run(tmp_path_factory.mktemp("formats") / "run", 200)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    described = llm_run_json(label="|".join(HOSTILE))
    return llm_run(
        tmp_path_factory.mktemp("hostile") / "run",
        80,
        label=described["label"],
        config=described["config"] | {"metadata": {text: text for text in HOSTILE}},
    )


def test_json_has_the_figures_with_all_digits(run):
    content = json.loads(write_report(run, "json").read_text())
    summary = read(run, "summary.json")
    assert content["summary"] == summary
    (found,) = [figure for figure in content["figures"] if figure["metric"] == "ttft p50"]
    assert found["value"] == summary["metrics"]["ttft"]["percentiles"]["50"] / 1e6
    assert content["verdict"] == "valid"


def test_markdown_has_the_verdict_and_every_table(run):
    text = write_report(run, "md").read_text()
    assert "**VALID**" in text
    assert "| TTFT p50 |" in text
    assert "## Where the time went" in text
    widths = [line.count("|") for line in text.splitlines() if line.startswith("| TTFT ")]
    assert min(widths) >= 4


def test_nothing_acts_in_markdown(hostile):
    text = write_report(hostile, "md").read_text().replace("<br>", "")
    fenced = re.sub(r"(?s)```.*?```", "", text)
    assert not re.search(r"(?<!\\)<", fenced), "no tag"
    assert not re.search(r"(?<!\\)\]\(", fenced), "no link"
    assert "\u202e" not in text
    assert "\x1b" not in text


needs_chromium = pytest.mark.skipif(not have_chromium(), reason="no Chromium here: apt install chromium")


@needs_chromium
def test_a_pdf_is_the_page_printed_with_plots_as_wide_as_the_paper(run, tmp_path):
    path = write_report(run, "pdf")
    content = path.read_bytes()
    assert content.startswith(b"%PDF-")
    assert content.count(b"/Type /Page\n") >= 4
    assert 100_000 < len(content) < 6_000_000
    assert b"/MediaBox [0 0 594.95996 841.91998]" in content, "A4"


@needs_chromium
def test_a_printed_plot_is_as_wide_as_its_figure(run):
    with chromium() as browser:
        page = Opened(browser.new_page()).open(write_report(run).as_uri())
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        page.emulate_media(media="print")
        widths = page.eval_on_selector_all(
            ".canvas", "all => all.map(c => [c.clientWidth, c.querySelector('.main-svg').getBoundingClientRect().width])"
        )
        page.evaluate("dispatchEvent(new Event('afterprint'))")
        assert page.locator(".main-svg[viewBox]").count() == 0
    assert widths
    assert all(figure == pytest.approx(plot, abs=1) for figure, plot in widths)


def test_without_a_browser_a_pdf_is_one_line_with_the_package(run, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match="needs Chromium or Chrome") as raised:
        write_report(run, "pdf")
    assert "apt install chromium" in raised.value.fix


@pytest.mark.parametrize(("script", "cause"), [("echo 'no display' >&2; exit 1", "no display"), ("exit 0", "no reason given")])
def test_a_browser_that_prints_nothing_is_one_line(run, monkeypatch, tmp_path, script, cause):
    browser = tmp_path / "chromium"
    browser.write_text(f"#!/bin/sh\n{script}\n")
    browser.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=f"printed no page: {cause}"):
        write_report(run, "pdf")
