"""Element by element: one table row per operator.

`flops` is one for arithmetic and by convention one for a special function too, so that figures compare;
these operators are bound by memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from micro.dtypes import size_bytes
from micro.operators.contract import Args, Cost, Maker, Operator, Tensors, dtype_argument, rounding, wide
from micro.operators.norm import ROWS


class _Row(NamedTuple):
    name: str
    help: str
    inputs: int
    function: Callable[..., Any]  # of torch's tensors, in any precision
    flops: int = 1
    units: float = 4.0


def _gelu(x: Any) -> Any:
    from torch.nn.functional import gelu

    return gelu(x)


_TABLE = (
    _Row("add", "a + b", 2, lambda a, b: a + b),
    _Row("exp", "e**a", 1, lambda a: a.exp(), units=8),
    _Row("gelu", "a · Φ(a), exact", 1, _gelu, units=16),  # 1 + erf cancels where a is about −3
)


def _operator(row: _Row) -> Operator:
    def inputs(args: Args, make: Maker) -> Tensors:
        return tuple(make.normal(args["batch_size"], args["dim_size"], dtype=args["dtype"]) for _ in range(row.inputs))

    def cost(args: Args) -> Cost:
        count, dtype = args["batch_size"] * args["dim_size"], args["dtype"]
        return Cost(row.flops * count, row.inputs * size_bytes(dtype, count), size_bytes(dtype, count), flops_dtype=dtype)

    return Operator(
        name=row.name,
        family="elementwise",
        help=f"{row.help}, element by element of [batch_size, dim_size]",
        arguments=(*ROWS[:2], dtype_argument(("float32", "float16", "bfloat16", "float64"))),
        inputs=inputs,
        kernel=lambda _args: row.function,
        reference=lambda _args, tensors: row.function(*wide(tensors)),
        cost=cost,
        tolerance=lambda args: rounding(args["dtype"], units=row.units),
        basic=({"dtype": ["float32", "bfloat16"], "batch_size": 1024, "dim_size": [1024, 4096]},),
    )


ELEMENTWISE = {row.name: _operator(row) for row in _TABLE}
