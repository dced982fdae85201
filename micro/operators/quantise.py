"""Dynamic quantisation per token: q = x·smooth / s with s = max|x·smooth| / largest value, s kept beside it.

How it is checked: a quantised value is compared with the *unrounded* quotient in float64. Rounding to the
nearest is at most half a step away; truncation, a scale that is off or a smooth factor of the wrong
expert are further. The reference therefore returns quotients, not integers.
"""

from __future__ import annotations

from bytemlperf.lazy import torch
from micro.operators.contract import Argument, Tensor, Tolerance, dtype_argument
from micro.operators.dtypes import DTYPES, torch_dtype

LARGEST = {"int8": 127.0, "float8_e4m3": 448.0}
"""What a row's largest value becomes."""

HALF_STEP = 0.5
FLOAT8_HALF_UNIT, FLOAT8_HALF_SMALLEST = 2.0**-4, 2.0**-10
"""float8_e4m3 has three bits after the point, and subnormal steps of 2⁻⁹."""

QUANT_FLOPS = 4
"""For each value: smooth factor, comparison for the maximum, division by the scale, rounding."""


def quant_argument(default: str = "int8") -> Argument:
    """The usual dst_dtype of a quantising operator."""
    return dtype_argument(tuple(LARGEST), name="dst_dtype", default=default)


def quantise(x: Tensor, smooth: Tensor, dst_dtype: str) -> tuple[Tensor, Tensor]:
    """x[rows, values] float32 and smooth [values] or [rows, values], to (quantised, scale[rows] float32)."""
    smoothed, largest = x * smooth, LARGEST[dst_dtype]
    scale = smoothed.abs().amax(-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny) / largest
    quotient = (smoothed / scale).clamp(-largest, largest)
    quantised = quotient.round() if dst_dtype == "int8" else quotient
    return quantised.to(torch_dtype(dst_dtype)), scale.squeeze(-1)


def exact_quotients(x: Tensor, smooth: Tensor, dst_dtype: str) -> tuple[Tensor, Tensor]:
    """The reference: float64 quotients, not rounded, and scales."""
    smoothed = x.double() * smooth.double()
    scale = smoothed.abs().amax(-1, keepdim=True) / LARGEST[dst_dtype]
    return smoothed / scale, scale.squeeze(-1)


def quant_tolerances(dtype: str, dst_dtype: str, scale: float = 1.0) -> tuple[Tolerance, Tolerance]:
    """Of quantised values and of scales, where x may have been rounded once to `dtype` on the way. `scale` is a
    typical scale's size."""
    unit = DTYPES[dtype].epsilon / 2  # rounding to the nearest loses half the gap: 127 and 128 differ by more
    float32 = DTYPES["float32"].epsilon
    if dst_dtype == "int8":
        values = Tolerance(unit, HALF_STEP + 128 * 8 * float32)
    else:
        values = Tolerance(FLOAT8_HALF_UNIT + unit, FLOAT8_HALF_SMALLEST)
    return values, Tolerance(unit + 16 * float32, scale * 1e-6)


def half_precision(default: str = "bfloat16") -> Argument:
    """dtype of activations: ByteMLPerf's is bfloat16."""
    return dtype_argument(("bfloat16", "float16", "float32"), default=default)
