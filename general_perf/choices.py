"""Words and largest numbers that a flag, a card or a backend takes. Little is imported here, so that `--help` is quick."""

from __future__ import annotations

from typing import Literal

from bytemlperf.errors import UserError

Precision = Literal["fp32", "bf16", "fp16", "int8"]
Stage = Literal["numerics", "accuracy", "performance", "coverage"]
Loop = Literal["closed", "open"]
ArrivalProcess = Literal["poisson", "constant", "gamma"]
PUBLISHED = "published"
"""A card's own size."""


DAY_S = 86_400.0
MOST_CALLS = 10_000_000
"""Of one point: their times are kept in memory."""
MOST_INSTANCES = 1024
MOST_SAMPLES = 1_000_000
LARGEST_BATCH = (1 << 31) - 1
LARGEST_SEED = (1 << 63) - 1


def check_calls(request_rate: float | None, seconds: float) -> None:
    """An open loop's calls are planned beforehand. Raises UserError where there are too many."""
    if request_rate is not None and request_rate * seconds > MOST_CALLS:
        cause = f"--request-rate {request_rate:g} for --seconds {seconds:g} are more than {MOST_CALLS:,} calls"
        raise UserError(cause, "lower one of them")
