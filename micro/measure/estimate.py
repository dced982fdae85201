"""Memory and time of a case before it runs, from its analytic cost.

Workload files are written for accelerators; a sweep must say what it leaves out instead of swapping
or sitting for an hour in one case. The time comes from two rates of this machine, measured when the
worker starts, and is corrected by what the cases of the same operator and dtype really took.
"""

from __future__ import annotations

import msgspec

from bytemlperf.hardware.peaks import COLD_CACHES
from micro.operators.contract import DTYPES, Args, Cost, Operator

WIDE_BYTES = 8
CHECK_COPIES = 3
"""float64 copies in the correctness check: of inputs or output, the value beside it, the error."""

FIRST_CHECKED_BYTES = 256 << 20
"""Inputs and results of up to so many are compared before anything is timed, too; of larger ones the last timed call
alone, which decides: the reference may take longer than the timing."""

MIN_CALLS = 40
"""Calls that a case makes at least: the check, calibration, ten of warm-up, twenty samples."""

MIN_SAMPLE_S = 5e-4
"""A sample is at least that long (a timer of 50 ns, at most 1e-4 of it)."""

DEFAULT_FLOPS_PER_S = 20e9
DEFAULT_BYTES_PER_S = 5e9
SETUP_S_PER_BYTE = 1 / 400e6
"""Random values, their copies, the reference and the comparison; until the sweep has seen what they take."""


class Rates(msgspec.Struct):
    """What this machine does, roughly. `learned` holds measured over estimated, by operator and dtype;
    `timing_s` is how long warm-up and sampling last, `setup_s_per_byte` what comes before them."""

    flops_per_s: float = DEFAULT_FLOPS_PER_S
    bytes_per_s: float = DEFAULT_BYTES_PER_S
    learned: dict[str, float] = {}
    timing_s: float = 0.0
    setup_s_per_byte: float = SETUP_S_PER_BYTE

    def learn(self, name: str, estimated_s: float, measured_s: float) -> None:
        """Half of what is new, within bounds, so that one odd case (a small one on a busy machine) doesn't rule."""
        if estimated_s > 0:
            before = self.learned.get(name)
            ratio = min(MOST_LEARNED, max(1 / MOST_LEARNED, measured_s / estimated_s * (before or 1.0)))
            self.learned[name] = ratio if before is None else (before * ratio) ** 0.5

    def learn_case(self, *, timing_s: float, setup_s: float, setup_bytes: int) -> None:
        """How long a whole case took: half of what is new. Small cases say nothing about bytes."""
        self.timing_s = (self.timing_s + timing_s) / 2
        if setup_bytes >= TELLING_BYTES:
            self.setup_s_per_byte = (self.setup_s_per_byte + setup_s / setup_bytes) / 2


TELLING_BYTES = 16 << 20
MOST_LEARNED = 100.0
ROTATED_CACHES = 4
"""All sets together take at most so many caches, also where a call touches little of what it holds (a row of a table)."""


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """`call_s` of one call, `case_s` of the whole case with set-up and check, `memory_bytes` at its highest,
    `setup_bytes` what is made and compared before the timing."""

    call_s: float
    case_s: float
    memory_bytes: int
    setup_bytes: int = 0


def rate_name(operator: Operator, cost: Cost, provider: str) -> str:
    """What shares a learned ratio."""
    return f"{operator.name}/{cost.flops_dtype}/{provider}"


MOST_SETS = 1024


def buffer_sets(cost: Cost, cache_bytes: int) -> int:
    """Sets of inputs whose rotation reads `COLD_CACHES` caches of that size before it comes back to the first, or as many
    as there is room for (the row then says "warm"); 1 where `cache_bytes` is 0."""
    if not cache_bytes:
        return 1
    needed = max(2, -(-COLD_CACHES * cache_bytes // max(1, cost.read_bytes)))
    room = max(2, ROTATED_CACHES * cache_bytes // max(1, cost.resident_bytes))
    return min(MOST_SETS, needed, room)


def estimate(operator: Operator, args: Args, provider: str, rates: Rates, cache_bytes: int) -> Estimate:
    """Before it runs, from the arguments alone."""
    cost = operator.cost(args)
    inputs = cost.resident_bytes
    sets = buffer_sets(cost, cache_bytes)
    rotated = sets * max(inputs - cost.write_bytes, 0)
    bits = DTYPES[cost.flops_dtype].bits if cost.flops_dtype else 32
    check = CHECK_COPIES * inputs * WIDE_BYTES * 8 // bits
    call_s = (cost.flops / rates.flops_per_s + (cost.read_bytes + cost.write_bytes) / rates.bytes_per_s) * rates.learned.get(
        rate_name(operator, cost, provider), 1.0
    )
    setup_bytes = (2 + min(sets, 2)) * inputs + rotated + (2 if inputs <= FIRST_CHECKED_BYTES else 1) * check
    timing_s = max(MIN_CALLS * max(call_s, MIN_SAMPLE_S), rates.timing_s)
    return Estimate(
        call_s=call_s,
        case_s=timing_s + setup_bytes * rates.setup_s_per_byte,
        memory_bytes=inputs + max(rotated + inputs, check) + 2 * cost.write_bytes,
        setup_bytes=setup_bytes,
    )
