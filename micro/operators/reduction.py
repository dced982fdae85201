"""Reductions over the last dimension of [batch_size, dim_size].

FLOPs: one for each value added or compared with the running result; topk counts none, because
how many comparisons it takes depends on the algorithm.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from bytemlperf.lazy import torch
from micro.operators.contract import Args, Argument, Maker, Operator, Outputs, Run, Tensor, Tensors, Tolerance, dtype_argument
from micro.operators.norm import ROWS, ROWS_ALIASES, X
from micro.operators.product import gemm_tolerance
from micro.operators.tensors import drawn, moved, normal

INDEX = "int64"
Extreme = Literal["max", "min"]
_DTYPE = dtype_argument(("float32", "float16", "bfloat16", "float64"))
_BASIC = ({"dtype": ["float32", "bfloat16"], "batch_size": 1024, "dim_size": [1024, 4096]},)
_RESULT, _INDICES = normal("batch_size"), normal("batch_size", dtype=INDEX)
_BEST, _BEST_INDICES = normal("batch_size", "k"), normal("batch_size", "k", dtype=INDEX)


def _extreme_inputs(name: Extreme) -> Callable[[Args, Maker], Tensors]:
    """The one extreme of row r is r/2 places from the row's end, or from its start: a kernel that leaves columns out is wrong."""
    further = 1 if name == "max" else -1

    def inputs(args: Args, make: Maker) -> Tensors:
        x = X.draw(args, make)
        rows = torch.arange(args["batch_size"], device=x.device)
        columns = torch.where(rows % 2 == 0, -1 - rows // 2, rows // 2) % args["dim_size"]
        x[rows, columns] = getattr(x, f"a{name}")(-1) + further
        return (x,)

    return inputs


def at(x: Tensor, indices: Tensor) -> Tensor:
    """x's values at indices of the last dimension, float64; NaN, which equals no value, where there is none."""
    indices = indices.long().to(x.device)
    inside = (indices >= 0) & (indices < x.shape[-1])
    return torch.where(inside, x.gather(-1, indices.where(inside, 0)).double(), torch.nan)


def _values_at_indices(_args: Args, inputs: Tensors, outputs: Outputs) -> Tensors:
    """Equal values may be found at any of their places: what lies at an index is compared, not the index."""
    values, indices = outputs
    return values, at(inputs[0], indices)


def _extreme(name: Extreme) -> Operator:
    def kernel(_args: Args) -> Run:
        function = getattr(torch, name)
        return lambda x: tuple(function(x, dim=-1, keepdim=True))

    def reference(_args: Args, inputs: Tensors) -> Tensors:
        values = getattr(inputs[0].double(), f"a{name}")(-1, keepdim=True)
        return values, values

    return Operator(
        name=f"reduce_{name}",
        help=f"{name}imum of each row of [batch_size, dim_size], and where it is",
        arguments=(*ROWS, _DTYPE),
        inputs=_extreme_inputs(name),
        kernel=kernel,
        reference=reference,
        cost=moved((X,), (_RESULT, _INDICES), *X.sizes),
        tolerance=lambda _args: Tolerance(0, 0),
        comparable=_values_at_indices,
        basic=_BASIC,
        aliases=ROWS_ALIASES,
    )


def _topk_kernel(args: Args) -> Run:
    k = args["k"]
    return lambda x: tuple(x.topk(k, dim=-1, largest=True, sorted=False))


def _topk_reference(args: Args, inputs: Tensors) -> Tensors:
    values = inputs[0].double().sort(-1, descending=True).values[:, : args["k"]]
    return values, values, torch.ones(args["batch_size"], dtype=torch.bool)


def distinct(indices: Tensor) -> Tensor:
    """Of each row: whether no index is in it twice."""
    ordered = indices.long().sort(-1).values
    return (ordered[:, 1:] > ordered[:, :-1]).all(-1)


def _topk_comparable(_args: Args, inputs: Tensors, outputs: Outputs) -> Tensors:
    values, indices = outputs
    return values.sort(-1, descending=True).values, at(inputs[0], indices).sort(-1, descending=True).values, distinct(indices)


REDUCE_SUM = Operator(
    name="reduce_sum",
    help="sum of each row of [batch_size, dim_size]",
    arguments=(*ROWS, _DTYPE),
    inputs=drawn(X),
    kernel=lambda _args: lambda x: x.sum(-1, keepdim=True),
    reference=lambda _args, inputs: inputs[0].double().sum(-1, keepdim=True),
    cost=moved((X,), (_RESULT,), *X.sizes),
    tolerance=lambda args: gemm_tolerance(args["dtype"], args["dim_size"]),  # like a product with ones: the result rounded once
    basic=_BASIC,
    aliases=ROWS_ALIASES,
)
TOPK = Operator(
    name="topk",
    help="the k largest values of each row of [batch_size, dim_size] in any order, and where they are",
    arguments=(*ROWS, Argument("k", "int", "values to find in a row"), _DTYPE),
    inputs=_extreme_inputs("max"),
    kernel=_topk_kernel,
    reference=_topk_reference,
    cost=moved((X,), (_BEST, _BEST_INDICES)),
    tolerance=lambda _args: Tolerance(0, 0),
    check=lambda args: f"k={args['k']} is more than dim_size={args['dim_size']}" if args["k"] > args["dim_size"] else "",
    comparable=_topk_comparable,
    basic=({"dtype": ["float32", "bfloat16"], "batch_size": 256, "dim_size": [4096], "k": [8]},),
    aliases=ROWS_ALIASES,
)
REDUCTIONS = (_extreme("max"), _extreme("min"), REDUCE_SUM, TOPK)
