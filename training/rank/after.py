"""What is measured after the last step: the largest collective alone; then the parameters' hash and the end record."""

from __future__ import annotations

import hashlib
import time

import torch
import torch.distributed as dist

from training.plan.traffic import analytic, bus_factor
from training.rank.rank import Rank
from training.results.records import CollectiveRecord, EndRecord, Why

ALONE_REPEATS = 10
MOST_BYTES = 64 << 20
SMALL_PART = 16
"""A second, smaller size tells the latency of a call from the bandwidth."""
MEASURED_OPS = ("all_reduce", "all_gather", "reduce_scatter")


def end(rank: Rank, why: Why, next_step: int) -> None:
    """Measure and record: the step's collectives over all ranks once more with nothing beside them, at the size of a whole
    step's volume. Every rank takes part."""
    for transfer in analytic(rank.plan):
        if transfer.op in MEASURED_OPS and transfer.group == rank.plan.layout.world:
            size = min(transfer.bytes, MOST_BYTES)
            for part in (size, size // SMALL_PART):
                rank.write(_timed(transfer.op, transfer.group, part, rank.device))
    rank.write(EndRecord(attempt=rank.attempt, why=why, next_step=next_step, state_sha256=_digest(rank), at_ns=time.perf_counter_ns()))


def _timed(op: str, ranks: int, size: int, device: torch.device) -> CollectiveRecord:
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


def _digest(rank: Rank) -> str:
    """SHA-256 over every rank's parameters in the order of ranks and names."""
    digest = hashlib.sha256()
    for name, tensor in rank.trainer.parameters():
        digest.update(name.encode())
        digest.update(tensor.detach().contiguous().cpu().view(torch.uint8).numpy().tobytes())
    return hashlib.sha256("".join(rank.gather_objects(digest.hexdigest())).encode()).hexdigest()
