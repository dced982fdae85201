"""Memory bandwidth as operators: STREAM's triad, a copy, a sum that only reads.

After McCalpin's STREAM (1995): bytes are what the program asks for; that a cache reads a line before
it writes it is not counted. The rotation through more memory than the last-level cache holds takes
the place of STREAM's rule of arrays four times as large. They are operators like any other, and the
measured peak of memory bandwidth is the best of them.
"""

from __future__ import annotations

from bytemlperf.lazy import torch
from micro.operators.contract import HALF_UNIT, Args, Argument, Operator, Run, Tolerance, dtype_argument, rounding, units_of, wide
from micro.operators.tensors import drawn, moved, uniform

SCALE = 3.0
STREAM_FLOATS = ("float32", "float16", "bfloat16", "float64")
_SIZE = Argument("size", "int", "values in an array")
_ARRAY = uniform("size")
"""The first one is written: it holds other values before, so that doing nothing is found out."""
_BASIC = ({"dtype": "float32", "size": [1 << 20, 1 << 23]},)


def _triad_kernel(_args: Args) -> Run:
    add = torch.add
    return lambda a, b, c: add(b, c, alpha=SCALE, out=a)


def _sum_tolerance(args: Args) -> Tolerance:
    """Values near 1, added pairwise in float32 at least: some units of the sum, and one rounding of the result."""
    unit, sum_unit = units_of(args["dtype"])
    return Tolerance(unit * HALF_UNIT + 8 * sum_unit, 0.0)


STREAM = (
    Operator(
        name="stream_triad",
        writes=(0,),
        help="a = b + 3 · c over arrays of `size` values, as in STREAM",
        arguments=(_SIZE, dtype_argument(STREAM_FLOATS)),
        inputs=drawn(_ARRAY, _ARRAY, _ARRAY),
        kernel=_triad_kernel,
        reference=lambda _args, inputs: wide(inputs)[1] + SCALE * wide(inputs)[2],
        cost=moved((_ARRAY, _ARRAY), (_ARRAY,), 2, "size"),
        tolerance=lambda args: rounding(args["dtype"]),
        basic=_BASIC,
    ),
    Operator(
        name="stream_copy",
        writes=(0,),
        help="a = b over arrays of `size` values, as in STREAM",
        arguments=(_SIZE, dtype_argument(STREAM_FLOATS)),
        inputs=drawn(_ARRAY, _ARRAY),
        kernel=lambda _args: lambda a, b: a.copy_(b),
        reference=lambda _args, inputs: inputs[1].double(),
        cost=moved((_ARRAY,), (_ARRAY,)),
        tolerance=lambda _args: Tolerance(0.0, 0.0),
        basic=_BASIC,
    ),
    Operator(
        name="stream_read",
        help="the sum of an array of `size` values: reading alone",
        arguments=(_SIZE, dtype_argument(("float32", "bfloat16", "float64"))),
        inputs=drawn(_ARRAY),
        kernel=lambda _args: lambda b: b.sum(),
        reference=lambda _args, inputs: inputs[0].double().sum(),
        cost=moved((_ARRAY,), (), "size"),
        tolerance=_sum_tolerance,
        basic=_BASIC,
    ),
)
