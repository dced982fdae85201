"""The verdict's words, and what each of them means to a script and to a screen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

VerdictName = Literal["valid", "noisy", "thin", "partial", "client-limited", "overloaded", "failing", "invalid"]
"""From best to worst; a run gets the worst that holds. What each means stands in `metrics.verdict`, and in every suite: `noisy`, most
medians are not steady; `thin`, a sample is too small for its median to have an interval; `partial`, something requested has no figure."""

VERDICTS: tuple[VerdictName, ...] = get_args(VerdictName)

EXIT_INVALID = 1
EXIT_OVERLOADED = 3
EXIT_FAILING = 4
EXIT_STATUSES: dict[str, int] = {"invalid": EXIT_INVALID, "overloaded": EXIT_OVERLOADED, "failing": EXIT_FAILING}
"""Others exit with 0. Status 2 is bad input, 130 and 143 are signals."""

UNFIT = ("invalid", "failing", "overloaded")
"""Runs whose figures may not pass a gate."""

SOUND = ("valid", "noisy", "thin")
"""Runs whose figures are those of their subject, as precise as their intervals say."""

STEADY_WIDTH = 0.1
"""Of a median's 95 % interval over the median, up to which it is steady."""

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


def worst(reasons: Mapping[VerdictName, object]) -> VerdictName:
    """Of those that have reasons."""
    return max((name for name, held in reasons.items() if held), key=VERDICTS.index, default="valid")


def sample_reasons(noun: str, total: int, insufficient: Sequence[str], unsteady: Sequence[str]) -> dict[VerdictName, str]:
    """Why `total` medians are not simply valid: the names of those (a `noun` each) whose samples are insufficient, and of those that are
    not steady."""
    reasons: dict[VerdictName, str] = {}
    if insufficient:
        reasons["thin"] = _counted("insufficient samples for an interval of the median", noun, total, insufficient)
    if 2 * len(unsteady) > total - len(insufficient):
        reasons["noisy"] = _counted("no steady median", noun, total, unsteady)
    return reasons


def _counted(what: str, noun: str, total: int, names: Sequence[str]) -> str:
    if total == 1:
        return f"{names[0]} has {what}"
    some = f"{len(names)} of {total} {noun}s {'has' if len(names) == 1 else 'have'}"
    return f"{some} {what}: {names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}"


def median_reasons(noun: str, metrics: Mapping[str, Mapping[str, Any]]) -> dict[VerdictName, str]:
    """`sample_reasons` of metrics by name, each as summary.json has it."""
    widths = {name: _median_width(metric) for name, metric in metrics.items()}
    insufficient = [name for name, width in widths.items() if width is None]
    return sample_reasons(noun, len(widths), insufficient, [name for name, width in widths.items() if width and width > STEADY_WIDTH])


def _median_width(metric: Mapping[str, Any]) -> float | None:
    """Of the median's 95 % interval over the median; None without one."""
    median, interval = metric["percentiles"]["50"], metric["ci95"]["50"]
    return None if isinstance(interval, str) or isinstance(median, str) else float((interval[1] - interval[0]) / median)
