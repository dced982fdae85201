"""The page of a micro run in a real Chromium: every plot is drawn, nothing complains, hostile names are text."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

pytest.importorskip("playwright")

from bytemlperf.report.page import Page, render
from micro.results.kind import KIND
from micro.sweep.row import Row
from tests.micro.made import run_and_records
from tests.report.browser import Opened, chromium, have_chromium

pytestmark = pytest.mark.skipif(not have_chromium(), reason="chromium is not installed (apt-get install chromium)")


def test_every_plot_is_drawn_and_nothing_complains(tmp_path: Path) -> None:
    run, records = run_and_records()
    rows = msgspec.convert(records, list[Row])
    sections = KIND.sections(run, KIND.summarise(run, rows), rows)
    path = tmp_path / "page.html"
    path.write_text(render(Page(title="made", sections=sections)), encoding="utf-8")
    with chromium() as browser:
        opened = Opened(browser.new_page(viewport={"width": 1200, "height": 900}))
        page = opened.open(path.as_uri())
        shown = page.inner_text("body")
        points = page.locator(".scatterlayer .point").count()
        cells = page.locator(".heatmaplayer image").count()
        too_wide = page.evaluate("document.documentElement.scrollWidth > window.innerWidth")
        complaints = opened.complaints("file://")
    assert complaints == []
    assert points == 6 + 3  # gemms under the roof, sizes of all_reduce
    assert cells == 1
    assert "measured peaks" in shown
    assert "</script>" in shown
    assert not too_wide
