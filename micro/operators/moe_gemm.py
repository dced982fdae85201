"""The experts' products of one rank, and what brings tokens back: group gemm, gather, both in one.

y[row] = (x[row] · weight[expert]ᵀ) · both scales; the combining operators then add every row, times its
weight, to its token's place, and this rank's share of the residual times res_scale. Their result begins at 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from micro.operators.contract import Args, Argument, Cost, Maker, Operator, Sample, Tensors, Tolerance, additions
from micro.operators.dtypes import size_bytes
from micro.operators.gemm import group_of_rows, spread_rows
from micro.operators.llm_norm import HIDDEN, SP_SIZE, TOKENS, VECTOR
from micro.operators.moe import BASIC_MOE, ID, SKEWED_MOE, counts_and_offsets, dispatched
from micro.operators.product import emulation, exact_scaled_product, gemm_tolerance, scaled_product
from micro.operators.quant_gemm import (
    NEW_HIDDEN,
    QUANT_DTYPES,
    SCALED,
    check_quant_dtypes,
    four,
    operand,
    operand_bytes,
    some,
    weight_places,
)
from micro.operators.quantise import half_precision
from micro.operators.routing import MOE_ARGUMENTS, Routing, check_moe

RESIDUAL = (
    SP_SIZE,
    Argument("sp_rank", "int", "this rank's part of the residual", 0, low=0),
    Argument("res_scale", "float", "factor of the residual", 1.0),
)


def _operands(args: Args, make: Maker, routing: Routing) -> Tensors:
    x = operand(make, args["dtype"], routing.rows, args["hidden_size"])
    return some(*x, *operand(make, args["w_dtype"], len(routing.counts), args["new_hidden_size"], args["hidden_size"]))


def grouped(tensors: Tensors, counts: tuple[int, ...], dst_dtype: str) -> Any:
    """Expert by expert; counts are known beforehand, as a scheduler on the host knows them."""
    import torch

    x, x_scale, weight, weight_scale = four(tensors)
    parts, start = [], 0
    for expert, count in enumerate(counts):
        if count:
            rows = slice(start, start + count)
            scale, channel = (None, None) if x_scale is None else (x_scale[rows], weight_scale[expert])
            parts.append(scaled_product(x[rows], scale, weight[expert], channel, dst_dtype))
        start += count
    return torch.cat(parts)


def exact_grouped(tensors: Tensors, counts: tuple[int, ...], rows: Any) -> Any:
    """The reference of `grouped` in float64, of the chosen rows in ascending order, one expert's weights at a time."""
    import torch

    x, x_scale, weight, weight_scale = four(tensors)
    experts, rows = group_of_rows(list(counts)).to(x.device)[rows.to(x.device)], rows.to(x.device)
    parts = []
    for expert in experts.unique().tolist():
        mine = rows[experts == expert]
        scale, channel = (None, None) if x_scale is None else (x_scale[mine], weight_scale[expert])
        parts.append(exact_scaled_product(x[mine], scale, weight[expert], channel))
    return torch.cat(parts)


def _group_inputs(args: Args, make: Maker) -> Tensors:
    routing = Routing.of(args)
    return (*_operands(args, make, routing), *counts_and_offsets(routing, make))


def _group_kernel(args: Args) -> Callable[..., Any]:
    counts, dst_dtype = Routing.of(args).counts, args["dst_dtype"]

    def moe_quant_group_gemm(*tensors: Any) -> Any:
        return grouped(tensors[:-2], counts, dst_dtype)

    return moe_quant_group_gemm


def _group_reference(args: Args, inputs: Tensors) -> Any:
    import torch

    routing = Routing.of(args)
    rows = spread_rows(routing.rows, 2 * args["hidden_size"] * args["new_hidden_size"])
    rows = torch.arange(routing.rows) if rows is None else rows
    return Sample(rows, exact_grouped(inputs[:-2], routing.counts, rows))


def _group_bytes(args: Args, routing: Routing) -> tuple[int, int]:
    """Read by the products (weights of experts with rows), and held."""
    width, out = args["hidden_size"], args["new_hidden_size"]
    tokens, expert = operand_bytes(args["dtype"], routing.rows, width), operand_bytes(args["w_dtype"], out, width)
    used, counts = sum(1 for count in routing.counts if count), size_bytes(ID, 2 * len(routing.counts))
    return tokens + used * expert + counts, tokens + len(routing.counts) * expert + counts


def _group_cost(args: Args) -> Cost:
    routing, out = Routing.of(args), args["new_hidden_size"]
    read, held = _group_bytes(args, routing)
    written = size_bytes(args["dst_dtype"], routing.rows * out)
    return Cost(2 * routing.rows * args["hidden_size"] * out, read, written, held + written, flops_dtype=args["compute_dtype"])


def _group_check(args: Args) -> str:
    return check_quant_dtypes(args) or check_moe(args)


_SIZES: dict[str, Any] = {"hidden_size.new_hidden_size": [[512, 512]]}
_DTYPES = "dtype.w_dtype.compute_dtype.dst_dtype"
_W8A8, _W4A8 = ["int8", "int8", "int8", "bfloat16"], ["int8", "int4", "int8", "bfloat16"]
_ARGUMENTS = (TOKENS, HIDDEN, NEW_HIDDEN, *MOE_ARGUMENTS, *QUANT_DTYPES)

MOE_QUANT_GROUP_GEMM = Operator(
    name="moe_quant_group_gemm",
    constant=lambda args: weight_places(args)[:2] if args["dtype"] in SCALED else (1,),
    family="moe",
    help="x[rows, hidden_size] · weight[expert, new_hidden_size, hidden_size]ᵀ with scales by row and by channel",
    arguments=(*_ARGUMENTS, SP_SIZE),
    inputs=_group_inputs,
    kernel=_group_kernel,
    reference=_group_reference,
    cost=_group_cost,
    tolerance=lambda args: gemm_tolerance(args["dst_dtype"], args["hidden_size"], args["w_dtype"]),
    check=_group_check,
    basic=({_DTYPES: [_W8A8, _W4A8], **_SIZES, **SKEWED_MOE}, {_DTYPES: [["bfloat16"] * 4], **_SIZES, **BASIC_MOE}),
    emulation=emulation,
)


# --- gather and combine ---------------------------------------------------------------------------------------


def _residual_rows(args: Args) -> slice:
    """Tokens whose residual this rank adds."""
    share = -(-args["num_tokens"] // args["sp_size"])
    return slice(min(args["sp_rank"] * share, args["num_tokens"]), min((args["sp_rank"] + 1) * share, args["num_tokens"]))


def _residual_count(args: Args) -> int:
    rows = _residual_rows(args)
    return int(rows.stop - rows.start)


def _residual_check(args: Args) -> str:
    if args["sp_rank"] >= args["sp_size"]:
        return f"sp_rank={args['sp_rank']} is not one of the sp_size={args['sp_size']} ranks"
    return check_moe(args) if _residual_count(args) else f"sp_rank={args['sp_rank']} has no token of {args['num_tokens']}"


def _homes(args: Args, make: Maker, routing: Routing) -> Tensors:
    """scatter_token_id [rows] int32 and scatter_token_weight float32, as a dispatch made them."""
    weights = make.uniform(0.1, 1.0, args["num_tokens"], args["topk"])
    token, weight, _, _ = dispatched(routing, routing.selection(make), weights / weights.sum(-1, keepdim=True))
    return token, weight


def combined(args: Args, rows: Any, token: Any, weight: Any, residual: Any) -> Any:
    """[num_tokens, width] of the rows' dtype: weighted rows added to their tokens, and the residual."""
    import torch

    result = torch.zeros(args["num_tokens"], rows.shape[1], dtype=rows.dtype, device=rows.device)
    part = _residual_rows(args)
    result[part] = residual * args["res_scale"]
    return result.index_add_(0, token, (rows * weight[:, None]).to(rows.dtype))


def _gather_inputs(args: Args, make: Maker) -> Tensors:
    routing, width, dtype = Routing.of(args), args["hidden_size"], args["dtype"]
    rows = make.normal(routing.rows, width, dtype=dtype)
    return (rows, *_homes(args, make, routing), make.normal(_residual_count(args), width, dtype=dtype))


def _gather_kernel(args: Args) -> Callable[..., Any]:
    def moe_gather(rows: Any, token: Any, weight: Any, residual: Any) -> Any:
        return combined(args, rows, token, weight, residual)

    return moe_gather


def _gather_reference(args: Args, inputs: Tensors) -> Any:
    rows, token, weight, residual = inputs
    return combined(args, rows.double(), token, weight.double(), residual.double())


def _home_bytes(rows: int) -> int:
    return size_bytes(ID, rows) + size_bytes(VECTOR, rows)


def _gather_cost(args: Args) -> Cost:
    """A product and a sum for each value of a row, the same for the residual."""
    routing, width, dtype = Routing.of(args), args["hidden_size"], args["dtype"]
    values = (routing.rows + _residual_count(args)) * width
    return Cost(
        2 * values,
        size_bytes(dtype, values) + _home_bytes(routing.rows),
        size_bytes(dtype, args["num_tokens"] * width),
        flops_dtype=dtype,
    )


MOE_GATHER = Operator(
    name="moe_gather",
    family="moe",
    help="rows [rows, hidden_size] times their weights, added to their tokens of [num_tokens, hidden_size], and a residual",
    arguments=(TOKENS, HIDDEN, *MOE_ARGUMENTS, *RESIDUAL, half_precision()),
    inputs=_gather_inputs,
    kernel=_gather_kernel,
    reference=_gather_reference,
    cost=_gather_cost,
    tolerance=lambda args: additions(args["dtype"], args["topk"] + 2),  # a row is rounded once before it is added
    check=_residual_check,
    basic=({"dtype": ["float32", "bfloat16"], "hidden_size": 1024, **SKEWED_MOE},),
)


def _combine_inputs(args: Args, make: Maker) -> Tensors:
    routing = Routing.of(args)
    residual = make.normal(_residual_count(args), args["new_hidden_size"], dtype=args["dst_dtype"])
    return (*_operands(args, make, routing), *counts_and_offsets(routing, make), *_homes(args, make, routing), residual)


def _combine_kernel(args: Args) -> Callable[..., Any]:
    counts, dst_dtype = Routing.of(args).counts, args["dst_dtype"]

    def moe_quant_group_gemm_combine(*tensors: Any) -> Any:
        return combined(args, grouped(tensors[:-5], counts, dst_dtype), *tensors[-3:])

    return moe_quant_group_gemm_combine


def _combine_reference(args: Args, inputs: Tensors) -> Any:
    """Of some tokens, all their rows, where all tokens would cost too much."""
    import torch

    routing, (token, weight, residual) = Routing.of(args), inputs[-3:]
    per_token = 2 * args["hidden_size"] * args["new_hidden_size"] * max(1, routing.rows // args["num_tokens"])
    chosen = spread_rows(args["num_tokens"], per_token)
    chosen = torch.arange(args["num_tokens"]) if chosen is None else chosen
    rows = torch.isin(token.long().cpu(), chosen).nonzero().flatten()
    values = torch.zeros(0, args["new_hidden_size"], dtype=torch.float64)
    values = exact_grouped(inputs[:-5], routing.counts, rows) if len(rows) else values.to(token.device)
    rows = rows.to(token.device)
    result = combined(args, values, token[rows], weight[rows].double(), residual.double())
    return Sample(chosen, result[chosen.to(result.device)])


def _combine_cost(args: Args) -> Cost:
    routing, out, dtype = Routing.of(args), args["new_hidden_size"], args["dst_dtype"]
    read, held = _group_bytes(args, routing)
    more = _home_bytes(routing.rows) + size_bytes(dtype, _residual_count(args) * out)
    written = size_bytes(dtype, args["num_tokens"] * out)
    flops = 2 * routing.rows * args["hidden_size"] * out + 2 * (routing.rows + _residual_count(args)) * out
    return Cost(flops, read + more, written, held + more + written, flops_dtype=args["compute_dtype"])


def _combine_tolerance(args: Args) -> Tolerance:
    product, sums = gemm_tolerance(args["dst_dtype"], args["hidden_size"], args["w_dtype"]), additions(args["dst_dtype"], args["topk"] + 2)
    return Tolerance(*(one + other for one, other in zip(product, sums, strict=True)))


MOE_QUANT_GROUP_GEMM_COMBINE = Operator(
    name="moe_quant_group_gemm_combine",
    constant=lambda args: weight_places(args)[:2] if args["dtype"] in SCALED else (1,),
    family="moe",
    help="moe_quant_group_gemm and moe_gather in one",
    arguments=(*_ARGUMENTS, *RESIDUAL),
    inputs=_combine_inputs,
    kernel=_combine_kernel,
    reference=_combine_reference,
    cost=_combine_cost,
    tolerance=_combine_tolerance,
    check=lambda args: check_quant_dtypes(args) or _residual_check(args),
    basic=({_DTYPES: [_W8A8], **_SIZES, **BASIC_MOE},),
    emulation=emulation,
)
MOE_GEMMS = {operator.name: operator for operator in (MOE_QUANT_GROUP_GEMM, MOE_GATHER, MOE_QUANT_GROUP_GEMM_COMBINE)}
