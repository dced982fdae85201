"""Softmax and normalisations over the last dimension, batch normalisation over channels.

FLOPs are counted by the textbook formula, one for each add, multiply, divide, exp or square root, so
that they compare between implementations; the real work differs and the memory decides anyway.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from micro.operators.contract import Args, Argument, Cost, Maker, Operator, Tensors, dtype_argument, rounding, wide
from micro.operators.dtypes import size_bytes

ROWS = (Argument("batch_size", "int", "rows"), Argument("dim_size", "int", "values in a row"), dtype_argument())
ROWS_ALIASES = {"num_tokens": "batch_size", "hidden_size": "dim_size"}
"""What the same arguments are called where a workload's `arg_type` is llm."""

IMAGE = (
    Argument("batch_size", "int", "images"),
    Argument("channels", "int", "channels"),
    Argument("height", "int", "rows of an image"),
    Argument("width", "int", "columns of an image"),
    dtype_argument(),
)
EPSILON = 1e-5
_ROWS_BASIC = ({"dtype": ["float32", "bfloat16"], "batch_size": 1024, "dim_size": [128, 1024, 4096]},)


def row_units(dim: int) -> float:
    """Units of float32 that a sum over a row of so many may be off, and what is made of it."""
    return 8 + float(dim**0.5) / 4


def rows_cost(flops_per_value: int, vectors: int = 0) -> Callable[[Args], Cost]:
    """Cost of an operator that reads and writes a matrix once, and `vectors` rows beside it."""

    def cost(args: Args) -> Cost:
        count, dtype = args["batch_size"] * args["dim_size"], args["dtype"]
        read = size_bytes(dtype, count + vectors * args["dim_size"])
        return Cost(flops_per_value * count, read, size_bytes(dtype, count), flops_dtype=dtype)

    return cost


def _softmax_kernel(_args: Args) -> Callable[..., Any]:
    import torch

    def softmax(x: Any) -> Any:
        return torch.softmax(x, dim=-1)

    return softmax


def _softmax_reference(_args: Args, inputs: Tensors) -> Any:
    return inputs[0].double().softmax(-1)


def _layer_norm_inputs(args: Args, make: Maker) -> Tensors:
    dim, dtype = args["dim_size"], args["dtype"]
    return make.normal(args["batch_size"], dim, dtype=dtype), make.uniform(0.5, 1.5, dim, dtype=dtype), make.normal(dim, dtype=dtype)


def _layer_norm_kernel(args: Args) -> Callable[..., Any]:
    from torch.nn.functional import layer_norm

    shape = (args["dim_size"],)

    def normalise(x: Any, weight: Any, bias: Any) -> Any:
        return layer_norm(x, shape, weight, bias, EPSILON)

    return normalise


def _layer_norm_reference(_args: Args, inputs: Tensors) -> Any:
    x, weight, bias = wide(inputs)
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / (variance + EPSILON).sqrt() * weight + bias


def _rms_norm_inputs(args: Args, make: Maker) -> Tensors:
    dim, dtype = args["dim_size"], args["dtype"]
    return make.normal(args["batch_size"], dim, dtype=dtype), make.uniform(0.5, 1.5, dim, dtype=dtype)


def _rms_norm_kernel(args: Args) -> Callable[..., Any]:
    from torch.nn.functional import rms_norm

    shape = (args["dim_size"],)

    def normalise(x: Any, weight: Any) -> Any:
        return rms_norm(x, shape, weight, EPSILON)

    return normalise


def rms_normalised(x: Any, weight: Any, epsilon: float = EPSILON) -> Any:
    """The reference's formula over the last dimension: x / √(mean(x²) + ε) · weight."""
    return x / ((x * x).mean(-1, keepdim=True) + epsilon).sqrt() * weight


def _batch_norm_inputs(args: Args, make: Maker) -> Tensors:
    channels, dtype = args["channels"], args["dtype"]
    x = make.normal(args["batch_size"], channels, args["height"], args["width"], dtype=dtype)
    mean, variance = make.normal(channels, dtype=dtype), make.uniform(0.5, 1.5, channels, dtype=dtype)
    return x, mean, variance, make.uniform(0.5, 1.5, channels, dtype=dtype), make.normal(channels, dtype=dtype)


def _batch_norm_kernel(_args: Args) -> Callable[..., Any]:
    from torch.nn.functional import batch_norm

    def normalise(x: Any, mean: Any, variance: Any, weight: Any, bias: Any) -> Any:
        return batch_norm(x, mean, variance, weight, bias, training=False, eps=EPSILON)

    return normalise


def _batch_norm_reference(_args: Args, inputs: Tensors) -> Any:
    x, *per_channel = wide(inputs)
    mean, variance, weight, bias = (vector.view(1, -1, 1, 1) for vector in per_channel)
    return (x - mean) / (variance + EPSILON).sqrt() * weight + bias


def _batch_norm_cost(args: Args) -> Cost:
    count, dtype = args["batch_size"] * args["channels"] * args["height"] * args["width"], args["dtype"]
    return Cost(4 * count, size_bytes(dtype, count + 4 * args["channels"]), size_bytes(dtype, count), flops_dtype=dtype)


SOFTMAX = Operator(
    name="softmax",
    family="norm",
    help="softmax over the last dimension of [batch_size, dim_size]",
    arguments=ROWS,
    inputs=lambda args, make: (make.normal(args["batch_size"], args["dim_size"], dtype=args["dtype"]),),
    kernel=_softmax_kernel,
    reference=_softmax_reference,
    cost=rows_cost(5),  # maximum, subtract, exp, add, divide
    # exp's argument (up to about 10) is off too, hence more units; values are about 1/dim large
    tolerance=lambda args: rounding(args["dtype"], units=16, scale=1 / args["dim_size"]),
    basic=_ROWS_BASIC,
    aliases=ROWS_ALIASES,
)
LAYER_NORM = Operator(
    name="layer_norm",
    family="norm",
    help="layer normalisation over the last dimension of [batch_size, dim_size], with weight and bias",
    arguments=ROWS,
    inputs=_layer_norm_inputs,
    kernel=_layer_norm_kernel,
    reference=_layer_norm_reference,
    cost=rows_cost(8, vectors=2),
    tolerance=lambda args: rounding(args["dtype"], units=row_units(args["dim_size"]), cancels=1),
    basic=_ROWS_BASIC,
    aliases=ROWS_ALIASES,
)
RMS_NORM = Operator(
    name="rms_norm",
    family="norm",
    help="x / √(mean(x²) + ε) · weight over the last dimension of [batch_size, dim_size]",
    arguments=ROWS,
    inputs=_rms_norm_inputs,
    kernel=_rms_norm_kernel,
    reference=lambda _args, inputs: rms_normalised(*wide(inputs)),
    cost=rows_cost(4, vectors=1),  # square, add, multiply by the root's inverse, multiply by the weight
    tolerance=lambda args: rounding(args["dtype"], roundings=3, units=row_units(args["dim_size"])),
    basic=_ROWS_BASIC,
    aliases=ROWS_ALIASES,
)
BATCH_NORM = Operator(
    name="batch_norm",
    family="norm",
    help="batch normalisation of [batch_size, channels, height, width] with known mean and variance (inference)",
    arguments=IMAGE,
    inputs=_batch_norm_inputs,
    kernel=_batch_norm_kernel,
    reference=_batch_norm_reference,
    cost=_batch_norm_cost,
    tolerance=lambda args: rounding(args["dtype"], units=16, scale=4, cancels=2),
    basic=({"dtype": ["float32", "bfloat16"], "batch_size": [1, 16], "channels": 64, "height.width": [[56, 56]]},),
)
