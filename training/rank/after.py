"""What is measured after the last step: the largest collective alone; then the parameters' hash and the end record."""

from __future__ import annotations

import hashlib
import time
from typing import Any

from training.plan.plan import Plan
from training.rank.communication import analytic, bus_factor
from training.rank.saving import Write
from training.results.records import CollectiveRecord, EndRecord, Why
from training.trainers.contract import Trainer

ALONE_REPEATS = 10
MOST_BYTES = 64 << 20
SMALL_PART = 16
"""A second, smaller size tells the latency of a call from the bandwidth."""
MEASURED_OPS = ("all_reduce", "all_gather", "reduce_scatter")


def end(plan: Plan, trainer: Trainer, device: Any, attempt: int, why: Why, next_step: int, write: Write) -> None:
    """Measure and record. Every rank takes part."""
    for record in _alone(plan, device):
        write(record)
    digest = _digest(trainer)
    write(EndRecord(attempt=attempt, why=why, next_step=next_step, state_sha256=digest, at_ns=time.perf_counter_ns()))


def _alone(plan: Plan, device: Any) -> list[CollectiveRecord]:
    """The step's collectives over all ranks, once more with nothing beside them, at the size of a whole step's volume."""
    found = []
    for each in analytic(plan):
        if each.op in MEASURED_OPS and each.group == plan.layout.world:
            size = min(each.bytes, MOST_BYTES)
            found += [_timed(each.op, each.group, part, device) for part in (size, size // SMALL_PART)]
    return found


def _timed(op: str, ranks: int, size: int, device: Any) -> CollectiveRecord:
    import torch
    import torch.distributed as dist

    numbers = max(ranks, size // 4 // ranks * ranks)
    full = torch.zeros(numbers, device=device)
    part = torch.zeros(numbers // ranks, device=device)
    calls = {
        "all_reduce": lambda: dist.all_reduce(full),
        "all_gather": lambda: dist.all_gather_into_tensor(full, part),
        "reduce_scatter": lambda: dist.reduce_scatter_tensor(part, full),
    }
    times = []
    for repeat in range(ALONE_REPEATS + 1):
        dist.barrier()
        started = time.perf_counter_ns()
        calls[op]()
        if device.type == "cuda":
            torch.cuda.synchronize()
        slowest = torch.tensor([time.perf_counter_ns() - started], device=device)
        dist.all_reduce(slowest, op=dist.ReduceOp.MAX)
        if repeat:  # the first one opens connections
            times.append(int(slowest))
    return CollectiveRecord(op=op, group=ranks, bytes=numbers * 4, ns=times, bus_bytes=round(numbers * 4 * bus_factor(op, ranks)))


def _digest(trainer: Trainer) -> str:
    """SHA-256 over every rank's parameters in the order of ranks and names."""
    import torch
    import torch.distributed as dist

    digest = hashlib.sha256()
    for name, tensor in trainer.parameters():
        digest.update(name.encode())
        digest.update(tensor.detach().contiguous().cpu().view(torch.uint8).numpy().tobytes())
    every: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(every, digest.hexdigest())
    return hashlib.sha256("".join(every).encode()).hexdigest()
