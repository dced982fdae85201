"""Arguments that operators of several ranks share."""

from __future__ import annotations

from typing import Any

from micro.operators.contract import Argument

MAX_RANKS = 4096
BACKEND = Argument("backend", "any", "torch.distributed's backend; auto: the device's own (gloo, nccl, xccl, …)", "auto")


def world_size(default: Any, fewest: int) -> Argument:
    """How many ranks."""
    return Argument("world_size", "int", "ranks", default, low=fewest, high=MAX_RANKS)
