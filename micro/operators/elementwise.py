"""Element by element, one table row per operator; and memory bandwidth as operators: STREAM's triad, a copy, a sum that only reads.

`flops` is one for arithmetic and by convention one for a special function too, so that figures compare; these operators are bound
by memory. The stream operators are after McCalpin's STREAM (1995): bytes are what the program asks for; that a cache reads a line
before it writes it is not counted. The rotation through more memory than the last-level cache holds takes the place of STREAM's
rule of arrays four times as large. The measured peak of memory bandwidth is the best of them.
"""

from __future__ import annotations

from typing import NamedTuple

from bytemlperf.lazy import torch
from micro.operators.contract import (
    HALF_UNIT,
    Args,
    Argument,
    Operator,
    Run,
    Tolerance,
    dtype_argument,
    rounding,
    torch_dtype,
    units_of,
    wide,
)
from micro.operators.norm import ROWS, ROWS_ALIASES, X
from micro.operators.tensors import PLAIN_FLOATS, drawn, moved, normal, streamed, uniform

CAST_TO = {"float32": "bfloat16", "float16": "float32", "bfloat16": "float32", "float64": "float32"}
"""What `cast` makes of a dtype where the case doesn't say, as ByteMLPerf does."""


class _Row(NamedTuple):
    """`domain` bounds uniform inputs, one pair for each; None is a standard normal one."""

    name: str
    help: str
    function: Run  # of torch's tensors, in any precision
    domain: tuple[tuple[float, float] | None, ...] = (None,)
    units: float = 4.0


_POSITIVE = ((0.1, 10.0),)
_TABLE = (
    _Row("add", "a + b", lambda a, b: a + b, (None, None)),
    _Row("sub", "a − b", lambda a, b: a - b, (None, None)),
    _Row("mul", "a · b", lambda a, b: a * b, (None, None)),
    _Row("div", "a / b", lambda a, b: a / b, (None, (0.5, 2.0))),
    _Row("exp", "e**a", lambda a: a.exp(), units=8),
    _Row("log", "natural logarithm of a", lambda a: a.log(), _POSITIVE),
    _Row("sqrt", "square root of a", lambda a: a.sqrt(), _POSITIVE),
    _Row("sin", "sine of a, in radians", lambda a: a.sin()),
    _Row("cos", "cosine of a, in radians", lambda a: a.cos()),
    _Row("gelu", "a · Φ(a), exact", lambda a: torch.nn.functional.gelu(a), units=16),  # 1 + erf cancels where a is about −3
    _Row("silu", "a / (1 + e**−a)", lambda a: torch.nn.functional.silu(a), units=8),
)


def _operator(row: _Row) -> Operator:
    tensors = [X if domain is None else uniform(*X.sizes, low=domain[0], high=domain[1]) for domain in row.domain]
    return Operator(
        name=row.name,
        help=f"{row.help}, element by element of [batch_size, dim_size]",
        arguments=(*ROWS, dtype_argument(PLAIN_FLOATS)),
        kernel=lambda _args: row.function,
        reference=lambda _args, inputs: row.function(*wide(inputs)),
        **streamed(tensors, (X,), *X.sizes),
        tolerance=lambda args: rounding(args["dtype"], units=row.units),
        aliases=ROWS_ALIASES,
    )


def _cast_to(args: Args) -> str:
    return str(CAST_TO[args["dtype"]] if args["dst_dtype"] == "auto" else args["dst_dtype"])


def _cast_kernel(args: Args) -> Run:
    target = torch_dtype(_cast_to(args))
    return lambda x: x.to(target)


def _cast_tolerance(args: Args) -> Tolerance:
    """Half a unit of the narrower one: a cast rounds once. Half a step of float8's smallest values beside it."""
    return Tolerance(max(rounding(_cast_to(args), units=0.5)[0], 1e-12), 2.0**-10 if _cast_to(args) == "float8_e4m3" else 1e-7)


CAST = Operator(
    name="cast",
    help="another number format, element by element of [batch_size, dim_size]",
    arguments=(
        *ROWS,
        dtype_argument(PLAIN_FLOATS),
        Argument("dst_dtype", "choice", "the other one; auto takes ByteMLPerf's", "auto", choices=("auto", *PLAIN_FLOATS, "float8_e4m3")),
    ),
    kernel=_cast_kernel,
    reference=lambda _args, inputs: inputs[0].double(),
    **streamed((X,), (normal(*X.sizes, dtype=_cast_to),)),
    tolerance=_cast_tolerance,
    check=lambda args: f"cast from {args['dtype']} to itself moves nothing" if _cast_to(args) == args["dtype"] else "",
    aliases=ROWS_ALIASES,
)

ELEMENTWISE = (*map(_operator, _TABLE), CAST)


SCALE = 3.0
_SIZE = Argument("size", "int", "values in an array")
_ARRAY = uniform("size")
"""The first one is written: it holds other values before, so that doing nothing is found out."""


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
        arguments=(_SIZE, dtype_argument(PLAIN_FLOATS)),
        inputs=drawn(_ARRAY, _ARRAY, _ARRAY),
        kernel=_triad_kernel,
        reference=lambda _args, inputs: wide(inputs)[1] + SCALE * wide(inputs)[2],
        cost=moved((_ARRAY, _ARRAY), (_ARRAY,), 2, "size"),
        tolerance=lambda args: rounding(args["dtype"]),
    ),
    Operator(
        name="stream_copy",
        writes=(0,),
        help="a = b over arrays of `size` values, as in STREAM",
        arguments=(_SIZE, dtype_argument(PLAIN_FLOATS)),
        inputs=drawn(_ARRAY, _ARRAY),
        kernel=lambda _args: lambda a, b: a.copy_(b),
        reference=lambda _args, inputs: inputs[1].double(),
        cost=moved((_ARRAY,), (_ARRAY,)),
    ),
    Operator(
        name="stream_read",
        help="the sum of an array of `size` values: reading alone",
        arguments=(_SIZE, dtype_argument(("float32", "bfloat16", "float64"))),
        kernel=lambda _args: lambda b: b.sum(),
        reference=lambda _args, inputs: inputs[0].double().sum(),
        **streamed((_ARRAY,), (), "size"),
        tolerance=_sum_tolerance,
    ),
)
