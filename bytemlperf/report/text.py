"""Text and numbers as a page, a Markdown file or a PDF shows them.

What a run holds may come from a hostile server or a prompt. `visible` makes control and bidirectional
marks visible instead of letting them act; in Markdown nothing of it is markup, HTML or a link, and in a table no spreadsheet takes it for
a formula.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

from bytemlperf.runs.kinds import Table

_ACTING_CATEGORIES = ("Cc", "Cf", "Cs", "Zl", "Zp")  # controls, format marks (bidi among them), surrogates, separators
_KEPT = "\n\t"
_JOINERS = "\u200c\u200d"  # some scripts and emoji need them, and they move nothing

UNAVAILABLE = "–"
LONGEST_FIGURE = 40

UNIT_NAMES = {"us": "µs"}
_NUMERIC = re.compile(r"^\s*(?:[-−+≈±<>≤≥×]\s*)*(?:\d|∞|insufficient|–|not measured)", re.ASCII)


def visible(text: str) -> str:
    """The text with every character that would act on its surroundings shown as ‹U+202E›."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(char if _harmless(char) else f"‹U+{ord(char):04X}›" for char in text)


def _harmless(char: str) -> bool:
    return char in _KEPT or char in _JOINERS or unicodedata.category(char) not in _ACTING_CATEGORIES


def cell(value: object) -> str:
    if value is None:
        return UNAVAILABLE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return number(value) if isinstance(value, float) else visible(str(value))


def mostly_numbers(texts: Sequence[str]) -> bool:
    """Whether a column of cells is one of numbers: set right, and never broken. Sentences that begin with a number are none."""
    numeric = sum(bool(_NUMERIC.match(text)) for text in texts)
    return numeric > len(texts) * 0.6 and max(len(line) for text in texts for line in text.split("\n")) <= LONGEST_FIGURE


def number(value: float | int | None) -> str:
    """Four significant digits, thousands apart, three below a tenth; whole numbers without a fraction; no exponent between 0.0001
    and a billion."""
    if value is None:
        return UNAVAILABLE
    size = abs(value)
    if value != value or size == float("inf"):
        return "∞" if size == float("inf") else "not a number"
    if size >= 1e9 or 0 < size < 0.1:
        return f"{value:.3g}"
    if value == int(value):
        return f"{int(value):,}"
    digits = 0 if size >= 999.95 else 1 if size >= 99.995 else 2 if size >= 9.9995 else 3
    return f"{value:,.{digits}f}"


def counted(number_of: int, noun: str) -> str:
    """ "1 figure", "2 figures"."""
    return f"{number_of:,} {noun}{'' if number_of == 1 else 's'}"


def unit(name: str) -> str:
    return UNIT_NAMES.get(name, name)


def interval(low: float | None, high: float | None) -> str:
    """A 95 % interval, or nothing."""
    return "" if low is None or high is None else f"{number(low)} – {number(high)}"


def flattened(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    """A nested configuration as rows of dotted key and text; what is unset (None, empty) is left out."""
    if isinstance(value, dict):
        return [row for key, item in value.items() for row in flattened(item, f"{prefix}.{key}" if prefix else str(key))]
    if isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        return [row for place, item in enumerate(value) for row in flattened(item, f"{prefix}.{place}")]
    if value is None or value in ("", []):
        return []
    if isinstance(value, list):
        return [(visible(prefix), visible(", ".join(map(str, value))))]
    return [(visible(prefix), "yes" if value is True else "no" if value is False else visible(str(value)))]


def markdown_table(table: Table) -> str:
    """GitHub's tables; a line break inside a cell is one tag."""
    heads = [escape_markdown(str(name)) or " " for name in table.columns]
    lines = [f"| {' | '.join(heads)} |", f"|{'|'.join([' :--- '] + [' ---: '] * (len(heads) - 1))}|"]
    for row in table.rows:
        cells = ["<br>".join(escape_markdown(line) for line in cell(value).split("\n")) for value in row]
        lines.append(f"| {' | '.join(cells)} |")
    title = [f"**{escape_markdown(table.title)}**", ""] if table.title else []
    return "\n".join([*title, *lines, "", *([escape_markdown(table.note), ""] if table.note else [])])


_MARKDOWN_ACTING = "\\`*_{}[]<>#|~!$"


def escape_markdown(text: str) -> str:
    """Nothing in it is markup, HTML or a link."""
    flat = " ".join(visible(text).split())
    return "".join(f"\\{char}" if char in _MARKDOWN_ACTING else "&amp;" if char == "&" else char for char in flat)


_FORMULA_STARTS = "=+-@＝＋－＠"


def guard_formula(text: str) -> str:
    """A text that no spreadsheet takes for a formula: OWASP's rule for CSV injection, applied
    behind leading blanks and control characters too."""
    start = text.lstrip()[:1]
    return f"'{text}" if (start and start in _FORMULA_STARTS) or text[:1] in ("\t", "\r", "\n") else text
