"""The verdict's words, and what each of them means to a script and to a screen."""

from __future__ import annotations

from typing import Literal, get_args

VerdictName = Literal["valid", "noisy", "thin", "partial", "client-limited", "overloaded", "failing", "invalid"]
"""From best to worst; a run gets the worst that holds. What each means stands in `metrics.verdict`. Of operators and models:
`noisy`, no figure is steady; `thin`, none has an interval; `partial`, some of what was asked has no figure."""

VERDICTS: tuple[VerdictName, ...] = get_args(VerdictName)

EXIT_INVALID = 1
EXIT_OVERLOADED = 3
EXIT_FAILING = 4
EXIT_STATUSES: dict[str, int] = {"invalid": EXIT_INVALID, "overloaded": EXIT_OVERLOADED, "failing": EXIT_FAILING}
"""Others exit with 0. Status 2 is bad input, 130 and 143 are signals."""

UNFIT = ("invalid", "failing", "overloaded")
"""Runs whose figures may not pass a gate."""

COLOURS: dict[str, str] = {
    "valid": "green",
    **dict.fromkeys(("noisy", "thin", "partial", "client-limited"), "yellow"),
    "overloaded": "red",
    "failing": "red",
    "invalid": "red",
}
"""For a terminal."""


def exit_status(verdict: object) -> int:
    """Of a command that made or summarised a run with this verdict."""
    return EXIT_STATUSES.get(str(verdict), 0)
