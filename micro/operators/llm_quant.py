"""The same norms and gates, quantised by token at once (see `product` for how that is checked).

FLOPs are the norm's or gate's and `product.QUANT_FLOPS` for each value.
"""

from __future__ import annotations

from collections.abc import Callable

from bytemlperf.lazy import torch
from micro.operators.contract import Args, Argument, Operator, Run, Tensor, Tensors, Tolerance, rounding, wide
from micro.operators.llm_norm import (
    FACTORS,
    GATE_AND_UP,
    HIDDEN,
    NORM_FLOPS,
    RESIDUAL_FLOPS,
    SP_SIZE,
    SWIGLU_FLOPS,
    TOKENS,
    VECTOR,
    X,
    check_tokens,
    swiglu,
    tokens_of_rank,
)
from micro.operators.norm import EPSILON, rms_normalised
from micro.operators.product import DST_DTYPE, HALF_PRECISION, QUANT_FLOPS, exact_quotients, quant_tolerances, quantise
from micro.operators.tensors import Size, TensorSpec, normal, streamed, times, uniform


def quantised(rows: Size, *width: Size) -> tuple[TensorSpec, TensorSpec]:
    """Quantised rows and their scales."""
    return normal(rows, *width, dtype="dst_dtype"), normal(rows, dtype=VECTOR)


_QUANTISED = quantised(*X.sizes)


def _quantising(name: str, what: str, before: Callable[[Tensor], Tensor], x: TensorSpec, flops: int) -> Operator:
    """An operator that computes `before(x)` and quantises each token."""

    def kernel(args: Args) -> Run:
        dst_dtype = args["dst_dtype"]
        return lambda x, smooth: quantise(before(x.float()), smooth, dst_dtype)

    return Operator(
        name=name,
        help=what,
        arguments=(TOKENS, HIDDEN, SP_SIZE, HALF_PRECISION, DST_DTYPE),
        kernel=kernel,
        reference=lambda args, inputs: exact_quotients(before(inputs[0].double()), inputs[1], args["dst_dtype"]),
        **streamed((x, FACTORS), _QUANTISED, flops, *X.sizes),
        tolerance=lambda args: quant_tolerances(args["dtype"], args["dst_dtype"]),
        check=check_tokens,
    )


def _add_quant_kernel(args: Args) -> Run:
    shape, mode, dst_dtype = (args["hidden_size"],), args["output_mode"], args["dst_dtype"]
    rms_norm = torch.nn.functional.rms_norm

    def add_rms_norm_dynamic_quant(x: Tensor, weight: Tensor, smooth: Tensor, residual: Tensor | None = None) -> Tensors:
        after = x.float() if residual is None else x.float() + residual.float()
        normed = rms_norm(after, shape, weight, EPSILON)
        results = quantise(normed, smooth, dst_dtype)
        return results if mode == "none" else (*results, (after if mode == "res" else normed).to(x.dtype))

    return add_rms_norm_dynamic_quant


def _add_quant_reference(args: Args, inputs: Tensors) -> Tensors:
    x, weight, smooth, *residual = wide(inputs)
    after = x + residual[0] if residual else x
    normed = rms_normalised(after, weight)
    results = exact_quotients(normed, smooth, args["dst_dtype"])
    return results if args["output_mode"] == "none" else (*results, after if args["output_mode"] == "res" else normed)


def _add_quant_tolerance(args: Args) -> tuple[Tolerance, ...]:
    tolerances = quant_tolerances(args["dtype"], args["dst_dtype"])
    return tolerances if args["output_mode"] == "none" else (*tolerances, rounding(args["dtype"], units=16))


_ADDED = (X, FACTORS, FACTORS, X._replace(present=lambda args: args["add_residual"]))
_THIRD = X._replace(present=lambda args: args["output_mode"] != "none")


def _add_quant_flops(args: Args) -> int:
    return NORM_FLOPS + QUANT_FLOPS + (RESIDUAL_FLOPS if args["add_residual"] else 0)


ADD_RMS_NORM_DYNAMIC_QUANT = Operator(
    name="add_rms_norm_dynamic_quant",
    help="rms norm of x + residual, quantised by token, of [num_tokens/sp_size, hidden_size]",
    arguments=(
        TOKENS,
        HIDDEN,
        SP_SIZE,
        HALF_PRECISION,
        DST_DTYPE,
        Argument("add_residual", "bool", "add a residual first", True),
        Argument("output_mode", "choice", "a third output: the sum, or its norm", "none", choices=("none", "res", "norm")),
    ),
    kernel=_add_quant_kernel,
    reference=_add_quant_reference,
    **streamed(_ADDED, (*_QUANTISED, _THIRD), _add_quant_flops, *X.sizes),
    tolerance=_add_quant_tolerance,
    check=check_tokens,
)

_HEADS = normal(tokens_of_rank, "head_num", "head_dim")
_HEAD_FACTORS, _SMOOTH = uniform("head_dim", dtype=VECTOR), uniform(times("head_num", "head_dim"), dtype=VECTOR)


def _head_quant_kernel(args: Args) -> Run:
    shape, dst_dtype = (args["head_dim"],), args["dst_dtype"]
    rms_norm = torch.nn.functional.rms_norm
    return lambda data, weight, smooth: quantise(rms_norm(data.float(), shape, weight, EPSILON).flatten(1), smooth, dst_dtype)


def _head_quant_reference(args: Args, inputs: Tensors) -> Tensors:
    data, weight, smooth = wide(inputs)
    return exact_quotients(rms_normalised(data, weight).flatten(1), smooth, args["dst_dtype"])


HEAD_RMS_NORM_DYNAMIC_QUANT = Operator(
    name="head_rms_norm_dynamic_quant",
    help="rms norm of every head of [num_tokens/sp_size, head_num, head_dim], then quantised by token",
    arguments=(
        TOKENS,
        Argument("head_num", "int", "heads of a token"),
        Argument("head_dim", "int", "values of a head"),
        SP_SIZE,
        HALF_PRECISION,
        DST_DTYPE,
    ),
    kernel=_head_quant_kernel,
    reference=_head_quant_reference,
    **streamed((_HEADS, _HEAD_FACTORS, _SMOOTH), quantised(*_HEADS.sizes), NORM_FLOPS + QUANT_FLOPS, *_HEADS.sizes),
    tolerance=lambda args: quant_tolerances(args["dtype"], args["dst_dtype"]),
    check=check_tokens,
)
LLM_QUANTS = (
    _quantising(
        "scale_dynamic_quant",
        "x · smooth quantised by token, of [num_tokens/sp_size, hidden_size], with scales",
        lambda x: x,
        X,
        QUANT_FLOPS,
    ),
    _quantising(
        "swiglu_dynamic_quant",
        "swiglu of [num_tokens/sp_size, 2·hidden_size], quantised by token",
        swiglu,
        GATE_AND_UP,
        SWIGLU_FLOPS + QUANT_FLOPS,
    ),
    ADD_RMS_NORM_DYNAMIC_QUANT,
    HEAD_RMS_NORM_DYNAMIC_QUANT,
)
