"""What a user reads is in the English of engineers in this field: texts of the product (string literals, command-line help) and docs
without the words that were replaced once."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("bytemlperf", "bytemlperf_llm", "engines", "micro", "general_perf", "training")
COMMAND_LINES = ("cli.py", "app.py")
"""Their docstrings are help texts."""

REPLACED = {
    r"\bmend(s|ed|ing)?\b": "fix",
    r"\b(go|goes|gone|going|went) on with\b": "resume",
    r"\bso many\b": "a number, 'as many', or what is counted",
    r"\bis no (size|integer|number|file|folder|run|model|rate|URL|port)\b": "is not a(n) …",
    r"\bis none of\b": "is not one of",
    r"\btime limit\b": "timeout",
    r"\bnot as asked\b": "off target",
    r"\b(rate|dispersion) asked\b": "target rate, expected dispersion",
    r"\basked rate\b": "target rate",
    r"\b(offered rate|rate offered)\b|\boffered/s": "actual",
    r", how often\b": "histogram",
    r"\bsent late by\b": "send delay",
    r"\basks nothing of\b": "makes no network requests",
    r"\busual\b": "typical",
    r"\bwhat was said\b": "message",
    r"\bsaid of itself\b": "metrics of the engine",
    r"\btwins?\b": "fallback",
    r"\bmould\b": "template",
    r"\brungs?\b": "load step",
    r"\boptimiser": "optimizer",
    r"\b(put|set) aside\b": "left out",
    r"\bmade anew\b|\banew\b": "rebuilt, again",
    r"\bboth is (said|in)\b": "both are",
    r"\bsummarise\b": "summarize",
    r"\b1 (runs|cores|threads|points|records|requests|lines|cases|jobs|workers)\b": "1 run",
    r"[a-z]{3}\(s\)": "a plural that fits the number",
    r"\bThe client's own error\b": "client measurement error",
    r"\bWhat was reached\b": "Results",
    r"\btoo few\b|\bcan't carry\b": "insufficient",
    r"\bno longer answers?\b": "no longer responds",
    r"\bwent well\b": "succeeded",
    r"\banswers/s\b|\banswers a second\b": "requests/s",
}


def literals() -> Iterator[tuple[str, str]]:
    """Where, and the text of every string that can be printed: no docstrings but those of command lines."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            tree = ast.parse(path.read_text())
            silent = set() if path.name in COMMAND_LINES else {id(node.value) for node in docstrings(tree)}
            for node in ast.walk(tree):
                if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value and id(node) not in silent:
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", node.value


def docstrings(tree: ast.AST) -> Iterator[ast.Expr]:
    """Of modules, classes and functions, and those under an attribute."""
    for node in ast.walk(tree):
        body = getattr(node, "body", [])
        if isinstance(body, list):
            yield from (child for child in body if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant))


def documents() -> Iterator[tuple[str, str]]:
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            yield f"{path.relative_to(ROOT)}:{number}", line


TEXTS = [*literals(), *documents()]


@pytest.mark.parametrize("pattern", REPLACED)
def test_a_word_that_was_replaced_is_gone(pattern: str) -> None:
    word = re.compile(pattern, re.IGNORECASE)
    assert [f"{where}: {text.strip()[:120]} (say: {REPLACED[pattern]})" for where, text in TEXTS if word.search(text)] == []
