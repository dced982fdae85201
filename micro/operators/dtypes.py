"""Number formats by the names that workload files use: size, rounding unit, torch's name.

tfloat32 is kept as float32 and rounded by the device's matrix unit; int4 is kept two to a byte.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from bytemlperf.lazy import torch

if TYPE_CHECKING:
    from torch import dtype as TorchDtype


class Dtype(NamedTuple):
    """`bits` per value in memory; `epsilon` is the gap after 1.0 (0 for integers); `torch` its attribute in torch."""

    bits: int
    epsilon: float
    torch: str


DTYPES: dict[str, Dtype] = {
    "float64": Dtype(64, 2.0**-52, "float64"),
    "float32": Dtype(32, 2.0**-23, "float32"),
    "tfloat32": Dtype(32, 2.0**-10, "float32"),
    "float16": Dtype(16, 2.0**-10, "float16"),
    "bfloat16": Dtype(16, 2.0**-7, "bfloat16"),
    "float8_e4m3": Dtype(8, 2.0**-3, "float8_e4m3fn"),
    "float8_e5m2": Dtype(8, 2.0**-2, "float8_e5m2"),
    "int64": Dtype(64, 0.0, "int64"),
    "int32": Dtype(32, 0.0, "int32"),
    "int8": Dtype(8, 0.0, "int8"),
    "uint8": Dtype(8, 0.0, "uint8"),
    "int4": Dtype(4, 0.0, "uint8"),
}

ALIASES = {
    "fp64": "float64",
    "fp32": "float32",
    "tf32": "tfloat32",
    "fp16": "float16",
    "half": "float16",
    "bf16": "bfloat16",
    "fp8": "float8_e4m3",
    "float8": "float8_e4m3",
    "float8_e4m3fn": "float8_e4m3",
}

FLOATS = ("float32", "float16", "bfloat16", "tfloat32", "float64")
"""What most operators take; a provider refuses what its device lacks."""


def canonical(name: str) -> str | None:
    """The name used here, None where it is no dtype."""
    name = ALIASES.get(name.lower(), name.lower())
    return name if name in DTYPES else None


def size_bytes(dtype: str, count: int) -> int:
    """Memory of `count` values, rounded up to whole bytes."""
    return -(-count * DTYPES[dtype].bits // 8)


def torch_dtype(dtype: str) -> TorchDtype:
    """torch's dtype that holds it."""
    return getattr(torch, DTYPES[dtype].torch)
