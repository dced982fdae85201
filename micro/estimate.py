"""Memory and time of a case before it runs, from its analytic cost.

Workload files are written for accelerators; a sweep must say what it leaves out instead of swapping
or sitting for an hour in one case. The time comes from two rates of this machine, measured when the
worker starts, and is corrected by what the cases of the same operator and dtype really took.
"""

from __future__ import annotations

import msgspec

from micro.dtypes import DTYPES
from micro.operators.contract import Args, Cost, Operator

WIDE_BYTES = 8
CHECK_COPIES = 3
"""float64 copies in the correctness check: of inputs or output, the value beside it, the error."""

MIN_CALLS = 40
"""Calls that a case makes at least: the check, calibration, ten of warm-up, twenty samples."""

DEFAULT_FLOPS_PER_S = 20e9
DEFAULT_BYTES_PER_S = 5e9
MAKE_BYTES_PER_S = 400e6
"""Random values, copied into buffers: about a hundred million float32 a second."""


class Rates(msgspec.Struct):
    """What this machine does, roughly. `learned` holds measured over estimated, by operator and dtype."""

    flops_per_s: float = DEFAULT_FLOPS_PER_S
    bytes_per_s: float = DEFAULT_BYTES_PER_S
    learned: dict[str, float] = {}

    def learn(self, name: str, estimated_s: float, measured_s: float) -> None:
        """Half of what is new, so that one odd case doesn't rule."""
        if estimated_s > 0:
            before = self.learned.get(name)
            ratio = measured_s / estimated_s * (before or 1.0)
            self.learned[name] = ratio if before is None else (before * ratio) ** 0.5


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """`call_s` of one call, `case_s` of the whole case with set-up and check, `memory_bytes` at its highest."""

    call_s: float
    case_s: float
    memory_bytes: int


def rate_name(operator: Operator, cost: Cost, provider: str) -> str:
    """What shares a learned ratio."""
    return f"{operator.name}/{cost.flops_dtype}/{provider}"


def buffer_sets(cost: Cost, cache_bytes: int, most: int = 1024) -> int:
    """Sets of inputs whose rotation leaves nothing in a cache of that size (1 where `cache_bytes` is 0)."""
    return max(1, min(most, -(-cache_bytes // max(1, cost.read_bytes)) + 1)) if cache_bytes else 1


def estimate(operator: Operator, args: Args, provider: str, rates: Rates, cache_bytes: int, max_sets: int = 1024) -> Estimate:
    """Before it runs, from the arguments alone."""
    cost = operator.cost(args)
    inputs = cost.resident_bytes
    rotated = buffer_sets(cost, cache_bytes, max_sets) * max(inputs - cost.write_bytes, 0)
    bits = DTYPES[cost.flops_dtype].bits if cost.flops_dtype else 32
    check = CHECK_COPIES * inputs * WIDE_BYTES * 8 // bits
    call_s = (cost.flops / rates.flops_per_s + (cost.read_bytes + cost.write_bytes) / rates.bytes_per_s) * rates.learned.get(
        rate_name(operator, cost, provider), 1.0
    )
    make_s = (inputs + rotated) / MAKE_BYTES_PER_S + check / rates.bytes_per_s
    return Estimate(call_s=call_s, case_s=MIN_CALLS * call_s + make_s, memory_bytes=inputs + max(rotated, check) + cost.write_bytes)
