"""The worker process: does one case after the other, so that torch is imported once.

Run as `python -m micro.sweep.worker THREADS DEVICE`; jobs come on standard input, messages leave on standard output.
A case's own exception is a failed row; a crash or a hang ends this process, and the sweep starts another one.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import msgspec

from bytemlperf.child.inside import die_with_parent, first_out_of_memory, messages
from bytemlperf.lazy import torch
from micro.measure.conditions import between, pinning, snapshot
from micro.measure.correctness import (
    SEEDS_APART,
    Checked,
    changed,
    check_outputs,
    copied,
    judged,
    last_call,
    new_values,
    unusual,
    value_sets,
)
from micro.measure.estimate import FIRST_CHECKED_BYTES, buffer_sets
from micro.measure.messages import Hello, Job, Outcome, Stage, StageName, in_words
from micro.measure.timing import Stopwatch, measure, stopwatch_of
from micro.operators.contract import Maker, Operator, Outputs, Tensors
from micro.peaks.machine import allocation, device_facts, give_back_memory
from micro.providers.contract import Refused
from micro.providers.registry import find_provider
from micro.registry import find_operator

PROBE_SIZE = 384
PROBE_BYTES = 64 << 20


def main() -> None:
    """Serve until standard input ends."""
    threads, device = int(sys.argv[1]), sys.argv[2]
    first_out_of_memory()
    die_with_parent()
    tell = messages()
    tell(_hello(threads, device))
    for line in sys.stdin.buffer:
        job = msgspec.json.decode(line, type=Job)
        tell(do(job, stopwatch_of(device), lambda name: tell(Stage(name=name))))


def do(job: Job, stopwatch: Stopwatch, begins: Callable[[StageName], None]) -> Outcome:
    """One case: build, make inputs, check, time, check again. Exceptions become the outcome here and nowhere else."""
    try:
        with torch.inference_mode():
            return _do(job, stopwatch, begins)
    except Refused as refused:
        return Outcome(status="refused", reason=str(refused))
    except MemoryError:
        return Outcome(status="failed", reason="out of memory")
    except Exception as error:  # a kernel may raise anything; the row says what
        return Outcome(status="failed", reason=in_words(error))


def _do(job: Job, stopwatch: Stopwatch, begins: Callable[[StageName], None]) -> Outcome:
    begins("building")
    give_back_memory()
    operator = find_operator(job.op)
    kernel = find_provider(job.provider).build(operator, job.args, job.device)
    begins("making inputs")
    inputs = operator.inputs(job.args, Maker(job.seed, job.device))
    begins("running")
    given = copied(inputs)
    prepared = kernel.prepare(given)
    outputs = kernel.run(*prepared)
    cost = operator.cost(job.args)
    if cost.resident_bytes <= FIRST_CHECKED_BYTES:
        checked = _first_checked(operator, job, inputs, outputs, begins)
        fault = checked.fault or changed(inputs, given, {*operator.writes, *kernel.writes})
        if fault:
            return Outcome(status="failed", reason=f"wrong result: {fault}", note=kernel.note, checked=checked)
    del outputs
    timed, conditions = None, None
    begins("timing")
    count = buffer_sets(cost, job.cache_bytes) if job.rules.max_samples else 1
    sets = value_sets(kernel, prepared, inputs, lambda: operator.inputs(job.args, Maker(job.seed + SEEDS_APART, job.device)), count)
    del prepared
    if job.rules.max_samples:
        before = snapshot(job.device)
        timed = measure(kernel.run, sets, stopwatch, job.rules)
        conditions = between(before, snapshot(job.device))
    begins("computing the reference")
    fresh = operator.inputs(job.args, Maker(job.seed + 2 * SEEDS_APART, job.device))
    values = new_values(operator, job.args, inputs, fresh)
    clock, constant = stopwatch_of(job.device, graphs=False), operator.constant(job.args)
    last = last_call(kernel, operator.writes, sets, given, values, clock, timed, constant)
    sets.clear()
    begins("checking")
    del inputs, given, fresh
    checked = judged(operator, job.args, last)
    if checked.fault:
        return Outcome(status="failed", reason=f"wrong result of the last timed call: {checked.fault}", note=kernel.note, checked=checked)
    return Outcome(status="ok", note=kernel.note, checked=checked, timed=timed, conditions=conditions)


def _first_checked(operator: Operator, job: Job, inputs: Tensors, outputs: Outputs, begins: Callable[[StageName], None]) -> Checked:
    odd = unusual(outputs)
    if odd:
        return Checked(fault=odd)
    begins("computing the reference")
    reference = operator.reference(job.args, inputs)
    begins("checking")
    return check_outputs(operator, job.args, inputs, outputs, reference)


def _hello(threads: int, device: str) -> Hello:
    if threads:
        torch.set_num_threads(threads)
    flops_per_s, bytes_per_s = _rates(device)
    return Hello(
        flops_per_s=flops_per_s,
        bytes_per_s=bytes_per_s,
        threads=torch.get_num_threads(),
        affinity=sorted(os.sched_getaffinity(0)),
        **device_facts(device),
        timer_overhead_ns=stopwatch_of(device).overhead_ns,
        libraries={
            "torch": str(torch.__version__),
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
            "onednn": str(torch.backends.mkldnn.is_available()),
            "mkl": str(torch.backends.mkl.is_available()),
        },
        pinning=pinning(),
        allocation=allocation() if device == "cpu" else "torch's caching allocator",
    )


def _rates(device: str) -> tuple[float, float]:
    """FLOP/s and byte/s of a small product and a copy, for estimates only: best of three."""
    stopwatch = stopwatch_of(device, graphs=False)
    a = torch.ones(PROBE_SIZE, PROBE_SIZE, device=device)
    b = torch.ones(PROBE_BYTES // 4, device=device)
    stopwatch.time_ns(torch.matmul, [(a, a)])
    product_ns = min(stopwatch.time_ns(torch.matmul, [(a, a)]) for _ in range(3))
    copy_ns = min(stopwatch.time_ns(torch.clone, [(b,)]) for _ in range(3))
    return 2 * PROBE_SIZE**3 / max(1, product_ns) * 1e9, 2 * PROBE_BYTES / max(1, copy_ns) * 1e9


if __name__ == "__main__":
    main()
