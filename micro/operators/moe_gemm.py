"""The experts' products of one rank, and what brings tokens back: group gemm, gather, both in one.

y[row] = (x[row] · weight[expert]ᵀ) · both scales; the combining operators then add every row, times its
weight, to its token's place, and this rank's share of the residual times res_scale. Their result begins at 0.
"""

from __future__ import annotations

from bytemlperf.lazy import torch
from micro.operators.contract import Args, Argument, Maker, Operator, Run, Sample, Tensor, Tensors, Tolerance, additions
from micro.operators.gemm import group_of_rows
from micro.operators.llm_norm import HIDDEN, SP_SIZE, TOKENS
from micro.operators.moe import (
    COUNTS_AND_OFFSETS,
    HOMES,
    counts_and_offsets,
    dispatched,
    experts_of_rank,
    rows_of_rank,
    selected_experts,
    used_experts,
)
from micro.operators.product import HALF_PRECISION, emulation, exact_scaled_product, gemm_tolerance, scaled_product
from micro.operators.quant_gemm import (
    NEW_HIDDEN,
    QUANT_DTYPES,
    SCALED,
    check_quant_dtypes,
    four,
    operand,
    weight_places,
)
from micro.operators.routing import MOE_ARGUMENTS, Routing, check_moe
from micro.operators.tensors import drawn, moved, normal, spread_rows

RESIDUAL = (
    SP_SIZE,
    Argument("sp_rank", "int", "this rank's part of the residual", 0, low=0),
    Argument("res_scale", "float", "factor of the residual", 1.0),
)


_X, _WEIGHTS, _WEIGHTS_READ = (
    operand(dtype, *rows, "hidden_size")
    for dtype, *rows in (
        ("dtype", rows_of_rank),
        ("w_dtype", experts_of_rank, "new_hidden_size"),
        ("w_dtype", used_experts, "new_hidden_size"),
    )
)
"""A rank's tokens; the weights of its experts, and of those that got a token."""
_PRODUCTS = normal(rows_of_rank, "new_hidden_size", dtype="dst_dtype")


def grouped(tensors: Tensors, counts: tuple[int, ...], dst_dtype: str) -> Tensor:
    """Expert by expert; counts are known beforehand, as a scheduler on the host knows them."""
    x, x_scale, weight, weight_scale = four(tensors)
    parts, start = [], 0
    for expert, count in enumerate(counts):
        if count:
            rows = slice(start, start + count)
            scale, channel = (None, None) if x_scale is None or weight_scale is None else (x_scale[rows], weight_scale[expert])
            parts.append(scaled_product(x[rows], scale, weight[expert], channel, dst_dtype))
        start += count
    return torch.cat(parts)


def exact_grouped(tensors: Tensors, counts: tuple[int, ...], rows: Tensor) -> Tensor:
    """The reference of `grouped` in float64, of the chosen rows in ascending order, one expert's weights at a time."""
    x, x_scale, weight, weight_scale = four(tensors)
    experts = group_of_rows(list(counts))[rows]
    parts = []
    for expert in experts.unique().tolist():
        own = rows[experts == expert]
        scale, channel = (None, None) if x_scale is None or weight_scale is None else (x_scale[own], weight_scale[expert])
        parts.append(exact_scaled_product(x[own], scale, weight[expert], channel))
    return torch.cat(parts)


def _group_inputs(args: Args, make: Maker) -> Tensors:
    return (*drawn(*_X, *_WEIGHTS)(args, make), *counts_and_offsets(Routing.of(args), make))


def _group_kernel(args: Args) -> Run:
    counts, dst_dtype = Routing.of(args).counts, args["dst_dtype"]
    return lambda *tensors: grouped(tensors[:-2], counts, dst_dtype)


def _group_reference(args: Args, inputs: Tensors) -> Sample:
    routing = Routing.of(args)
    rows = spread_rows(routing.rows, 2 * args["hidden_size"] * args["new_hidden_size"])
    return Sample(rows, exact_grouped(inputs[:-2], routing.counts, rows))


_ARGUMENTS = (TOKENS, HIDDEN, NEW_HIDDEN, *MOE_ARGUMENTS, *QUANT_DTYPES)


def _constant(args: Args) -> tuple[int, ...]:
    return weight_places(args)[:2] if args["dtype"] in SCALED else (1,)


MOE_QUANT_GROUP_GEMM = Operator(
    name="moe_quant_group_gemm",
    constant=_constant,
    help="x[rows, hidden_size] · weight[expert, new_hidden_size, hidden_size]ᵀ with scales by row and by channel",
    arguments=(*_ARGUMENTS, SP_SIZE),
    inputs=_group_inputs,
    kernel=_group_kernel,
    reference=_group_reference,
    cost=moved(
        (*_X, COUNTS_AND_OFFSETS, *_WEIGHTS_READ),
        (_PRODUCTS,),
        *(2, "hidden_size", *_PRODUCTS.sizes),
        flops_dtype="compute_dtype",
        held=(*_X, COUNTS_AND_OFFSETS, *_WEIGHTS, _PRODUCTS),
    ),
    tolerance=lambda args: gemm_tolerance(args["dst_dtype"], args["hidden_size"], args["w_dtype"]),
    check=lambda args: check_quant_dtypes(args) or check_moe(args),
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


_ROWS, _RESIDUAL, _RESULT = (normal(rows, "hidden_size") for rows in (rows_of_rank, _residual_count, "num_tokens"))
_COMBINED_RESIDUAL, _COMBINED = (normal(rows, "new_hidden_size", dtype="dst_dtype") for rows in (_residual_count, "num_tokens"))


def _added_rows(args: Args) -> int:
    return rows_of_rank(args) + _residual_count(args)


def _homes(args: Args, make: Maker) -> Tensors:
    """scatter_token_id [rows] int32 and scatter_token_weight float32, as a dispatch made them."""
    routing = Routing.of(args)
    return dispatched(routing, *selected_experts(routing, make))[:2]


def combined(args: Args, rows: Tensor, token: Tensor, weight: Tensor, residual: Tensor) -> Tensor:
    """[num_tokens, width] of the rows' dtype: weighted rows added to their tokens, and the residual."""
    result = torch.zeros(args["num_tokens"], rows.shape[1], dtype=rows.dtype, device=rows.device)
    result[_residual_rows(args)] = residual * args["res_scale"]
    return result.index_add_(0, token, (rows * weight[:, None]).to(rows.dtype))


def _gather_reference(args: Args, inputs: Tensors) -> Tensor:
    rows, token, weight, residual = inputs
    return combined(args, rows.double(), token, weight.double(), residual.double())


MOE_GATHER = Operator(
    name="moe_gather",
    help="rows [rows, hidden_size] times their weights, added to their tokens of [num_tokens, hidden_size], and a residual",
    arguments=(TOKENS, HIDDEN, *MOE_ARGUMENTS, *RESIDUAL, HALF_PRECISION),
    inputs=lambda args, make: (_ROWS.draw(args, make), *_homes(args, make), _RESIDUAL.draw(args, make)),
    kernel=lambda args: lambda rows, token, weight, residual: combined(args, rows, token, weight, residual),
    reference=_gather_reference,
    cost=moved((_ROWS, *HOMES, _RESIDUAL), (_RESULT,), 2, _added_rows, "hidden_size"),  # a product and a sum for each value
    tolerance=lambda args: additions(args["dtype"], args["topk"] + 2),  # a row is rounded once before it is added
    check=_residual_check,
)


def _combine_kernel(args: Args) -> Run:
    counts, dst_dtype = Routing.of(args).counts, args["dst_dtype"]
    return lambda *tensors: combined(args, grouped(tensors[:-5], counts, dst_dtype), *tensors[-3:])


def _combine_reference(args: Args, inputs: Tensors) -> Sample:
    """Of some tokens, all their rows, where all tokens would cost too much."""
    routing, (token, weight, residual) = Routing.of(args), inputs[-3:]
    per_token = 2 * args["hidden_size"] * args["new_hidden_size"] * max(1, routing.rows // args["num_tokens"])
    chosen = spread_rows(args["num_tokens"], per_token)
    rows = torch.isin(token.long().cpu(), chosen).nonzero().flatten()
    values = torch.zeros(0, args["new_hidden_size"], dtype=torch.float64, device=token.device)
    values = exact_grouped(inputs[:-5], routing.counts, rows) if len(rows) else values
    result = combined(args, values, token[rows], weight[rows].double(), residual.double())
    return Sample(chosen, result[chosen])


def _combined_depth(args: Args) -> int:
    """Multiply-adds of a column: a product of each row, and its sum."""
    return rows_of_rank(args) * int(args["hidden_size"]) + _added_rows(args)


def _combine_tolerance(args: Args) -> Tolerance:
    product, sums = gemm_tolerance(args["dst_dtype"], args["hidden_size"], args["w_dtype"]), additions(args["dst_dtype"], args["topk"] + 2)
    return Tolerance(*(one + other for one, other in zip(product, sums, strict=True)))


MOE_QUANT_GROUP_GEMM_COMBINE = Operator(
    name="moe_quant_group_gemm_combine",
    constant=_constant,
    help="moe_quant_group_gemm and moe_gather in one",
    arguments=(*_ARGUMENTS, *RESIDUAL),
    inputs=lambda args, make: (*_group_inputs(args, make), *_homes(args, make), _COMBINED_RESIDUAL.draw(args, make)),
    kernel=_combine_kernel,
    reference=_combine_reference,
    cost=moved(
        (*_X, COUNTS_AND_OFFSETS, *_WEIGHTS_READ, *HOMES, _COMBINED_RESIDUAL),
        (_COMBINED,),
        *(2, _combined_depth, "new_hidden_size"),
        flops_dtype="compute_dtype",
        held=(*_X, COUNTS_AND_OFFSETS, *_WEIGHTS, *HOMES, _COMBINED_RESIDUAL, _COMBINED),
    ),
    tolerance=_combine_tolerance,
    check=lambda args: check_quant_dtypes(args) or _residual_check(args),
    emulation=emulation,
)
MOE_GEMMS = (MOE_QUANT_GROUP_GEMM, MOE_GATHER, MOE_QUANT_GROUP_GEMM_COMBINE)
