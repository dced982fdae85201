"""Element by element: one table row per operator.

`flops` is one for arithmetic and by convention one for a special function too, so that figures compare;
these operators are bound by memory.
"""

from __future__ import annotations

from typing import NamedTuple

from bytemlperf.lazy import torch
from micro.operators.contract import Args, Argument, Cost, Operator, Run, Tolerance, dtype_argument, rounding, wide
from micro.operators.dtypes import size_bytes, torch_dtype
from micro.operators.norm import ROWS, ROWS_ALIASES, X
from micro.operators.tensors import count, drawn, moved, uniform

DTYPES_HERE = ("float32", "float16", "bfloat16", "float64")
CAST_TO = {"float32": "bfloat16", "float16": "float32", "bfloat16": "float32", "float64": "float32"}
"""What `cast` makes of a dtype where the case doesn't say, as ByteMLPerf does."""

_BASIC = ({"dtype": ["float32", "bfloat16"], "batch_size": 1024, "dim_size": [1024, 4096]},)


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
        arguments=(*ROWS, dtype_argument(DTYPES_HERE)),
        inputs=drawn(*tensors),
        kernel=lambda _args: row.function,
        reference=lambda _args, inputs: row.function(*wide(inputs)),
        cost=moved(tensors, (X,), *X.sizes),
        tolerance=lambda args: rounding(args["dtype"], units=row.units),
        basic=_BASIC,
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
        dtype_argument(DTYPES_HERE),
        Argument("dst_dtype", "choice", "the other one; auto takes ByteMLPerf's", "auto", choices=("auto", *DTYPES_HERE, "float8_e4m3")),
    ),
    inputs=drawn(X),
    kernel=_cast_kernel,
    reference=lambda _args, inputs: inputs[0].double(),
    cost=lambda args: Cost(0, X.bytes(args), size_bytes(_cast_to(args), count(args, *X.sizes)), flops_dtype=args["dtype"]),
    tolerance=_cast_tolerance,
    check=lambda args: f"cast from {args['dtype']} to itself moves nothing" if _cast_to(args) == args["dtype"] else "",
    basic=_BASIC,
    aliases=ROWS_ALIASES,
)

ELEMENTWISE = (*map(_operator, _TABLE), CAST)
