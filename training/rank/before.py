"""What is measured before the first step and after the last: the operators' errors and the peak, then the start record; the largest
collective alone, then the parameters' hash and the end record.

The peak is what a rank's device reaches in a large matrix product, while all the other ranks do the same: the denominator of MFU
where no specification is given, a peak that this machine has been seen to reach, in the workload's precision, with as many
threads as the training gets.
"""

from __future__ import annotations

import hashlib
import socket
import time

import torch
import torch.distributed as dist

from bytemlperf.child.ranks import bus_factor
from bytemlperf.hardware.machine import package_versions
from training.plan.plan import PACKAGES
from training.plan.traffic import analytic
from training.rank.operators import check_operators
from training.rank.rank import Rank
from training.results.records import CollectiveRecord, EndRecord, StartRecord, Why
from training.workload.architectures import build_model, forward_flops_of_a_sample
from training.workload.flops import FORWARD_AND_BACKWARD, model_flops, parameters, recomputed_flops

TERAFLOPS = 1e12


def begin(rank: Rank, first_step: int, started_ns: int) -> None:
    """Measure and record. Every rank takes part."""
    ready_ns = time.perf_counter_ns() - started_ns
    plan, workload = rank.plan, rank.workload
    if plan.peak_tflops:
        peak, source = plan.peak_tflops * TERAFLOPS, plan.peak_source
    else:
        peak, source = measured_peak(rank.device, workload.training.precision)
    own = sum(tensor.numel() for _, tensor in rank.trainer.parameters())
    starts, owned, peaks = zip(*rank.gather([ready_ns, own, peak]), strict=True)
    name = torch.cuda.get_device_name(rank.device) if rank.device.type == "cuda" else "cpu"
    hosts, devices = zip(*rank.gather_objects((socket.gethostname(), name)), strict=True)
    if rank.number:
        return
    if plan.check_operators and rank.attempt == 0:
        for record in check_operators(workload, plan.vocabulary, rank.device, plan.seed):
            rank.write(record)
    all_parameters, flops, again = _size(rank)
    rank.write(
        StartRecord(
            attempt=rank.attempt,
            at_ns=time.perf_counter_ns(),
            first_step=first_step,
            start_ns=[int(ns) for ns in starts],
            parameters=all_parameters,
            parameters_by_rank=[int(count) for count in owned],
            model_flops=flops,
            recomputed_flops=again,
            peak_flops=list(peaks),
            peak_source=source,
            device=plan.device,
            devices=list(devices),
            hosts=list(hosts),
            threads=plan.threads,
            packages=package_versions(PACKAGES),
        )
    )


def _size(rank: Rank) -> tuple[int, int, int]:
    """Parameters, FLOPs of a sample forward and backward, and those done a second time; a ResNet's by torch's own count."""
    workload, vocabulary = rank.workload, rank.plan.vocabulary
    if workload.family != "resnet":
        return parameters(workload, vocabulary), model_flops(workload, vocabulary), recomputed_flops(workload)
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in build_model(workload, 0).parameters())
    return count, FORWARD_AND_BACKWARD * forward_flops_of_a_sample(workload, vocabulary), 0


SIDE_CPU, SIDE_CUDA = 1024, 8192
REPEATS = 8


def measured_peak(device: torch.device, precision: str) -> tuple[float, str]:
    """FLOP/s of the best of `REPEATS` products, and what was measured."""
    side = SIDE_CUDA if device.type == "cuda" else SIDE_CPU
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    left = torch.randn(side, side, device=device, generator=torch.Generator(device).manual_seed(0)).to(dtype)
    best = min(_seconds(left, device) for _ in range(REPEATS + 1))
    return 2 * side**3 / best, f"measured: {side} x {side} x {side} product in {precision}, all ranks at once"


def _seconds(left: torch.Tensor, device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    left @ left
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


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
