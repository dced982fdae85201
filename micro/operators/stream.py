"""Memory bandwidth as operators: STREAM's triad, a copy, a sum that only reads.

After McCalpin's STREAM (1995): bytes are what the program asks for; that a cache reads a line before
it writes it is not counted. The rotation through more memory than the last-level cache holds takes
the place of STREAM's rule of arrays four times as large. They are operators like any other, and the
measured peak of memory bandwidth is the best of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from micro.operators.contract import (
    HALF_UNIT,
    Args,
    Argument,
    Cost,
    Maker,
    Operator,
    Tensors,
    Tolerance,
    dtype_argument,
    rounding,
    units_of,
    wide,
)
from micro.operators.dtypes import size_bytes

SCALE = 3.0
STREAM_FLOATS = ("float32", "float16", "bfloat16", "float64")
_ARGUMENTS = (Argument("size", "int", "values in an array"), dtype_argument(STREAM_FLOATS))
_BASIC = ({"dtype": "float32", "size": [1 << 20, 1 << 23]},)


def _arrays(count: int) -> Callable[[Args, Maker], Tensors]:
    """The first one is written: it holds other values before, so that doing nothing is found out."""

    def inputs(args: Args, make: Maker) -> Tensors:
        return tuple(make.uniform(0.5, 1.5, args["size"], dtype=args["dtype"]) for _ in range(count))

    return inputs


def _triad_kernel(_args: Args) -> Callable[..., Any]:
    import torch

    def triad(a: Any, b: Any, c: Any) -> Any:
        return torch.add(b, c, alpha=SCALE, out=a)

    return triad


def _triad_reference(_args: Args, inputs: Tensors) -> Any:
    _, b, c = wide(inputs)
    return b + SCALE * c


def _copy(a: Any, b: Any) -> Any:
    return a.copy_(b)


def _read(b: Any) -> Any:
    return b.sum()


def _cost(reads: int, writes: int, flops: int) -> Callable[[Args], Cost]:
    def cost(args: Args) -> Cost:
        one = size_bytes(args["dtype"], args["size"])
        return Cost(flops * args["size"], reads * one, writes * one, flops_dtype=args["dtype"])

    return cost


def _sum_tolerance(args: Args) -> Tolerance:
    """Values near 1, added pairwise in float32 at least: some units of the sum, and one rounding of the result."""
    unit, sum_unit = units_of(args["dtype"])
    return Tolerance(unit * HALF_UNIT + 8 * sum_unit, 0.0)


STREAM = {
    "stream_triad": Operator(
        name="stream_triad",
        writes=(0,),
        family="stream",
        help="a = b + 3 · c over arrays of `size` values, as in STREAM",
        arguments=_ARGUMENTS,
        inputs=_arrays(3),
        kernel=_triad_kernel,
        reference=_triad_reference,
        cost=_cost(2, 1, 2),
        tolerance=lambda args: rounding(args["dtype"]),
        basic=_BASIC,
    ),
    "stream_copy": Operator(
        name="stream_copy",
        writes=(0,),
        family="stream",
        help="a = b over arrays of `size` values, as in STREAM",
        arguments=_ARGUMENTS,
        inputs=_arrays(2),
        kernel=lambda _args: _copy,
        reference=lambda _args, inputs: inputs[1].double(),
        cost=_cost(1, 1, 0),
        tolerance=lambda _args: Tolerance(0.0, 0.0),
        basic=_BASIC,
    ),
    "stream_read": Operator(
        name="stream_read",
        family="stream",
        help="the sum of an array of `size` values: reading alone",
        arguments=(_ARGUMENTS[0], dtype_argument(("float32", "bfloat16", "float64"))),
        inputs=_arrays(1),
        kernel=lambda _args: _read,
        reference=lambda _args, inputs: inputs[0].double().sum(),
        cost=_cost(1, 0, 1),
        tolerance=_sum_tolerance,
        basic=_BASIC,
    ),
}
