"""Element by element: one table row per operator.

`flops` is one for arithmetic and by convention one for a special function too, so that figures compare;
these operators are bound by memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from micro.operators.contract import Args, Argument, Cost, Maker, Operator, Tensors, Tolerance, dtype_argument, rounding, wide
from micro.operators.dtypes import size_bytes, torch_dtype
from micro.operators.norm import ROWS, ROWS_ALIASES

DTYPES_HERE = ("float32", "float16", "bfloat16", "float64")
CAST_TO = {"float32": "bfloat16", "float16": "float32", "bfloat16": "float32", "float64": "float32"}
"""What `cast` makes of a dtype where the case doesn't say, as ByteMLPerf does."""


class _Row(NamedTuple):
    """`domain` bounds uniform inputs, one pair for each; None is a standard normal one."""

    name: str
    help: str
    function: Callable[..., Any]  # of torch's tensors, in any precision
    domain: tuple[tuple[float, float] | None, ...] = (None,)
    units: float = 4.0


def _gelu(x: Any) -> Any:
    from torch.nn.functional import gelu

    return gelu(x)


def _silu(x: Any) -> Any:
    from torch.nn.functional import silu

    return silu(x)


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
    _Row("gelu", "a · Φ(a), exact", _gelu, units=16),  # 1 + erf cancels where a is about −3
    _Row("silu", "a / (1 + e**−a)", _silu, units=8),
)


def _operator(row: _Row) -> Operator:
    def inputs(args: Args, make: Maker) -> Tensors:
        return tuple(_input(args, make, domain) for domain in row.domain)

    def cost(args: Args) -> Cost:
        count, dtype = args["batch_size"] * args["dim_size"], args["dtype"]
        return Cost(count, len(row.domain) * size_bytes(dtype, count), size_bytes(dtype, count), flops_dtype=dtype)

    return Operator(
        name=row.name,
        family="elementwise",
        help=f"{row.help}, element by element of [batch_size, dim_size]",
        arguments=(*ROWS[:2], dtype_argument(DTYPES_HERE)),
        inputs=inputs,
        kernel=lambda _args: row.function,
        reference=lambda _args, tensors: row.function(*wide(tensors)),
        cost=cost,
        tolerance=lambda args: rounding(args["dtype"], units=row.units),
        basic=({"dtype": ["float32", "bfloat16"], "batch_size": 1024, "dim_size": [1024, 4096]},),
        aliases=ROWS_ALIASES,
    )


def _input(args: Args, make: Maker, domain: tuple[float, float] | None) -> Any:
    shape, dtype = (args["batch_size"], args["dim_size"]), args["dtype"]
    return make.normal(*shape, dtype=dtype) if domain is None else make.uniform(*domain, *shape, dtype=dtype)


def _cast_to(args: Args) -> str:
    return str(CAST_TO[args["dtype"]] if args["dst_dtype"] == "auto" else args["dst_dtype"])


def _cast_kernel(args: Args) -> Callable[..., Any]:
    target = torch_dtype(_cast_to(args))

    def cast(x: Any) -> Any:
        return x.to(target)

    return cast


def _cast_cost(args: Args) -> Cost:
    count = args["batch_size"] * args["dim_size"]
    return Cost(0, size_bytes(args["dtype"], count), size_bytes(_cast_to(args), count), flops_dtype=args["dtype"])


def _cast_tolerance(args: Args) -> Tolerance:
    """Half a unit of the narrower one: a cast rounds once. Half a step of float8's smallest values beside it."""
    return Tolerance(max(rounding(_cast_to(args), units=0.5)[0], 1e-12), 2.0**-10 if _cast_to(args) == "float8_e4m3" else 1e-7)


CAST = Operator(
    name="cast",
    family="elementwise",
    help="another number format, element by element of [batch_size, dim_size]",
    arguments=(
        *ROWS[:2],
        dtype_argument(DTYPES_HERE),
        Argument("dst_dtype", "choice", "the other one; auto takes ByteMLPerf's", "auto", choices=("auto", *DTYPES_HERE, "float8_e4m3")),
    ),
    inputs=lambda args, make: (_input(args, make, None),),
    kernel=_cast_kernel,
    reference=lambda _args, tensors: tensors[0].double(),
    cost=_cast_cost,
    tolerance=_cast_tolerance,
    check=lambda args: f"cast from {args['dtype']} to itself moves nothing" if _cast_to(args) == args["dtype"] else "",
    basic=({"dtype": ["float32", "bfloat16"], "batch_size": 1024, "dim_size": [1024, 4096]},),
    aliases=ROWS_ALIASES,
)

ELEMENTWISE = {row.name: _operator(row) for row in _TABLE} | {"cast": CAST}
