"""Are the times of `bmp micro` right? Against `torch.utils.benchmark` on the same tensors, and numpy's BLAS.

    env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE python -m benchmarks.micro_against_torch [--rounds 15] [--threads 1]

gemm, softmax and layer_norm are timed by our loop and by torch's Timer in turn, in one process, on one set of
tensors; each round gives the ratio of the two medians, and the median of those ratios should be within 2 % of
1. Then the GEMM peak that `bmp micro` measures for this machine stands beside numpy's BLAS, timed by a plain
loop: two libraries on one machine differ by some per cent, not by a factor. Status 1 where a ratio is off.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from statistics import median
from time import perf_counter
from typing import Any

OPERATORS: dict[str, dict[str, Any]] = {
    "gemm": {"M": 256, "K": 256, "N": 256, "dtype": "float32"},
    "softmax": {"batch_size": 256, "dim_size": 1024, "dtype": "float32"},
    "layer_norm": {"batch_size": 256, "dim_size": 1024, "dtype": "float32"},
}
WITHIN = 0.02
ROUND_S = 0.3
BLAS_WITHIN = 0.25
BLAS_SIZES = (512, 1024, 2048)
BLAS_S = 1.5


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    flags = parser.parse_args()
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(flags.threads)  # before torch and numpy are imported
    import torch

    torch.set_num_threads(flags.threads)
    print(f"{flags.threads} threads, {flags.rounds} rounds of {ROUND_S} s each in turn; median of the rounds' ratios")
    good = [_against_timer(name, flags.rounds, flags.threads) for name in OPERATORS]
    good.append(_against_blas(flags.threads))
    return 0 if all(good) else 1


def _against_timer(name: str, rounds: int, threads: int) -> bool:
    import torch
    from torch.utils.benchmark import Timer

    from micro.operators.contract import Maker
    from micro.registry import find_operator

    operator, args = find_operator(name), OPERATORS[name]
    kernel, inputs = operator.kernel(args), operator.inputs(args, Maker(0, "cpu"))
    timer = Timer("kernel(*inputs)", globals={"kernel": kernel, "inputs": inputs}, num_threads=threads)
    ours, theirs = list[float](), list[float]()
    with torch.inference_mode():
        for number in range(rounds):
            both: list[tuple[list[float], Callable[[], float]]] = [
                (ours, lambda: _our_median_us(kernel, inputs)),
                (theirs, lambda: float(timer.blocked_autorange(min_run_time=ROUND_S).median * 1e6)),
            ]
            for times, take in both if number % 2 else reversed(both):
                times.append(take())
    ratio = median(one / other for one, other in zip(ours, theirs, strict=True))
    good = abs(ratio - 1) <= WITHIN
    verdict = "within 2 %" if good else "OFF"
    print(f"{name:12} ours {median(ours):9.2f} µs   torch.utils.benchmark {median(theirs):9.2f} µs   ratio {ratio:.4f}   {verdict}")
    return good


def _our_median_us(kernel: Callable[..., Any], inputs: tuple[Any, ...]) -> float:
    from micro.measure.timing import CpuStopwatch, Rules, latency_of, measure

    rules = Rules(warm_up_s=ROUND_S / 3, budget_s=ROUND_S, precision=1e-4)
    return latency_of(measure(kernel, [inputs], CpuStopwatch(), rules)).p50


def _against_blas(threads: int) -> bool:
    from micro.peaks.peaks import PeakSource
    from micro.sweep.sweep import Settings

    first = _blas_flops_per_s()
    with tempfile.TemporaryDirectory() as cache:
        os.environ["BMP_CACHE"] = cache
        source = PeakSource(Settings(threads=threads), fresh=True)
        with closing(source):
            source.need({"float32"})
    second = _blas_flops_per_s()
    peak, blas = source.peaks.flops["float32"], max(first, second)
    ratio = peak.per_s / blas
    good = abs(ratio - 1) <= BLAS_WITHIN
    print(
        f"float32 GEMM peak: bmp micro {peak.per_s / 1e9:.1f} GFLOP/s ({peak.provider}, {peak.case}), "
        f"numpy's BLAS {blas / 1e9:.1f} GFLOP/s   ratio {ratio:.3f}   {'alike' if good else 'OFF'}"
    )
    return good


def _blas_flops_per_s() -> float:
    """The fastest single product of some sizes."""
    import numpy

    best = 0.0
    for size in BLAS_SIZES:
        a, b = (numpy.random.default_rng(0).standard_normal((size, size), dtype="f4") for _ in range(2))
        out = numpy.empty_like(a)
        ends = perf_counter() + BLAS_S
        while perf_counter() < ends:
            began = perf_counter()
            numpy.matmul(a, b, out=out)
            best = max(best, 2 * size**3 / (perf_counter() - began))
    return best


if __name__ == "__main__":
    sys.exit(main())
