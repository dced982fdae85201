"""Cells of a table that a spreadsheet would take for a formula."""

from __future__ import annotations

INSTALL_COMMAND = "pip install 'bytemlperf-llm[analysis]'"
_FORMULA_STARTS = "=+-@＝＋－＠"


def guard_formula(text: str) -> str:
    """A text that no spreadsheet takes for a formula: OWASP's rule for CSV injection, applied
    behind leading blanks and control characters too."""
    start = text.lstrip()[:1]
    return f"'{text}" if (start and start in _FORMULA_STARTS) or text[:1] in ("\t", "\r", "\n") else text
