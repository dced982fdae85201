"""Products of matrices in every number format: what torch has a kernel for, and what it must emulate.

int8 is torch._int_mm (int32 sums, exact). float8 is torch._scaled_mm on GPUs that have it, elsewhere float32
products of the converted values. int4 weights lie two to a byte and are unpacked to int8 first; torch has no
int4 product on any device.

Dynamic quantisation per token: q = x·smooth / s with s = max|x·smooth| / largest value, s kept beside it.

How it is checked: a quantised value is compared with the *unrounded* quotient in float64. Rounding to the
nearest is at most half a step away; truncation, a scale that is off or a smooth factor of the wrong
expert are further. The reference therefore returns quotients, not integers.
"""

from __future__ import annotations

from bytemlperf.lazy import torch
from micro.operators.contract import DTYPES, SMALLEST, Args, Maker, Sample, Tensor, Tolerance, dtype_argument, torch_dtype, units_of
from micro.operators.tensors import ACTIVATIONS, spread_rows

FLOAT8_CAPABILITY = (8, 9)
INT_MM_ROWS = 17
"""torch._int_mm on CUDA takes no fewer rows."""

INT8_SPREAD = 73.6
"""Standard deviation of integers in [−127, 127]; scales divide by it, so that real values are about 1."""

INT4_SPREAD = 4.3
"""The same for [−7, 7]."""


FLOAT8_SUMS = 2.0**-9
"""Matrix units of GPUs add float8 products in about 14 bits (DeepSeek-V3, arXiv:2412.19437, 3.3.2)."""


def gemm_tolerance(dtype: str, depth: int, operands: str = "") -> Tolerance:
    """Each of `depth` additions in float32 may lose half a unit (Higham, Accuracy and Stability, 2nd ed., 3.1, statistically
    sqrt(depth) of them), the result loses its own once, or twice where parts of a sum are kept in it."""
    unit, sum_unit = units_of(dtype)
    sums = sum_unit * depth**0.5 + (FLOAT8_SUMS if operands.startswith("float8") else 0.0)
    noise = 1.5 if dtype == "tfloat32" else 0.6  # operands are rounded too
    return Tolerance(unit + 2 * sum_unit, depth**0.5 * SMALLEST.get(dtype, 0.0), 2 * unit + 4 * sums, noise * unit + sums)


def matrix(make: Maker, *shape: int, dtype: str) -> Tensor:
    """Random operands, a `TensorSpec.fill`: standard normal floats, integers over the whole range, packed int4 pairs."""
    if dtype == "int8":
        return make.integers(-127, 128, *shape, dtype="int8")
    if dtype == "int4":
        return pack_int4(make.integers(-7, 8, *shape, dtype="int8"))
    return make.normal(*shape, dtype=dtype)


def scales(make: Maker, *shape: int, dtype: str) -> Tensor:
    """float32 scales of such operands that differ by up to three times, for values of about 1 after them."""
    spread = {"int8": INT8_SPREAD, "int4": INT4_SPREAD}.get(dtype, 1.0)
    return make.uniform(0.5 / spread, 1.5 / spread, *shape)


def pack_int4(values: Tensor) -> Tensor:
    """int8 in [−8, 7] to uint8 of half the last dimension; the even column is the low half."""
    low, high = values[..., 0::2].to(torch.int16) & 15, values[..., 1::2].to(torch.int16) & 15
    return (low | (high << 4)).to(torch.uint8)


def unpack_int4(packed: Tensor) -> Tensor:
    """The inverse of `pack_int4`."""
    signed = packed.view(torch.int8)
    low, high = (signed << 4) >> 4, signed >> 4  # shifts of signed integers keep the sign
    return torch.stack((low, high), dim=-1).flatten(-2)


def product(a: Tensor, b: Tensor) -> Tensor:
    """a[M,K] · b[K,N] of equal dtypes: int32 for int8, float32 for float8, else the inputs' dtype."""
    if a.dtype == torch.int8:
        if a.shape[1] == 1:  # the strides of one row don't say which way it lies: torch._int_mm guesses, wrongly
            return a.int() * b.int()
        if not a.is_cuda or a.shape[0] >= INT_MM_ROWS:
            return torch._int_mm(a, b)
        return torch._int_mm(torch.nn.functional.pad(a, (0, 0, 0, INT_MM_ROWS - a.shape[0])), b)[: a.shape[0]]
    if a.dtype in (torch.float8_e4m3fn, torch.float8_e5m2):
        if has_float8(str(a.device)):
            one = torch.ones((), device=a.device)
            return torch._scaled_mm(a, b, scale_a=one, scale_b=one, out_dtype=torch.float32)
        return a.float() @ b.float()
    return torch.matmul(a, b)


def sampled_product(a: Tensor, b: Tensor) -> Sample:
    """The reference of a[M,K] · b[K,N], in float64."""
    rows = spread_rows(a.shape[0], 2 * b.numel())
    return Sample(rows, a[rows].double() @ b.double())


def scaled_product(a: Tensor, a_scale: Tensor | None, weight: Tensor, weight_scale: Tensor | None, dst_dtype: str) -> Tensor:
    """(a[M,K] · weight[N,K]ᵀ) · a_scale[M] · weight_scale[N], to `dst_dtype`. Scales of None are 1."""
    if weight.dtype == torch.uint8:
        weight = unpack_int4(weight)
    result = product(a, weight.t())
    if a_scale is not None:
        result = result.float() * a_scale[:, None] * weight_scale
    return result.to(torch_dtype(dst_dtype))


def exact_scaled_product(a: Tensor, a_scale: Tensor | None, weight: Tensor, weight_scale: Tensor | None) -> Tensor:
    """The reference of `scaled_product`, in float64."""
    if weight.dtype == torch.uint8:
        weight = unpack_int4(weight)
    result = a.double() @ weight.double().t()
    return result if a_scale is None or weight_scale is None else result * a_scale.double()[:, None] * weight_scale.double()


def has_float8(device: str) -> bool:
    """Whether torch multiplies float8 there."""
    return device.startswith("cuda") and torch.cuda.get_device_capability(device) >= FLOAT8_CAPABILITY


def emulation(args: Args, device: str) -> str:
    """What of the case's dtypes `product` emulates on the device."""
    used = {value for value in args.values() if isinstance(value, str)}
    notes = []
    if used & {"float8_e4m3", "float8_e5m2"} and not has_float8(device):
        notes.append("float8 products are emulated in float32")
    if "int4" in used:
        notes.append("int4 is emulated: unpacked to int8 in each call")
    return "; ".join(notes)


LARGEST = {"int8": 127.0, "float8_e4m3": 448.0}
"""What a row's largest value becomes."""

HALF_STEP = 0.5
FLOAT8_HALF_UNIT, FLOAT8_HALF_SMALLEST = 2.0**-4, 2.0**-10
"""float8_e4m3 has three bits after the point, and subnormal steps of 2⁻⁹."""

QUANT_FLOPS = 4
"""For each value: smooth factor, comparison for the maximum, division by the scale, rounding."""


DST_DTYPE = dtype_argument(tuple(LARGEST), name="dst_dtype", default="int8")
"""The usual one of a quantising operator."""
HALF_PRECISION = dtype_argument(ACTIVATIONS, default="bfloat16")
"""dtype of activations: ByteMLPerf's is bfloat16."""


def as_stored(values: Tensor, dtype: str) -> Tensor:
    """Values over their scale in a quantised format: cut off at its largest, rounded to the nearest."""
    kept = values.clamp(-LARGEST[dtype], LARGEST[dtype])
    return (kept.round() if dtype == "int8" else kept).to(torch_dtype(dtype))


def quantise(x: Tensor, smooth: Tensor, dst_dtype: str) -> tuple[Tensor, Tensor]:
    """x[rows, values] float32 and smooth [values] or [rows, values], to (quantised, scale[rows] float32)."""
    smoothed = x * smooth
    scale = smoothed.abs().amax(-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny) / LARGEST[dst_dtype]
    return as_stored(smoothed / scale, dst_dtype), scale.squeeze(-1)


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
