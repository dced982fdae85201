"""NAME=SIZE flags."""

from __future__ import annotations

from bytemlperf_llm.errors import UserError
from bytemlperf_llm.plan import pairs


def numbers(words: list[str], flag: str) -> dict[str, int]:
    """NAME=SIZE words as a dict of numbers from 1. Raises UserError."""
    found = {}
    for key, value in pairs(flag, words).items():
        if not value.isdigit() or int(value) < 1:
            raise UserError(f"{flag} {key}={value}: the size is no number from 1", f"write {flag} {key}=64")
        found[key] = int(value)
    return found
