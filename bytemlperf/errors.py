"""Errors that a user can fix: one line, exit status 2, never a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

EXIT_USAGE = 2


class UserError(Exception):
    """Bad input. `cause` says what is wrong, `fix` what to do about it."""

    def __init__(self, cause: str, fix: str) -> None:
        super().__init__(f"{cause}; {fix}")
        self.cause = cause
        self.fix = fix


def nearest(word: object, valid: Iterable[str]) -> str:
    """The fix for a word that is not among `valid`: the closest one, or all of them."""
    names = sorted(valid)
    near = difflib.get_close_matches(str(word), names, n=1)
    return f"did you mean '{near[0]}'?" if near else f"valid: {', '.join(names)}"
