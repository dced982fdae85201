"""What must hold for a run to count: ByteMLPerf's criteria for training, and that nothing was lost.

    loss error       under 0.2 % over 50 steps, against a stored run of the same seed
    operator error   under 1e-5 against float64
    memory           within 0.2 % over a long run
    repeated run     in deterministic mode, the same bits as an earlier run (`--rerun-of RUN`)
    repeated steps   a restart does them again with the same loss

A check whose measurement is missing is `not available`, with the reason, and never passes silently.

And what a loss curve says by itself: a target reached, a spike.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Literal

import msgspec

from training.results.records import EarlierRun, History, Reference, StepRecord

LOSS_ERROR_LIMIT = 0.002
REFERENCE_STEPS = 50
MEMORY_GROWTH_LIMIT = 0.002
LONG_RUN_STEPS = 500
"""Measured steps from which on a run is long enough to speak of growth: with Megatron-Core on a CPU the C library's
allocator goes on filling for 300 steps, and then holds."""
REPEATED_LOSS_LIMIT = 0.002

Status = Literal["passed", "failed", "not available"]


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One criterion. `value` and `limit` are fractions (0.002 is 0.2 %) or errors."""

    name: str
    status: Status
    value: float | None
    limit: float
    detail: str


def run_checks(config: dict[str, Any], history: History) -> list[Check]:
    """All of them, in the order above."""
    return [
        _loss_error(msgspec.convert(config.get("reference"), Reference | None), history),
        _operators(history),
        _memory(history),
        *_rerun(msgspec.convert(config.get("rerun_of"), EarlierRun | None), history),
        *_repeated(history),
    ]


def _judge(name: str, value: float, limit: float, detail: str) -> Check:
    return Check(name=name, status="passed" if value < limit else "failed", value=value, limit=limit, detail=detail)


def _missing(name: str, limit: float, why: str) -> Check:
    return Check(name=name, status="not available", value=None, limit=limit, detail=why)


def _loss_error(reference: Reference | None, history: History) -> Check:
    name = "loss error"
    if reference is None or reference.why_not:
        return _missing(name, LOSS_ERROR_LIMIT, reference.why_not if reference else "no reference is stored for this workload")
    curve = [step for step in history.curve if step.step < REFERENCE_STEPS]
    if len(curve) < REFERENCE_STEPS or any(step.loss is None for step in curve):
        return _missing(name, LOSS_ERROR_LIMIT, f"the reference is over {REFERENCE_STEPS} steps, {len(curve)} were done")
    error = largest_relative_error([step.loss for step in curve if step.loss is not None], reference.losses)
    return _judge(name, error, LOSS_ERROR_LIMIT, f"largest over {REFERENCE_STEPS} steps, against {reference.name}")


def _operators(history: History) -> Check:
    name = "operator error"
    limit = max((record.limit for record in history.operators), default=1e-5)
    errors = [record for record in history.operators if record.error is not None]
    broken = [record for record in history.operators if record.status == "failed" and record.error is None]
    if broken:
        return Check(name=name, status="failed", value=None, limit=limit, detail=f"{broken[0].op} failed: {broken[0].reason}")
    if not errors:
        return _missing(name, limit, "operators were not checked")
    worst = max(errors, key=lambda record: record.error or 0.0)
    return _judge(name, worst.error or 0.0, limit, f"largest of {len(errors)}: {worst.op} {worst.direction}, float32 against float64")


def _memory(history: History) -> Check:
    name = "memory growth"
    steps = [step for step in history.measured if step.attempt == (history.starts[-1].attempt if history.starts else 0)]
    if len(steps) < LONG_RUN_STEPS:
        return _missing(
            name, MEMORY_GROWTH_LIMIT, f"{len(steps)} measured steps are insufficient; give --steps {LONG_RUN_STEPS + 10} or more"
        )
    growth = max(growth_of([step.held_bytes[rank] for step in steps]) for rank in range(len(steps[0].held_bytes)))
    return _judge(
        name, growth, MEMORY_GROWTH_LIMIT, f"last quarter of {len(steps)} steps over the third one, medians, the rank that grows most"
    )


def growth_of(sizes: list[int]) -> float:
    """How much larger the last quarter's median is than the third one's (the first half still fills caches); 0 at least."""
    quarter = len(sizes) // 4
    early, late = statistics.median(sizes[-2 * quarter : -quarter]), statistics.median(sizes[-quarter:])
    return max(0.0, late / early - 1.0)


def _rerun(earlier: EarlierRun | None, history: History) -> list[Check]:
    """Only where an earlier run was named. The value is the number of losses, and parameter hashes, that differ."""
    if earlier is None:
        return []
    if history.end is None:
        return [_missing("repeated run", 1, "this run did not complete")]
    pairs = list(zip(history.losses, earlier.losses, strict=False))
    differing = sum(now != then for now, then in pairs) + abs(len(history.losses) - len(earlier.losses))
    differing += history.end.state_sha256 != earlier.state_sha256
    return [_judge("repeated run", differing, 1, f"of {len(pairs)} losses and the parameters' SHA-256, other bits than in {earlier.name}")]


def _repeated(history: History) -> list[Check]:
    """Only where a restart did steps again."""
    seen: dict[int, StepRecord] = {}
    pairs = []
    for step in history.steps:
        if step.step in seen and step.loss is not None and seen[step.step].loss is not None:
            pairs.append((step.loss, seen[step.step].loss))
        seen[step.step] = step
    if not pairs:
        return []
    error = largest_relative_error([again for again, _ in pairs], [first for _, first in pairs if first is not None])
    return [
        _judge("repeated steps", error, REPEATED_LOSS_LIMIT, f"largest loss difference of {len(pairs)} steps done again after a restart")
    ]


def against_plan(config: dict[str, Any], history: History) -> Iterator[str]:
    """What the records have and the plan doesn't, or the other way round: a sentence each."""
    steps, world = config["steps"], config["layout"]["world"]
    done = {step.step for step in history.steps}
    strange = sorted(step for step in done if not 0 <= step < steps)
    if strange:
        yield f"there is a record of step {strange[0]}, and the plan has {steps}"
    for step in history.steps:
        if len(step.step_ns) != world:
            yield f"step {step.step} has the times of {len(step.step_ns)} ranks, and the plan has {world}"
    for earlier, later in pairwise(history.steps):
        if later.attempt == earlier.attempt and (later.step != earlier.step + 1 or later.at_ns < earlier.at_ns):
            yield f"step {later.step} comes after step {earlier.step}, {later.at_ns - earlier.at_ns} ns later"
    if history.end is not None:
        first = history.starts[0].first_step if history.starts else 0
        expected, there = history.end.next_step - first, sum(first <= step < history.end.next_step for step in done)
        if there != expected:
            yield f"the run ended before step {history.end.next_step}, and {there} of {expected} steps have a record"


SMOOTHED_STEPS = 5
"""A target counts as reached when the mean of so many losses is at or below it: one lucky batch doesn't count."""
SPIKE_WINDOW = 20
SPIKE_DEVIATIONS = 6.0
SPIKE_LEAST = 0.1
"""A spike lies 6 standard deviations above the mean of the 20 losses before it, and at least 10 % above."""


def reached(losses: Sequence[float], target: float | None) -> bool:
    """Whether the curve has come down to `target`."""
    recent = losses[-SMOOTHED_STEPS:]
    return target is not None and len(recent) == SMOOTHED_STEPS and statistics.fmean(recent) <= target


def spikes(losses: Sequence[float]) -> list[int]:
    """Places of losses that stand out above those before them."""
    indices = []
    for index in range(SPIKE_WINDOW, len(losses)):
        before = losses[index - SPIKE_WINDOW : index]
        mean = statistics.fmean(before)
        if losses[index] > mean + max(SPIKE_DEVIATIONS * statistics.stdev(before), SPIKE_LEAST * abs(mean)):
            indices.append(index)
    return indices


def largest_relative_error(losses: Sequence[float], reference: Sequence[float]) -> float:
    """The largest |loss − reference| / |reference| over the steps that both have."""
    return max(abs(loss - expected) / abs(expected) for loss, expected in zip(losses, reference, strict=False))
