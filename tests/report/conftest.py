from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.report.browser import Opened, chromium, have_chromium


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if not have_chromium():
        pytest.skip("no chromium here: apt-get install chromium")
    pytest.importorskip("playwright")
    with chromium() as started:
        yield started


@pytest.fixture
def opened(browser: Any) -> Iterator[Opened]:
    context = browser.new_context(viewport={"width": 1300, "height": 900})
    try:
        yield Opened(context.new_page())
    finally:
        context.close()
