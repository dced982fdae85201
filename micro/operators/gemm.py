"""Matrix products: one, a batch, groups of uneven sizes, and a matrix with a vector."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from random import SystemRandom
from typing import Any

from micro.operators import product
from micro.operators.contract import Args, Argument, Cost, Maker, Operator, Sample, Tensors, Tolerance, dtype_argument
from micro.operators.dtypes import FLOATS, size_bytes
from micro.operators.product import gemm_tolerance
from micro.operators.routing import ROUTING_HELP, check_routing, spread

REFERENCE_FLOPS = 2 * 10**9
"""A reference product larger than this takes evenly spread rows instead of all; float64, so about 0.1 s."""

REFERENCE_VALUES = 1 << 23
"""Where a row costs little but there are many, values that a reference holds: 64 MiB in float64."""

RESULT: dict[str, str] = {"int8": "int32", "float8_e4m3": "float32"}
"""The result's dtype where it is not the inputs'."""

_SIZES = (
    Argument("M", "int", "rows of A and C"),
    Argument("K", "int", "columns of A, rows of B"),
    Argument("N", "int", "columns of B and C"),
)


def result_dtype(dtype: str) -> str:
    """Of a product of two such matrices."""
    return RESULT.get(dtype, dtype)


def spread_rows(count: int, flops_per_row: int, budget: int = REFERENCE_FLOPS) -> Any:
    """Indices of rows whose reference fits the budget, in ascending order, first and last among them; None where all fit.
    No kernel can know which: they are others each time, whatever the seed."""
    import torch

    rows = max(2, budget // max(1, flops_per_row))
    if rows >= count:
        return None
    return torch.tensor([0, *sorted(SystemRandom().sample(range(1, count - 1), rows - 2)), count - 1])


def _inputs(args: Args, make: Maker) -> Tensors:
    return product.matrix(make, args["dtype"], args["M"], args["K"]), product.matrix(make, args["dtype"], args["K"], args["N"])


def _kernel(args: Args) -> Callable[..., Any]:
    import torch

    if args["dtype"] in RESULT:
        return product.product

    def matmul(a: Any, b: Any) -> Any:
        return torch.matmul(a, b)

    return matmul


def _reference(args: Args, inputs: Tensors) -> Any:
    a, b = inputs
    rows = spread_rows(args["M"], 2 * args["K"] * args["N"])
    if rows is None:
        return a.double() @ b.double()
    return Sample(rows, a[rows.to(a.device)].double() @ b.double())


def _cost(args: Args) -> Cost:
    m, k, n, dtype = args["M"], args["K"], args["N"], args["dtype"]
    written = size_bytes(result_dtype(dtype), m * n)
    return Cost(2 * prod((m, k, n)), size_bytes(dtype, m * k + k * n), written, flops_dtype=dtype)


def _tolerance(args: Args) -> Tolerance:
    if args["dtype"] == "int8":
        return Tolerance(0, 0)
    return gemm_tolerance(result_dtype(args["dtype"]), args["K"], args["dtype"])


def _batch_inputs(args: Args, make: Maker) -> Tensors:
    batch, m, k, n, dtype = (args[name] for name in ("batch_size", "M", "K", "N", "dtype"))
    return make.normal(batch, m, k, dtype=dtype), make.normal(batch, k, n, dtype=dtype)


def _batch_kernel(_args: Args) -> Callable[..., Any]:
    import torch

    def batch_matmul(a: Any, b: Any) -> Any:
        return torch.bmm(a, b)

    return batch_matmul


def _batch_reference(args: Args, inputs: Tensors) -> Any:
    a, b = inputs
    chosen = spread_rows(args["batch_size"], 2 * args["M"] * args["K"] * args["N"])
    if chosen is None:
        return a.double() @ b.double()
    return Sample(chosen, a[chosen.to(a.device)].double() @ b[chosen.to(b.device)].double())


def _batch_cost(args: Args) -> Cost:
    one, batch = _cost(args), args["batch_size"]
    return Cost(batch * one.flops, batch * one.read_bytes, batch * one.write_bytes, flops_dtype=args["dtype"])


def group_sizes(args: Args) -> list[int]:
    """Rows of each group; together M."""
    return spread(args["M"], args["num_groups"], args["routing"])


def _group_inputs(args: Args, make: Maker) -> Tensors:
    m, k, n, dtype = (args[name] for name in ("M", "K", "N", "dtype"))
    return make.normal(m, k, dtype=dtype), make.normal(args["num_groups"], k, n, dtype=dtype)


def _group_kernel(args: Args) -> Callable[..., Any]:
    import torch

    sizes = group_sizes(args)

    def group_matmul(a: Any, b: Any) -> Any:
        return torch.cat([rows @ b[group] for group, rows in enumerate(a.split(sizes)) if rows.shape[0]])

    return group_matmul


def group_of_rows(sizes: list[int]) -> Any:
    """Of each row, its group: int64."""
    import torch

    return torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))


def _group_reference(args: Args, inputs: Tensors) -> Any:
    import torch

    a, b = inputs
    rows = spread_rows(args["M"], 2 * args["K"] * args["N"])
    rows = torch.arange(args["M"]) if rows is None else rows
    groups = group_of_rows(group_sizes(args))[rows]
    parts = [a[rows[groups == group].to(a.device)].double() @ b[group].double() for group in groups.unique().tolist()]
    return Sample(rows, torch.cat(parts))


def _group_cost(args: Args) -> Cost:
    m, k, n, dtype, groups = (args[name] for name in ("M", "K", "N", "dtype", "num_groups"))
    used = sum(1 for size in group_sizes(args) if size)
    read, written = size_bytes(dtype, m * k + used * k * n), size_bytes(dtype, m * n)
    return Cost(2 * m * k * n, read, written, size_bytes(dtype, m * k + groups * k * n) + written, flops_dtype=dtype)


def _vector_inputs(args: Args, make: Maker) -> Tensors:
    return make.normal(args["M"], args["K"], dtype=args["dtype"]), make.normal(args["K"], dtype=args["dtype"])


def _vector_kernel(_args: Args) -> Callable[..., Any]:
    import torch

    def matrix_vector(a: Any, x: Any) -> Any:
        return torch.mv(a, x)

    return matrix_vector


def _vector_cost(args: Args) -> Cost:
    m, k, dtype = args["M"], args["K"], args["dtype"]
    return Cost(2 * m * k, size_bytes(dtype, m * k + k), size_bytes(dtype, m), flops_dtype=dtype)


GEMM = Operator(
    name="gemm",
    constant=lambda _args: (1,),
    family="gemm",
    help="C[M,N] = A[M,K] · B[K,N]",
    arguments=(*_SIZES, dtype_argument((*FLOATS, *RESULT))),
    inputs=_inputs,
    kernel=_kernel,
    reference=_reference,
    cost=_cost,
    tolerance=_tolerance,
    basic=({"dtype": ["float32", "bfloat16"], "K.N": [[1024, 1024]], "M": [1, 64, 1024]}, {"dtype": "int8", "K.N.M": [[1024, 1024, 1024]]}),
    aliases={"num_tokens": "M", "hidden_size": "K", "new_hidden_size": "N"},
    emulation=product.emulation,
)
BATCH_GEMM = Operator(
    name="batch_gemm",
    family="gemm",
    help="batch_size products C[M,N] = A[M,K] · B[K,N]",
    arguments=(Argument("batch_size", "int", "products"), *_SIZES, dtype_argument()),
    inputs=_batch_inputs,
    kernel=_batch_kernel,
    reference=_batch_reference,
    cost=_batch_cost,
    tolerance=lambda args: gemm_tolerance(args["dtype"], args["K"]),
    basic=({"dtype": ["float32", "bfloat16"], "batch_size.M.K.N": [[16, 128, 128, 512]]},),
)
GROUP_GEMM = Operator(
    name="group_gemm",
    constant=lambda _args: (1,),
    family="gemm",
    help="num_groups products of uneven numbers of rows, M in all: C[M_g,N] = A[M_g,K] · B_g[K,N]",
    arguments=(
        Argument("num_groups", "int", "products", high=1 << 16),
        *_SIZES,
        Argument("routing", "any", ROUTING_HELP.replace("experts", "groups"), "balanced"),
        dtype_argument(),
    ),
    inputs=_group_inputs,
    kernel=_group_kernel,
    reference=_group_reference,
    cost=_group_cost,
    tolerance=lambda args: gemm_tolerance(args["dtype"], args["K"]),
    check=lambda args: check_routing(args["routing"], args["num_groups"]),
    basic=({"dtype": ["float32", "bfloat16"], "num_groups.M.K.N": [[8, 512, 512, 512]], "routing": ["zipf"]},),
)
GEMV = Operator(
    name="gemv",
    constant=lambda _args: (0,),
    family="gemm",
    help="y[M] = A[M,K] · x[K]",
    arguments=(_SIZES[0], _SIZES[1], dtype_argument()),
    inputs=_vector_inputs,
    kernel=_vector_kernel,
    reference=lambda _args, inputs: inputs[0].double() @ inputs[1].double(),
    cost=_vector_cost,
    tolerance=lambda args: gemm_tolerance(args["dtype"], args["K"]),
    basic=({"dtype": ["float32", "bfloat16"], "M.K": [[4096, 4096]]},),
)
GEMMS = {operator.name: operator for operator in (GEMM, BATCH_GEMM, GROUP_GEMM, GEMV)}
