"""Matrix products."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

from micro.dtypes import DTYPES, size_bytes
from micro.operators.contract import Args, Argument, Cost, Maker, Operator, Sample, Tensors, Tolerance, dtype_argument

REFERENCE_FLOPS = 2 * 10**9
"""A reference product larger than this takes evenly spread rows instead of all; float64, so about 0.1 s."""


def gemm_tolerance(dtype: str, depth: int) -> Tolerance:
    """Products of standard normals are about sqrt(depth) large. Each of `depth` additions in float32 may
    lose half a unit of that (Higham, Accuracy and Stability, 2nd ed., 3.1, statistically sqrt(depth) of
    them), inputs and output of lower precision lose theirs once."""
    unit, sum_unit = DTYPES[dtype].epsilon, DTYPES["float64" if dtype == "float64" else "float32"].epsilon
    return Tolerance(2 * unit, 4 * sum_unit * depth + 2 * unit * depth**0.5)


def _inputs(args: Args, make: Maker) -> Tensors:
    return make.normal(args["M"], args["K"], dtype=args["dtype"]), make.normal(args["K"], args["N"], dtype=args["dtype"])


def _kernel(_args: Args) -> Callable[..., Any]:
    import torch

    def matmul(a: Any, b: Any) -> Any:
        return torch.matmul(a, b)

    return matmul


def _reference(args: Args, inputs: Tensors) -> Any:
    import torch

    a, b = inputs
    rows = max(1, REFERENCE_FLOPS // (2 * args["K"] * args["N"]))
    if rows >= args["M"]:
        return a.double() @ b.double()
    chosen = torch.linspace(0, args["M"] - 1, rows).long().to(a.device)
    return Sample(chosen, a[chosen].double() @ b.double())


def _cost(args: Args) -> Cost:
    m, k, n, dtype = args["M"], args["K"], args["N"], args["dtype"]
    return Cost(2 * prod((m, k, n)), size_bytes(dtype, m * k + k * n), size_bytes(dtype, m * n), flops_dtype=dtype)


GEMM = Operator(
    name="gemm",
    family="gemm",
    help="C[M,N] = A[M,K] · B[K,N]",
    arguments=(
        Argument("M", "int", "rows of A and C"),
        Argument("K", "int", "columns of A, rows of B"),
        Argument("N", "int", "columns of B and C"),
        dtype_argument(),
    ),
    inputs=_inputs,
    kernel=_kernel,
    reference=_reference,
    cost=_cost,
    tolerance=lambda args: gemm_tolerance(args["dtype"], args["K"]),
    basic=({"dtype": ["float32", "bfloat16"], "K.N": [[1024, 1024]], "M": [1, 64, 1024]},),
)
