"""Softmax, normalisations and reductions over the last dimension, batch normalisation over channels.

FLOPs are counted by the textbook formula, one for each add, multiply, divide, exp or square root (of a reduction one for each value
added or compared with the running result), so that they compare between implementations; the real work differs and the memory
decides anyway. topk counts none, because how many comparisons it takes depends on the algorithm.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from bytemlperf.lazy import torch
from micro.operators.contract import Args, Argument, Maker, Operator, Outputs, Run, Tensor, Tensors, dtype_argument, rounding, wide
from micro.operators.product import gemm_tolerance
from micro.operators.tensors import PLAIN_FLOATS, moved, normal, streamed, uniform

ROWS = (Argument("batch_size", "int", "rows"), Argument("dim_size", "int", "values in a row"))
ROWS_ALIASES = {"num_tokens": "batch_size", "hidden_size": "dim_size"}
"""What the same arguments are called where a workload's `arg_type` is llm."""

X, WEIGHT, BIAS = normal("batch_size", "dim_size"), uniform("dim_size"), normal("dim_size")
_IMAGE = normal("batch_size", "channels", "height", "width")
_PER_CHANNEL = (normal("channels"), uniform("channels"), uniform("channels"), normal("channels"))  # mean, variance, weight, bias
EPSILON = 1e-5


def row_units(dim: int) -> float:
    """Units of float32 that a sum over a row of so many may be off, and what is made of it."""
    return 8 + float(dim**0.5) / 4


def _layer_norm_kernel(args: Args) -> Run:
    shape, layer_norm = (args["dim_size"],), torch.nn.functional.layer_norm
    return lambda x, weight, bias: layer_norm(x, shape, weight, bias, EPSILON)


def _layer_norm_reference(_args: Args, inputs: Tensors) -> Tensor:
    x, weight, bias = wide(inputs)
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / (variance + EPSILON).sqrt() * weight + bias


def _rms_norm_kernel(args: Args) -> Run:
    shape, rms_norm = (args["dim_size"],), torch.nn.functional.rms_norm
    return lambda x, weight: rms_norm(x, shape, weight, EPSILON)


def rms_normalised(x: Tensor, weight: Tensor, epsilon: float = EPSILON) -> Tensor:
    """The reference's formula over the last dimension: x / √(mean(x²) + ε) · weight."""
    return x / ((x * x).mean(-1, keepdim=True) + epsilon).sqrt() * weight


def _batch_norm_kernel(_args: Args) -> Run:
    batch_norm = torch.nn.functional.batch_norm
    return lambda x, mean, variance, weight, bias: batch_norm(x, mean, variance, weight, bias, training=False, eps=EPSILON)


def _batch_norm_reference(_args: Args, inputs: Tensors) -> Tensor:
    x, *per_channel = wide(inputs)
    mean, variance, weight, bias = (vector.view(1, -1, 1, 1) for vector in per_channel)
    return (x - mean) / (variance + EPSILON).sqrt() * weight + bias


SOFTMAX = Operator(
    name="softmax",
    help="softmax over the last dimension of [batch_size, dim_size]",
    arguments=(*ROWS, dtype_argument()),
    kernel=lambda _args: lambda x: x.softmax(-1),
    reference=lambda _args, inputs: inputs[0].double().softmax(-1),
    **streamed((X,), (X,), 5, *X.sizes),  # maximum, subtract, exp, add, divide
    # exp's argument (up to about 10) is off too, hence more units; values are about 1/dim large
    tolerance=lambda args: rounding(args["dtype"], units=16, scale=1 / args["dim_size"]),
    aliases=ROWS_ALIASES,
)
LAYER_NORM = Operator(
    name="layer_norm",
    help="layer normalisation over the last dimension of [batch_size, dim_size], with weight and bias",
    arguments=(*ROWS, dtype_argument()),
    kernel=_layer_norm_kernel,
    reference=_layer_norm_reference,
    **streamed((X, WEIGHT, BIAS), (X,), 8, *X.sizes),
    tolerance=lambda args: rounding(args["dtype"], units=row_units(args["dim_size"]), cancels=1),
    aliases=ROWS_ALIASES,
)
RMS_NORM = Operator(
    name="rms_norm",
    help="x / √(mean(x²) + ε) · weight over the last dimension of [batch_size, dim_size]",
    arguments=(*ROWS, dtype_argument()),
    kernel=_rms_norm_kernel,
    reference=lambda _args, inputs: rms_normalised(*wide(inputs)),
    **streamed((X, WEIGHT), (X,), 4, *X.sizes),  # square, add, multiply by the root's inverse, multiply by the weight
    tolerance=lambda args: rounding(args["dtype"], roundings=3, units=row_units(args["dim_size"])),
    aliases=ROWS_ALIASES,
)
BATCH_NORM = Operator(
    name="batch_norm",
    help="batch normalisation of [batch_size, channels, height, width] with known mean and variance (inference)",
    arguments=(
        Argument("batch_size", "int", "images"),
        Argument("channels", "int", "channels"),
        Argument("height", "int", "rows of an image"),
        Argument("width", "int", "columns of an image"),
        dtype_argument(),
    ),
    kernel=_batch_norm_kernel,
    reference=_batch_norm_reference,
    **streamed((_IMAGE, *_PER_CHANNEL), (_IMAGE,), 4, *_IMAGE.sizes),
    tolerance=lambda args: rounding(args["dtype"], units=16, scale=4, cancels=2),
)
NORMS = (SOFTMAX, LAYER_NORM, RMS_NORM, BATCH_NORM)


INDEX = "int64"
Extreme = Literal["max", "min"]
_DTYPE = dtype_argument(PLAIN_FLOATS)
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
        comparable=_values_at_indices,
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
    kernel=lambda _args: lambda x: x.sum(-1, keepdim=True),
    reference=lambda _args, inputs: inputs[0].double().sum(-1, keepdim=True),
    **streamed((X,), (_RESULT,), *X.sizes),
    tolerance=lambda args: gemm_tolerance(args["dtype"], args["dim_size"]),  # like a product with ones: the result rounded once
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
    check=lambda args: f"k={args['k']} is more than dim_size={args['dim_size']}" if args["k"] > args["dim_size"] else "",
    comparable=_topk_comparable,
    aliases=ROWS_ALIASES,
)
REDUCTIONS = (_extreme("max"), _extreme("min"), REDUCE_SUM, TOPK)
