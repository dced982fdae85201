"""Numbers of the command line: each finite, and no larger than a run can do anything with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bytemlperf.errors import UserError

DAY_S = 86_400.0
MOST_CALLS = 10_000_000
"""Of one point: their times are kept in memory."""

ABOVE_0: dict[str, float] = {
    "seconds": DAY_S,
    "iterations": MOST_CALLS,
    "request-rate": 1e6,
    "rate-share": 100,
    "burstiness": 1e6,
    "time-limit": 30 * DAY_S,
    "memory-limit-gib": 1e6,
    "threads": 4096,
    "instances": 1024,
    "batch-size": (1 << 31) - 1,
    "numeric-samples": 1_000_000,
    "accuracy-samples": 1_000_000_000,
}
"""The largest value of each flag that must be above 0."""
FROM_0: dict[str, float] = {"calibration-samples": 1_000_000, "seed": (1 << 63) - 1, "prometheus-port": 65_535}
"""The largest value of each flag that may be 0."""


def check_numbers(given: Iterable[tuple[str, Any]]) -> None:
    """(flag, value) pairs, None for a flag that wasn't given. Raises UserError."""
    for flag, value in given:
        if value is None:
            continue
        largest = ABOVE_0.get(flag) or FROM_0[flag]
        if flag in ABOVE_0 and not value > 0:
            raise UserError(f"--{flag} {value} is not above 0", "give a number above 0")
        if flag in FROM_0 and value < 0:
            raise UserError(f"--{flag} {value} is below 0", "give 0 or more")
        if value > largest:
            raise UserError(f"--{flag} {str(value)[:30]} is too large", f"give a number up to {_plain(largest)}")


def check_calls(request_rate: float | None, seconds: float) -> None:
    """An open loop's calls are planned beforehand. Raises UserError where there are too many."""
    if request_rate is not None and request_rate * seconds > MOST_CALLS:
        cause = f"--request-rate {request_rate:g} for --seconds {seconds:g} are more than {MOST_CALLS:,} calls"
        raise UserError(cause, "lower one of them")


def _plain(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:g}"
