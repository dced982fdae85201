"""A training run as a timeline: each rank's steps with their parts, loss and throughput, checkpoints, and what went wrong."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import accumulate, pairwise

from bytemlperf.export.timeline import Event, Mark, Reading, Slice, Story
from bytemlperf.units import NS_PER_MS, NS_PER_S
from training.results.records import CheckpointRecord, EndRecord, EventRecord, Record, StartRecord, StepRecord

PARTS = ("data", "forward", "backward", "optimizer")
NOTE = "all ranks' steps end with rank 0's, their parts stand end to end, a checkpoint begins with the end of the step before it"


def story_of(records: Iterable[Record]) -> Story:
    """On rank 0's monotonic clock."""
    return Story(_events(records), note=NOTE)


def _events(records: Iterable[Record]) -> Iterator[Event]:
    at_ns = 0
    for record in records:
        if isinstance(record, StepRecord):
            yield from _of_step(record)
        elif isinstance(record, StartRecord):
            start_ns = record.at_ns - max(record.start_ns)
            yield Slice(track=("attempts",), name=f"start of attempt {record.attempt}", start_ns=start_ns, end_ns=record.at_ns)
        elif isinstance(record, CheckpointRecord):
            name, failed = f"{record.action} before step {record.step}", "" if record.status == "ok" else record.reason or record.status
            if at_ns:  # else it was loaded before the first attempt was ready
                yield Slice(track=("checkpoints",), name=name, start_ns=at_ns, end_ns=at_ns + max(record.ns, default=0), failed=failed)
        elif isinstance(record, EventRecord):
            yield Mark(name=record.event, at_ns=record.at_ns, facts={"detail": record.detail, "ranks": ", ".join(map(str, record.ranks))})
        elif isinstance(record, EndRecord):
            yield Mark(name=f"end: {record.why}", at_ns=record.at_ns)
        at_ns = getattr(record, "at_ns", at_ns)


def _of_step(step: StepRecord) -> Iterator[Event]:
    facts = {
        "role": step.role,
        "attempt": step.attempt,
        "tokens": step.tokens,
        "samples": step.samples,
        "learning_rate": step.learning_rate,
    }
    for rank, step_ns in enumerate(step.step_ns):
        start_ns, waited = step.at_ns - step_ns, step.sync_ns[rank]
        ends = accumulate((getattr(step, f"{part}_ns")[rank] for part in PARTS), initial=start_ns)
        yield Slice(
            noun="" if rank else "step",
            track=("ranks", f"rank {rank}"),
            name=f"step {step.step}" + ("" if step.role == "measured" else f" ({step.role})"),
            start_ns=start_ns,
            end_ns=step.at_ns,
            stages=[(part, start, end) for part, (start, end) in zip(PARTS, pairwise(ends), strict=True)],
            facts={**facts, "waited_for_gradients_ms": None if waited is None else waited / NS_PER_MS},
            choice=step.step,
            failed="" if rank or step.status == "ok" else step.status,
        )
    rate = step.tokens * NS_PER_S / step.wall_ns if step.wall_ns else None
    for counter, value in {"loss": step.loss, "grad norm": step.grad_norm, "tokens/s": rate, "peak bytes": max(step.peak_bytes)}.items():
        if value is not None:
            yield Reading(counter, step.at_ns, value)
