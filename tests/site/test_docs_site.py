"""The documentation: a site that builds without a warning and asks nothing of a network; what it names exists."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.report.browser import Opened

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
EXTERNAL = re.compile(r"""<(?:script|link|img|iframe|source)\b[^>]*?(?:src|href)=["']?((?:https?:)?//[^"'\s>]+)""")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("material", reason="mkdocs-material is not installed (extra docs)")
    out = tmp_path_factory.mktemp("docs") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(out)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def test_it_builds_strictly_with_every_page(built: Path):
    pages = {path.stem for path in DOCS.glob("*.md")}
    assert {path.stem for path in built.glob("*.html")} - {"404"} == pages


def test_no_page_loads_anything_from_elsewhere(built: Path):
    for page in built.rglob("*.html"):
        loaded = [url for url in EXTERNAL.findall(page.read_text()) if not url.startswith("//")]
        assert [url for url in loaded if "canonical" not in url] == [], page.name
    for style in built.rglob("*.css"):
        assert not re.search(r"@import|url\(\s*['\"]?(?:https?:)?//", style.read_text()), style.name


@pytest.mark.slow
def test_it_opens_from_disk_without_a_request(opened: Opened, built: Path):
    page = opened.page
    page.goto((built / "trust.html").as_uri())
    page.wait_for_selector(".md-content h1")
    assert page.locator("table").count() >= 4
    page.get_by_role("link", name="Metrics", exact=True).first.click()
    page.wait_for_url("**/metrics.html")
    page.locator(".md-search__input").fill("coordinated omission")
    page.wait_for_selector(".md-search-result__item", timeout=30_000)
    assert [url for url in opened.requests if not url.startswith((built.as_uri(), "data:", "blob:"))] == []


def test_every_test_that_trust_names_is_there():
    text = (DOCS / "trust.md").read_text()
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", text)
    assert len(named) > 50
    for path, name in named:
        source = (ROOT / path).read_text()
        assert not name or re.search(rf"def {name}\(", source), f"{path}::{name}"
    for path in re.findall(r"`(?:python )?(benchmarks/[\w/]+\.py)`", text):
        assert (ROOT / path).is_file()


def test_every_promise_has_its_line():
    numbers = [int(number) for number in re.findall(r"^\| (\d+) \|", (DOCS / "trust.md").read_text(), re.MULTILINE)]
    assert numbers == list(range(1, 25))


def test_files_that_the_pages_name_exist():
    for page in DOCS.glob("*.md"):
        for path in re.findall(r"`((?:deploy|benchmarks|tests|scenarios|scripts)/[\w./-]+)`", page.read_text()):
            assert (ROOT / path.rstrip("/")).exists(), (page.name, path)
