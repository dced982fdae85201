"""Softmax and normalisations over the last dimension, batch normalisation over channels.

FLOPs are counted by the textbook formula, one for each add, multiply, divide, exp or square root, so
that they compare between implementations; the real work differs and the memory decides anyway.
"""

from __future__ import annotations

from bytemlperf.lazy import torch
from micro.operators.contract import Args, Argument, Operator, Run, Tensor, Tensors, dtype_argument, rounding, wide
from micro.operators.tensors import drawn, moved, normal, uniform

ROWS = (Argument("batch_size", "int", "rows"), Argument("dim_size", "int", "values in a row"))
ROWS_ALIASES = {"num_tokens": "batch_size", "hidden_size": "dim_size"}
"""What the same arguments are called where a workload's `arg_type` is llm."""

X, WEIGHT, BIAS = normal("batch_size", "dim_size"), uniform("dim_size"), normal("dim_size")
_IMAGE = normal("batch_size", "channels", "height", "width")
_PER_CHANNEL = (normal("channels"), uniform("channels"), uniform("channels"), normal("channels"))  # mean, variance, weight, bias
EPSILON = 1e-5
_ROWS_BASIC = ({"dtype": ["float32", "bfloat16"], "batch_size": 1024, "dim_size": [128, 1024, 4096]},)


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
    inputs=drawn(X),
    kernel=lambda _args: lambda x: x.softmax(-1),
    reference=lambda _args, inputs: inputs[0].double().softmax(-1),
    cost=moved((X,), (X,), 5, *X.sizes),  # maximum, subtract, exp, add, divide
    # exp's argument (up to about 10) is off too, hence more units; values are about 1/dim large
    tolerance=lambda args: rounding(args["dtype"], units=16, scale=1 / args["dim_size"]),
    basic=_ROWS_BASIC,
    aliases=ROWS_ALIASES,
)
LAYER_NORM = Operator(
    name="layer_norm",
    help="layer normalisation over the last dimension of [batch_size, dim_size], with weight and bias",
    arguments=(*ROWS, dtype_argument()),
    inputs=drawn(X, WEIGHT, BIAS),
    kernel=_layer_norm_kernel,
    reference=_layer_norm_reference,
    cost=moved((X, WEIGHT, BIAS), (X,), 8, *X.sizes),
    tolerance=lambda args: rounding(args["dtype"], units=row_units(args["dim_size"]), cancels=1),
    basic=_ROWS_BASIC,
    aliases=ROWS_ALIASES,
)
RMS_NORM = Operator(
    name="rms_norm",
    help="x / √(mean(x²) + ε) · weight over the last dimension of [batch_size, dim_size]",
    arguments=(*ROWS, dtype_argument()),
    inputs=drawn(X, WEIGHT),
    kernel=_rms_norm_kernel,
    reference=lambda _args, inputs: rms_normalised(*wide(inputs)),
    cost=moved((X, WEIGHT), (X,), 4, *X.sizes),  # square, add, multiply by the root's inverse, multiply by the weight
    tolerance=lambda args: rounding(args["dtype"], roundings=3, units=row_units(args["dim_size"])),
    basic=_ROWS_BASIC,
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
    inputs=drawn(_IMAGE, *_PER_CHANNEL),
    kernel=_batch_norm_kernel,
    reference=_batch_norm_reference,
    cost=moved((_IMAGE, *_PER_CHANNEL), (_IMAGE,), 4, *_IMAGE.sizes),
    tolerance=lambda args: rounding(args["dtype"], units=16, scale=4, cancels=2),
    basic=({"dtype": ["float32", "bfloat16"], "batch_size": [1, 16], "channels": 64, "height.width": [[56, 56]]},),
)
NORMS = (SOFTMAX, LAYER_NORM, RMS_NORM, BATCH_NORM)
