"""Matrix products: one, a batch, groups of uneven sizes, and a matrix with a vector."""

from __future__ import annotations

from bytemlperf.lazy import torch
from micro.operators import product
from micro.operators.contract import Args, Argument, Cost, Maker, Operator, Run, Sample, Tensor, Tensors, Tolerance, dtype_argument
from micro.operators.dtypes import FLOATS, size_bytes
from micro.operators.product import gemm_tolerance
from micro.operators.routing import ROUTING_HELP, check_routing, spread
from micro.operators.tensors import drawn, moved, normal, spread_rows

RESULT: dict[str, str] = {"int8": "int32", "float8_e4m3": "float32"}
"""The result's dtype where it is not the inputs'."""

_SIZES = (
    Argument("M", "int", "rows of A and C"),
    Argument("K", "int", "columns of A, rows of B"),
    Argument("N", "int", "columns of B and C"),
)
_A, _B = normal("M", "K"), normal("K", "N")
_BATCH_A, _BATCH_B, _BATCH_C = (normal("batch_size", *sizes) for sizes in (("M", "K"), ("K", "N"), ("M", "N")))
_GROUP_B = normal("num_groups", "K", "N")
_X, _Y = normal("K"), normal("M")


def result_dtype(dtype: str) -> str:
    """Of a product of two such matrices."""
    return RESULT.get(dtype, dtype)


def _inputs(args: Args, make: Maker) -> Tensors:
    return product.matrix(make, args["dtype"], args["M"], args["K"]), product.matrix(make, args["dtype"], args["K"], args["N"])


def _kernel(args: Args) -> Run:
    return product.product if args["dtype"] in RESULT else torch.matmul


def _reference(args: Args, inputs: Tensors) -> Sample:
    a, b = inputs
    rows = spread_rows(args["M"], 2 * args["K"] * args["N"])
    return Sample(rows, a[rows].double() @ b.double())


def _cost(args: Args) -> Cost:
    m, k, n, dtype = args["M"], args["K"], args["N"], args["dtype"]
    return Cost(2 * m * k * n, size_bytes(dtype, m * k + k * n), size_bytes(result_dtype(dtype), m * n), flops_dtype=dtype)


def _tolerance(args: Args) -> Tolerance:
    return Tolerance(0, 0) if args["dtype"] == "int8" else gemm_tolerance(result_dtype(args["dtype"]), args["K"], args["dtype"])


def _batch_reference(args: Args, inputs: Tensors) -> Sample:
    a, b = inputs
    chosen = spread_rows(args["batch_size"], 2 * args["M"] * args["K"] * args["N"])
    return Sample(chosen, a[chosen].double() @ b[chosen].double())


def group_sizes(args: Args) -> list[int]:
    """Rows of each group; together M."""
    return spread(args["M"], args["num_groups"], args["routing"])


def _group_kernel(args: Args) -> Run:
    sizes, cat = group_sizes(args), torch.cat
    return lambda a, b: cat([rows @ b[group] for group, rows in enumerate(a.split(sizes)) if rows.shape[0]])


def group_of_rows(sizes: list[int]) -> Tensor:
    """Of each row, its group: int64."""
    return torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))


def _group_reference(args: Args, inputs: Tensors) -> Sample:
    a, b = inputs
    rows = spread_rows(args["M"], 2 * args["K"] * args["N"])
    groups = group_of_rows(group_sizes(args))[rows]
    return Sample(rows, torch.cat([a[rows[groups == group]].double() @ b[group].double() for group in groups.unique().tolist()]))


def _group_cost(args: Args) -> Cost:
    m, k, n, dtype, groups = (args[name] for name in ("M", "K", "N", "dtype", "num_groups"))
    used = sum(1 for size in group_sizes(args) if size)
    read, written = size_bytes(dtype, m * k + used * k * n), size_bytes(dtype, m * n)
    return Cost(2 * m * k * n, read, written, size_bytes(dtype, m * k + groups * k * n) + written, flops_dtype=dtype)


GEMM = Operator(
    name="gemm",
    constant=lambda _args: (1,),
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
    help="batch_size products C[M,N] = A[M,K] · B[K,N]",
    arguments=(Argument("batch_size", "int", "products"), *_SIZES, dtype_argument()),
    inputs=drawn(_BATCH_A, _BATCH_B),
    kernel=lambda _args: lambda a, b: a.bmm(b),
    reference=_batch_reference,
    cost=moved((_BATCH_A, _BATCH_B), (_BATCH_C,), 2, "batch_size", "M", "K", "N"),
    tolerance=lambda args: gemm_tolerance(args["dtype"], args["K"]),
    basic=({"dtype": ["float32", "bfloat16"], "batch_size.M.K.N": [[16, 128, 128, 512]]},),
)
GROUP_GEMM = Operator(
    name="group_gemm",
    constant=lambda _args: (1,),
    help="num_groups products of uneven numbers of rows, M in all: C[M_g,N] = A[M_g,K] · B_g[K,N]",
    arguments=(
        Argument("num_groups", "int", "products", high=1 << 16),
        *_SIZES,
        Argument("routing", "any", ROUTING_HELP.replace("experts", "groups"), "balanced"),
        dtype_argument(),
    ),
    inputs=drawn(_A, _GROUP_B),
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
    help="y[M] = A[M,K] · x[K]",
    arguments=(_SIZES[0], _SIZES[1], dtype_argument()),
    inputs=drawn(_A, _X),
    kernel=lambda _args: lambda a, x: a.mv(x),
    reference=lambda _args, inputs: inputs[0].double() @ inputs[1].double(),
    cost=moved((_A, _X), (_Y,), 2, "M", "K"),
    tolerance=lambda args: gemm_tolerance(args["dtype"], args["K"]),
    basic=({"dtype": ["float32", "bfloat16"], "M.K": [[4096, 4096]]},),
)
GEMMS = (GEMM, BATCH_GEMM, GROUP_GEMM, GEMV)
