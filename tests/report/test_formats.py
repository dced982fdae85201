"""The report in its other forms: Markdown that is inert, JSON with all digits, a PDF that can be read."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import pytest

from bytemlperf.report.text import cell, number, visible
from bytemlperf.report.write import write_report
from bytemlperf.runs.kinds import Plot
from bytemlperf_llm.report.pdf_plot import Axis, ticks, undrawn
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


def test_a_pdf_has_the_figures_and_drawn_plots(run):
    path = write_report(run, "pdf")
    content = path.read_bytes()
    assert content.startswith(b"%PDF-")
    assert content.count(b"/Type /Page\n") >= 4
    assert len(content) < 6_000_000
    if shutil.which("pdftotext") is None:
        pytest.skip("no pdftotext here: apt-get install poppler-utils")
    text = subprocess.run(["pdftotext", "-layout", str(path), "-"], capture_output=True, text=True, check=True).stdout
    assert "VALID" in text
    assert "Where the time went" in text
    assert number(read(run, "summary.json")["metrics"]["ttft"]["percentiles"]["50"] / 1e6) in text
    assert "seconds from the first request due" in text, "the axis of a drawn plot"


def test_a_pdf_is_made_of_hostile_strings_and_without_the_system_font(hostile, monkeypatch):
    assert write_report(hostile, "pdf").stat().st_size > 20_000
    monkeypatch.setattr("bytemlperf_llm.report.pdf.FONT_FOLDERS", ())
    assert write_report(hostile, "pdf").stat().st_size > 5_000


def test_ticks_are_round_and_inside():
    assert [text for _, text in ticks(Axis(low=0, high=97, start=0, end=1))] == ["0", "20", "40", "60", "80"]
    assert [value for value, _ in ticks(Axis(low=0, high=2, start=0, end=1, log=True))] == [1, 2, 5, 10, 20, 50, 100]


def test_a_trace_that_cannot_be_drawn_is_named():
    assert undrawn(Plot(title="t", data=[{"type": "violin"}, {"type": "bar"}])) == "violin"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.0, "0"), (51.026, "51.03"), (67.1, "67.10"), (30.0, "30"), (1234.6, "1,235"), (0.00012, "0.00012"), (2e12, "2e+12"),
     (float("inf"), "∞"), (None, "–"), (-3.25, "-3.250")],
)  # fmt: skip
def test_numbers_have_four_digits(value, text):
    assert number(value) == text


def test_marks_that_act_are_shown():
    assert visible("a\u202eb\u2028c\x1b[0m\ud800") == "a‹U+202E›b‹U+2028›c‹U+001B›[0m‹U+D800›"
    assert visible("日本語 العربية 👩\u200d🔬\n") == "日本語 العربية 👩\u200d🔬\n"
    assert cell(True) == "yes"
    assert cell(1234567) == "1,234,567"
