"""What a rank's device reaches in a large matrix product, while all the other ranks do the same.

The denominator of MFU where no specification is given: a peak that this machine has been seen to reach,
in the workload's precision, with as many threads as the training gets.
"""

from __future__ import annotations

import time

import torch

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
