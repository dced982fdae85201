"""Errors that a user can mend: one line, exit status 2, never a traceback."""

from __future__ import annotations

EXIT_USAGE = 2


class UserError(Exception):
    """Bad input. `cause` says what is wrong, `fix` what to do about it."""

    def __init__(self, cause: str, fix: str) -> None:
        super().__init__(f"{cause}; {fix}")
        self.cause = cause
        self.fix = fix
