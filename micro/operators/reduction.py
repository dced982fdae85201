"""Reductions over the last dimension of [batch_size, dim_size].

FLOPs: one for each value added or compared with the running result; topk counts none, because
how many comparisons it takes depends on the algorithm.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from micro.operators.contract import Args, Argument, Cost, Maker, Operator, Tensors, Tolerance, dtype_argument
from micro.operators.dtypes import DTYPES, size_bytes
from micro.operators.norm import ROWS, ROWS_ALIASES
from micro.operators.product import gemm_tolerance

INDEX = "int64"
_DTYPE = dtype_argument(("float32", "float16", "bfloat16", "float64"))
_BASIC = ({"dtype": ["float32", "bfloat16"], "batch_size": 1024, "dim_size": [1024, 4096]},)


def _inputs(args: Args, make: Maker) -> Tensors:
    return (make.normal(args["batch_size"], args["dim_size"], dtype=args["dtype"]),)


def _extreme_inputs(name: str) -> Callable[[Args, Maker], Tensors]:
    """The one extreme of row r is r/2 places from the row's end, or from its start: a kernel that leaves columns out is wrong."""
    further = 1 if name == "max" else -1

    def inputs(args: Args, make: Maker) -> Tensors:
        import torch

        (x,) = _inputs(args, make)
        rows = torch.arange(args["batch_size"], device=x.device)
        there = torch.where(rows % 2 == 0, -1 - rows // 2, rows // 2) % args["dim_size"]
        x[rows, there] = getattr(x, f"a{name}")(-1) + further
        return (x,)

    return inputs


def _extreme_kernel(name: str) -> Callable[[Args], Callable[..., Any]]:
    def kernel(_args: Args) -> Callable[..., Any]:
        import torch

        function = getattr(torch, name)

        def extreme(x: Any) -> Any:
            values, indices = function(x, dim=-1, keepdim=True)
            return values, indices

        return extreme

    return kernel


def _extreme_reference(name: str) -> Callable[[Args, Tensors], Any]:
    def reference(_args: Args, inputs: Tensors) -> Any:
        values = getattr(inputs[0].double(), f"a{name}")(-1, keepdim=True)
        return values, values

    return reference


def at(x: Any, indices: Any) -> Any:
    """x's values at indices of the last dimension, float64; NaN, which equals no value, where there is none."""
    import torch

    indices = indices.long().to(x.device)
    inside = (indices >= 0) & (indices < x.shape[-1])
    return torch.where(inside, x.gather(-1, indices.where(inside, 0)).double(), torch.nan)


def _values_at_indices(_args: Args, inputs: Tensors, outputs: Any) -> Any:
    """Equal values may be found at any of their places: what lies at an index is compared, not the index."""
    values, indices = outputs
    return values, at(inputs[0], indices)


def _reduced_cost(index_bytes: int) -> Callable[[Args], Cost]:
    def cost(args: Args) -> Cost:
        rows, count, dtype = args["batch_size"], args["batch_size"] * args["dim_size"], args["dtype"]
        return Cost(count, size_bytes(dtype, count), size_bytes(dtype, rows) + index_bytes * rows, flops_dtype=dtype)

    return cost


def _extreme(name: str) -> Operator:
    return Operator(
        name=f"reduce_{name}",
        family="reduction",
        help=f"{name}imum of each row of [batch_size, dim_size], and where it is",
        arguments=(*ROWS[:2], _DTYPE),
        inputs=_extreme_inputs(name),
        kernel=_extreme_kernel(name),
        reference=_extreme_reference(name),
        cost=_reduced_cost(DTYPES[INDEX].bits // 8),
        tolerance=lambda _args: Tolerance(0, 0),
        comparable=_values_at_indices,
        basic=_BASIC,
        aliases=ROWS_ALIASES,
    )


def _sum_kernel(_args: Args) -> Callable[..., Any]:
    def total(x: Any) -> Any:
        return x.sum(-1, keepdim=True)

    return total


def _sum_tolerance(args: Args) -> Tolerance:
    """Like a product with ones: additions in float32, the result rounded once."""
    return gemm_tolerance(args["dtype"], args["dim_size"])


def _topk_check(args: Args) -> str:
    return f"k={args['k']} is more than dim_size={args['dim_size']}" if args["k"] > args["dim_size"] else ""


def _topk_kernel(args: Args) -> Callable[..., Any]:
    import torch

    k = args["k"]

    def topk(x: Any) -> Any:
        values, indices = torch.topk(x, k, dim=-1, largest=True, sorted=False)
        return values, indices

    return topk


def _topk_reference(args: Args, inputs: Tensors) -> Any:
    import torch

    values = inputs[0].double().sort(-1, descending=True).values[:, : args["k"]]
    return values, values, torch.ones(args["batch_size"], dtype=torch.bool)


def distinct(indices: Any) -> Any:
    """Of each row: whether no index is in it twice."""
    ordered = indices.long().sort(-1).values
    return (ordered[:, 1:] > ordered[:, :-1]).all(-1)


def _topk_comparable(_args: Args, inputs: Tensors, outputs: Any) -> Any:
    values, indices = outputs
    found = at(inputs[0], indices)
    return values.sort(-1, descending=True).values, found.sort(-1, descending=True).values, distinct(indices)


def _topk_cost(args: Args) -> Cost:
    count, found, dtype = args["batch_size"] * args["dim_size"], args["batch_size"] * args["k"], args["dtype"]
    return Cost(0, size_bytes(dtype, count), size_bytes(dtype, found) + size_bytes(INDEX, found), flops_dtype=dtype)


REDUCE_SUM = Operator(
    name="reduce_sum",
    family="reduction",
    help="sum of each row of [batch_size, dim_size]",
    arguments=(*ROWS[:2], _DTYPE),
    inputs=_inputs,
    kernel=_sum_kernel,
    reference=lambda _args, inputs: inputs[0].double().sum(-1, keepdim=True),
    cost=_reduced_cost(0),
    tolerance=_sum_tolerance,
    basic=_BASIC,
    aliases=ROWS_ALIASES,
)
TOPK = Operator(
    name="topk",
    family="reduction",
    help="the k largest values of each row of [batch_size, dim_size] in any order, and where they are",
    arguments=(*ROWS[:2], Argument("k", "int", "values to find in a row"), _DTYPE),
    inputs=_extreme_inputs("max"),
    kernel=_topk_kernel,
    reference=_topk_reference,
    cost=_topk_cost,
    tolerance=lambda _args: Tolerance(0, 0),
    check=_topk_check,
    comparable=_topk_comparable,
    basic=({"dtype": ["float32", "bfloat16"], "batch_size": 256, "dim_size": [4096], "k": [8]},),
    aliases=ROWS_ALIASES,
)
REDUCTIONS = {operator.name: operator for operator in (_extreme("max"), _extreme("min"), REDUCE_SUM, TOPK)}
