"""NAME=SIZE flags."""

from __future__ import annotations

import re

from bytemlperf.command.flags import pairs
from bytemlperf.errors import UserError

LARGEST = (1 << 31) - 1


def numbers(words: list[str], flag: str) -> dict[str, int]:
    """NAME=SIZE words as a dict of numbers from 1. Raises UserError."""
    found = {}
    for key, value in pairs(flag, words).items():
        if not re.fullmatch(r"[0-9]{1,10}", value) or not 1 <= int(value) <= LARGEST:
            raise UserError(f"{flag} {key}={value[:30]}: the size is not a number from 1 to {LARGEST}", f"write {flag} {key}=64")
        found[key] = int(value)
    return found
