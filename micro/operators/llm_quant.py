"""The same norms and gates, quantised by token at once (see `quantise` for how that is checked).

FLOPs are the norm's or gate's and `quantise.QUANT_FLOPS` for each value.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from micro.operators.contract import Args, Argument, Cost, Maker, Operator, Tensors, Tolerance, rounding, wide
from micro.operators.dtypes import size_bytes
from micro.operators.llm_norm import (
    HIDDEN,
    NORM_FLOPS,
    RESIDUAL_FLOPS,
    SP_SIZE,
    SWIGLU_FLOPS,
    TOKENS,
    VECTOR,
    check_tokens,
    factors,
    swiglu,
    tokens_of_rank,
)
from micro.operators.norm import EPSILON, rms_normalised
from micro.operators.quantise import QUANT_FLOPS, exact_quotients, half_precision, quant_argument, quant_tolerances, quantise


def quant_bytes(args: Args, rows: int, width: int) -> int:
    """Of quantised rows and their scales."""
    return size_bytes(args["dst_dtype"], rows * width) + size_bytes(VECTOR, rows)


def _quantising(
    name: str, what: str, before: Callable[..., Any], *, width: int = 1, flops: int = 0, extra: tuple[Argument, ...] = ()
) -> Operator:
    """An operator that computes `before(x)` of [tokens, width · hidden_size] and quantises each token."""

    def inputs(args: Args, make: Maker) -> Tensors:
        x = make.normal(tokens_of_rank(args), width * args["hidden_size"], dtype=args["dtype"])
        return x, factors(make, args["hidden_size"])

    def kernel(args: Args) -> Callable[..., Any]:
        dst_dtype = args["dst_dtype"]

        def run(x: Any, smooth: Any) -> Any:
            return quantise(before(x.float()), smooth, dst_dtype)

        return run

    def cost(args: Args) -> Cost:
        rows, hidden, dtype = tokens_of_rank(args), args["hidden_size"], args["dtype"]
        read = size_bytes(dtype, rows * width * hidden) + size_bytes(VECTOR, hidden)
        return Cost((flops + QUANT_FLOPS) * rows * hidden, read, quant_bytes(args, rows, hidden), flops_dtype=dtype)

    return Operator(
        name=name,
        family="llm",
        help=what,
        arguments=(TOKENS, HIDDEN, SP_SIZE, half_precision(), quant_argument(), *extra),
        inputs=inputs,
        kernel=kernel,
        reference=lambda args, tensors: exact_quotients(before(tensors[0].double()), tensors[1], args["dst_dtype"]),
        cost=cost,
        tolerance=lambda args: quant_tolerances(args["dtype"], args["dst_dtype"]),
        check=check_tokens,
        basic=({"dtype": "bfloat16", "dst_dtype": ["int8", "float8"], "num_tokens": 256, "hidden_size": 2048},),
    )


SCALE_DYNAMIC_QUANT = _quantising(
    "scale_dynamic_quant", "x · smooth quantised by token, of [num_tokens/sp_size, hidden_size], with scales", lambda x: x
)
SWIGLU_DYNAMIC_QUANT = _quantising(
    "swiglu_dynamic_quant", "swiglu of [num_tokens/sp_size, 2·hidden_size], quantised by token", swiglu, width=2, flops=SWIGLU_FLOPS
)


def _add_quant_inputs(args: Args, make: Maker) -> Tensors:
    rows, width, dtype = tokens_of_rank(args), args["hidden_size"], args["dtype"]
    x, weight, smooth = make.normal(rows, width, dtype=dtype), factors(make, width), factors(make, width)
    return (x, weight, smooth, make.normal(rows, width, dtype=dtype)) if args["add_residual"] else (x, weight, smooth)


def _add_quant_kernel(args: Args) -> Callable[..., Any]:
    from torch.nn.functional import rms_norm

    shape, mode, dst_dtype = (args["hidden_size"],), args["output_mode"], args["dst_dtype"]

    def add_rms_norm_dynamic_quant(x: Any, weight: Any, smooth: Any, residual: Any = None) -> Any:
        after = x.float() if residual is None else x.float() + residual.float()
        normed = rms_norm(after, shape, weight, EPSILON)
        quantised, scale = quantise(normed, smooth, dst_dtype)
        if mode == "none":
            return quantised, scale
        return quantised, scale, (after if mode == "res" else normed).to(x.dtype)

    return add_rms_norm_dynamic_quant


def _add_quant_reference(args: Args, inputs: Tensors) -> Any:
    x, weight, smooth, *residual = wide(inputs)
    after = x + residual[0] if residual else x
    normed = rms_normalised(after, weight)
    results = exact_quotients(normed, smooth, args["dst_dtype"])
    return results if args["output_mode"] == "none" else (*results, after if args["output_mode"] == "res" else normed)


def _add_quant_tolerance(args: Args) -> tuple[Tolerance, ...]:
    quantised = quant_tolerances(args["dtype"], args["dst_dtype"])
    return quantised if args["output_mode"] == "none" else (*quantised, rounding(args["dtype"], units=16))


def _add_quant_cost(args: Args) -> Cost:
    rows, hidden, dtype = tokens_of_rank(args), args["hidden_size"], args["dtype"]
    count, added = rows * hidden, int(args["add_residual"])
    written = quant_bytes(args, rows, hidden) + (size_bytes(dtype, count) if args["output_mode"] != "none" else 0)
    flops = (NORM_FLOPS + QUANT_FLOPS + added * RESIDUAL_FLOPS) * count
    return Cost(flops, size_bytes(dtype, (1 + added) * count) + size_bytes(VECTOR, 2 * hidden), written, flops_dtype=dtype)


ADD_RMS_NORM_DYNAMIC_QUANT = Operator(
    name="add_rms_norm_dynamic_quant",
    family="llm",
    help="rms norm of x + residual, quantised by token, of [num_tokens/sp_size, hidden_size]",
    arguments=(
        TOKENS,
        HIDDEN,
        SP_SIZE,
        half_precision(),
        quant_argument(),
        Argument("add_residual", "bool", "add a residual first", True),
        Argument("output_mode", "choice", "a third output: the sum, or its norm", "none", choices=("none", "res", "norm")),
    ),
    inputs=_add_quant_inputs,
    kernel=_add_quant_kernel,
    reference=_add_quant_reference,
    cost=_add_quant_cost,
    tolerance=_add_quant_tolerance,
    check=check_tokens,
    basic=(
        {"dst_dtype.output_mode.add_residual": [["int8", "none", True], ["float8", "res", True]], "num_tokens": 256, "hidden_size": 2048},
    ),
)


def _head_quant_inputs(args: Args, make: Maker) -> Tensors:
    heads, dim = args["head_num"], args["head_dim"]
    data = make.normal(tokens_of_rank(args), heads, dim, dtype=args["dtype"])
    return data, factors(make, dim), factors(make, heads * dim)


def _head_quant_kernel(args: Args) -> Callable[..., Any]:
    from torch.nn.functional import rms_norm

    shape, dst_dtype = (args["head_dim"],), args["dst_dtype"]

    def head_rms_norm_dynamic_quant(data: Any, weight: Any, smooth: Any) -> Any:
        return quantise(rms_norm(data.float(), shape, weight, EPSILON).flatten(1), smooth, dst_dtype)

    return head_rms_norm_dynamic_quant


def _head_quant_reference(args: Args, inputs: Tensors) -> Any:
    data, weight, smooth = wide(inputs)
    return exact_quotients(rms_normalised(data, weight).flatten(1), smooth, args["dst_dtype"])


def _head_quant_cost(args: Args) -> Cost:
    rows, width = tokens_of_rank(args), args["head_num"] * args["head_dim"]
    read = size_bytes(args["dtype"], rows * width) + size_bytes(VECTOR, args["head_dim"] + width)
    return Cost((NORM_FLOPS + QUANT_FLOPS) * rows * width, read, quant_bytes(args, rows, width), flops_dtype=args["dtype"])


HEAD_RMS_NORM_DYNAMIC_QUANT = Operator(
    name="head_rms_norm_dynamic_quant",
    family="llm",
    help="rms norm of every head of [num_tokens/sp_size, head_num, head_dim], then quantised by token",
    arguments=(
        TOKENS,
        Argument("head_num", "int", "heads of a token"),
        Argument("head_dim", "int", "values of a head"),
        SP_SIZE,
        half_precision(),
        quant_argument(),
    ),
    inputs=_head_quant_inputs,
    kernel=_head_quant_kernel,
    reference=_head_quant_reference,
    cost=_head_quant_cost,
    tolerance=lambda args: quant_tolerances(args["dtype"], args["dst_dtype"]),
    check=check_tokens,
    basic=({"dst_dtype": ["int8"], "num_tokens": 256, "head_num.head_dim": [[16, 128]]},),
)
LLM_QUANTS = {
    operator.name: operator
    for operator in (SCALE_DYNAMIC_QUANT, SWIGLU_DYNAMIC_QUANT, ADD_RMS_NORM_DYNAMIC_QUANT, HEAD_RMS_NORM_DYNAMIC_QUANT)
}
