"""A mixture of experts on one rank of expert parallelism: choosing, scattering, the experts' products, gathering.

Who gets which token is `routing`'s. Rows of a rank lie expert after expert; experts_token_count and
experts_token_offset say where. Bytes count weights of experts that got a token, and tokens that came to the rank.
moe_dispatch_local is what this rank takes of all tokens, without the network; moe_dispatch_tokens, which ByteMLPerf
has too, is an all-to-all of sorted tokens between ranks (`micro.collectives.dispatch`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from micro.operators.contract import Args, Argument, Cost, Maker, Operator, Sample, Tensors, Tolerance, dtype_argument, rounding, wide
from micro.operators.dtypes import DTYPES, size_bytes, torch_dtype
from micro.operators.gemm import REFERENCE_VALUES, spread_rows
from micro.operators.llm_norm import HIDDEN, SP_SIZE, SWIGLU_FLOPS, TOKENS, VECTOR, factors, swiglu, tokens_of_rank
from micro.operators.llm_quant import quant_bytes
from micro.operators.quantise import QUANT_FLOPS, exact_quotients, half_precision, quant_argument, quant_tolerances, quantise
from micro.operators.reduction import at, distinct
from micro.operators.routing import MOE_ARGUMENTS, Routing, check_moe

ID = "int32"
EXACT = Tolerance(0, 0)
BASIC_MOE: dict[str, Any] = {"num_experts.topk.ep_size.num_tokens": [[32, 4, 4, 256]], "routing": ["balanced"]}
SKEWED_MOE: dict[str, Any] = BASIC_MOE | {"routing": ["balanced", "zipf"]}
SOFTMAX_FLOPS = 5  # maximum, subtract, exp, add, divide


def expert_of_rows(counts: Any, rows: int) -> Any:
    """[rows] int64: each row's expert, from the experts' counts."""
    import torch

    return torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts.long(), output_size=rows)


def counts_and_offsets(routing: Routing, make: Maker) -> Tensors:
    """experts_token_count and experts_token_offset."""
    return make.values(list(routing.counts), ID), make.values(routing.offsets, ID)


# --- moe_softmax_topk -----------------------------------------------------------------------------------------


def _softmax_kernel(args: Args) -> Callable[..., Any]:
    import torch

    k, first = args["topk"], args["compute_mode"] == "pre-softmax"

    def moe_softmax_topk(gates: Any) -> Any:
        if first:
            weights, chosen = torch.topk(gates.softmax(-1), k, dim=-1)
            weights = weights / weights.sum(-1, keepdim=True)
        else:
            best, chosen = torch.topk(gates, k, dim=-1)
            weights = best.softmax(-1)
        return chosen.int(), weights

    return moe_softmax_topk


def _softmax_reference(args: Args, inputs: Tensors) -> Any:
    """Both modes are the same mathematically: softmax over the chosen ones."""
    import torch

    best = inputs[0].double().sort(-1, descending=True).values[:, : args["topk"]]
    return best.softmax(-1), best, torch.ones(best.shape[0], dtype=torch.bool)


def _softmax_comparable(_args: Args, inputs: Tensors, outputs: Any) -> Any:
    chosen, weights = outputs
    gates = at(inputs[0], chosen)
    order = gates.argsort(-1, descending=True)  # by gate: where two are equal their weights are too
    return weights.gather(-1, order), gates.gather(-1, order), distinct(chosen)


def _softmax_cost(args: Args) -> Cost:
    rows, k, dtype = tokens_of_rank(args), args["topk"], args["dtype"]
    values = args["num_experts"] + k if args["compute_mode"] == "pre-softmax" else k
    read, written = size_bytes(dtype, rows * args["num_experts"]), size_bytes(dtype, rows * k) + size_bytes(ID, rows * k)
    return Cost(SOFTMAX_FLOPS * rows * values, read, written, flops_dtype=dtype)


def _softmax_check(args: Args) -> str:
    return f"topk={args['topk']} is more than num_experts={args['num_experts']}" if args["topk"] > args["num_experts"] else ""


MOE_SOFTMAX_TOPK = Operator(
    name="moe_softmax_topk",
    family="moe",
    help="the topk experts of each row of [num_tokens/sp_size, num_experts] and their weights, which add up to 1",
    arguments=(
        TOKENS,
        *MOE_ARGUMENTS[:2],
        Argument("compute_mode", "choice", "softmax before or after topk", "pre-softmax", choices=("pre-softmax", "post-softmax")),
        SP_SIZE,
        dtype_argument(("float32",)),
    ),
    inputs=lambda args, make: (make.normal(tokens_of_rank(args), args["num_experts"], dtype=args["dtype"]),),
    kernel=_softmax_kernel,
    reference=_softmax_reference,
    cost=_softmax_cost,
    tolerance=lambda args: (Tolerance(16 * DTYPES[args["dtype"]].epsilon, 1e-6), EXACT, EXACT),
    check=_softmax_check,
    comparable=_softmax_comparable,
    basic=({"compute_mode": ["pre-softmax", "post-softmax"], "num_tokens": 1024, "num_experts.topk": [[128, 8]]},),
)


# --- dispatch: moe_dispatch_local, moe_scatter_dynamic_quant ---------------------------------------------------


def _selected(args: Args, make: Maker) -> Tensors:
    """selected_experts [tokens, topk] int32 and moe_weights float32 that add up to 1 for a token."""
    selected = Routing.of(args).selection(make)
    weights = make.uniform(0.1, 1.0, args["num_tokens"], args["topk"])
    return selected, weights / weights.sum(-1, keepdim=True)


def dispatched(routing: Routing, selected: Any, weights: Any) -> tuple[Any, Any, Any, Any]:
    """token id and weight of the rank's rows, expert after expert; counts and offsets of its experts. Computed
    from the selection: the routing only says how many rows there will be."""
    import torch

    here, flat = len(routing.counts), selected.flatten().long() - routing.first
    key = torch.where((flat >= 0) & (flat < here), flat, here)
    order = key.argsort(stable=True)[: routing.rows]
    counts = torch.zeros(here + 1, dtype=torch.int32, device=flat.device).scatter_add_(0, key, torch.ones_like(key, dtype=torch.int32))[:-1]
    offsets = (counts.cumsum(0) - counts).int()
    return (order // selected.shape[1]).int(), weights.flatten()[order], counts, offsets


def _dispatch_inputs(args: Args, make: Maker) -> Tensors:
    shape = (args["num_tokens"], args["hidden_size"])
    x = make.integers(-127, 128, *shape, dtype="int8") if args["dtype"] == "int8" else make.normal(*shape, dtype=args["dtype"])
    return (x, *_selected(args, make))


def _dispatch_kernel(args: Args) -> Callable[..., Any]:
    routing = Routing.of(args)

    def moe_dispatch_local(x: Any, selected: Any, weights: Any) -> Any:
        token, weight, counts, offsets = dispatched(routing, selected, weights)
        return x[token], token, weight, counts, offsets

    return moe_dispatch_local


def _row_order(args: Args, counts: Any, token: Any) -> Any:
    """Rows of an expert may come in any order: by expert, then by token."""
    rows = token.shape[0]
    if int(counts.sum()) != rows:
        return slice(None)  # wrong anyway
    return (expert_of_rows(counts, rows) * args["num_tokens"] + token.long()).argsort()


def _dispatch_comparable(args: Args, _inputs: Tensors, outputs: Any) -> Any:
    x, token, weight, counts, offsets = outputs
    order = _row_order(args, counts, token)
    return x[order], token[order], weight[order], counts, offsets


def _plan(args: Args, selected: Any, weights: Any) -> tuple[Any, Any, Any, Any, Any]:
    """The reference of `dispatched`, with numpy and another algorithm: expert by expert. Also each row's expert."""
    import numpy
    import torch

    routing, chosen, given = Routing.of(args), selected.cpu().numpy(), weights.cpu().numpy()
    tokens, kept, counts = [], [], []  # by expert
    for expert in range(routing.first, routing.first + len(routing.counts)):
        token, place = numpy.nonzero(chosen == expert)
        tokens.append(token)
        kept.append(given[token, place])
        counts.append(len(token))
    experts: Any = numpy.repeat(numpy.arange(len(counts)), counts)
    offsets = numpy.cumsum(counts) - counts
    arrays = (numpy.concatenate(tokens), numpy.concatenate(kept), numpy.array(counts), offsets, experts)
    return tuple(torch.from_numpy(array) for array in arrays)  # type: ignore[return-value]


def _dispatch_reference(args: Args, inputs: Tensors) -> Any:
    x, selected, weights = inputs
    token, weight, counts, offsets, _ = _plan(args, selected, weights)
    return x[token.to(x.device)], token, weight, counts, offsets


def _plan_bytes(args: Args, routing: Routing) -> tuple[int, int]:
    """Read: the selection and its weights. Written: ids, weights, counts, offsets."""
    chosen = args["num_tokens"] * args["topk"]
    return size_bytes(ID, chosen) + size_bytes(VECTOR, chosen), (size_bytes(ID, 1) + size_bytes(VECTOR, 1)) * routing.rows + size_bytes(
        ID, 2 * len(routing.counts)
    )


def _dispatch_cost(args: Args) -> Cost:
    routing, width, dtype = Routing.of(args), args["hidden_size"], args["dtype"]
    plan_read, plan_written = _plan_bytes(args, routing)
    written = size_bytes(dtype, routing.rows * width) + plan_written
    held = size_bytes(dtype, args["num_tokens"] * width) + plan_read + written
    return Cost(0, size_bytes(dtype, routing.used_tokens * width) + plan_read, written, held, flops_dtype=dtype)


MOE_DISPATCH_LOCAL = Operator(
    name="moe_dispatch_local",
    family="moe",
    help="of [num_tokens, hidden_size] the rows for this rank's experts, expert after expert, with ids, weights, counts",
    arguments=(TOKENS, HIDDEN, *MOE_ARGUMENTS, dtype_argument(("bfloat16", "float16", "float32", "int8"), default="bfloat16")),
    inputs=_dispatch_inputs,
    kernel=_dispatch_kernel,
    reference=_dispatch_reference,
    cost=_dispatch_cost,
    tolerance=lambda _args: EXACT,
    check=check_moe,
    comparable=_dispatch_comparable,
    basic=({"dtype": ["bfloat16", "int8"], "hidden_size": 1024, **SKEWED_MOE},),
    aliases={"world_size": "ep_size"},
)


def _scatter_inputs(args: Args, make: Maker) -> Tensors:
    x = make.normal(args["num_tokens"], args["hidden_size"], dtype=args["dtype"])
    return x, factors(make, args["num_experts"] // args["ep_size"], args["hidden_size"]), *_selected(args, make)


def _scatter_kernel(args: Args) -> Callable[..., Any]:
    routing, dst_dtype = Routing.of(args), args["dst_dtype"]

    def moe_scatter_dynamic_quant(x: Any, smooth: Any, selected: Any, weights: Any) -> Any:
        token, weight, counts, offsets = dispatched(routing, selected, weights)
        quantised, scale = quantise(x[token].float(), smooth[expert_of_rows(counts, routing.rows)], dst_dtype)
        return quantised, scale, token, weight, counts, offsets

    return moe_scatter_dynamic_quant


def _scatter_reference(args: Args, inputs: Tensors) -> Any:
    import torch

    x, smooth, selected, weights = inputs
    token, weight, counts, offsets, expert = _plan(args, selected, weights)
    rows = spread_rows(len(token), args["hidden_size"], REFERENCE_VALUES)
    rows = torch.arange(len(token)) if rows is None else rows
    quotients = exact_quotients(x[token[rows].to(x.device)], smooth[expert[rows].to(x.device)], args["dst_dtype"])
    return (*(Sample(rows, part) for part in quotients), token, weight, counts, offsets)


def _scatter_comparable(args: Args, _inputs: Tensors, outputs: Any) -> Any:
    quantised, scale, token, weight, counts, offsets = outputs
    order = _row_order(args, counts, token)
    by_byte = quantised.view(dtype=torch_dtype("uint8"))[order].view(quantised.dtype)
    return by_byte, scale[order], token[order], weight[order], counts, offsets


def _scatter_cost(args: Args) -> Cost:
    routing, width, dtype = Routing.of(args), args["hidden_size"], args["dtype"]
    plan_read, plan_written = _plan_bytes(args, routing)
    smooth = size_bytes(VECTOR, sum(1 for count in routing.counts if count) * width)
    read = size_bytes(dtype, routing.used_tokens * width) + plan_read + smooth
    written = quant_bytes(args, routing.rows, width) + plan_written
    held = size_bytes(dtype, args["num_tokens"] * width) + size_bytes(VECTOR, len(routing.counts) * width) + plan_read + written
    return Cost(QUANT_FLOPS * routing.rows * width, read, written, held, flops_dtype=dtype)


MOE_SCATTER_DYNAMIC_QUANT = Operator(
    name="moe_scatter_dynamic_quant",
    family="moe",
    help="moe_dispatch_local with each row times its expert's smooth factors, quantised",
    arguments=(TOKENS, HIDDEN, *MOE_ARGUMENTS, half_precision(), quant_argument()),
    inputs=_scatter_inputs,
    kernel=_scatter_kernel,
    reference=_scatter_reference,
    cost=_scatter_cost,
    tolerance=lambda args: (*quant_tolerances(args["dtype"], args["dst_dtype"]), EXACT, EXACT, EXACT, EXACT),
    check=check_moe,
    comparable=_scatter_comparable,
    basic=({"dst_dtype": ["int8"], "hidden_size": 1024, **SKEWED_MOE},),
)


# --- moe_swiglu, moe_swiglu_dynamic_quant ---------------------------------------------------------------------


def _gated_inputs(args: Args, make: Maker) -> Tensors:
    return (make.normal(Routing.of(args).rows, 2 * args["hidden_size"], dtype=args["dtype"]),)


def _gated_cost(args: Args) -> Cost:
    count, dtype = Routing.of(args).rows * args["hidden_size"], args["dtype"]
    return Cost(SWIGLU_FLOPS * count, size_bytes(dtype, 2 * count), size_bytes(dtype, count), flops_dtype=dtype)


MOE_SWIGLU = Operator(
    name="moe_swiglu",
    family="moe",
    help="swiglu of the rank's rows [rows, 2·hidden_size]",
    arguments=(TOKENS, HIDDEN, *MOE_ARGUMENTS, half_precision()),
    inputs=_gated_inputs,
    kernel=lambda _args: swiglu,
    reference=lambda _args, inputs: swiglu(inputs[0].double()),
    cost=_gated_cost,
    tolerance=lambda args: rounding(args["dtype"], roundings=3, units=8),
    check=check_moe,
    basic=({"hidden_size": 1024, **BASIC_MOE},),
)


def _gated_quant_inputs(args: Args, make: Maker) -> Tensors:
    routing = Routing.of(args)
    return (*_gated_inputs(args, make), factors(make, len(routing.counts), args["hidden_size"]), *counts_and_offsets(routing, make))


def _gated_quant_kernel(args: Args) -> Callable[..., Any]:
    dst_dtype, rows = args["dst_dtype"], Routing.of(args).rows

    def moe_swiglu_dynamic_quant(x: Any, smooth: Any, counts: Any, _offsets: Any) -> Any:
        return quantise(swiglu(x.float()), smooth[expert_of_rows(counts, rows)], dst_dtype)

    return moe_swiglu_dynamic_quant


def _gated_quant_reference(args: Args, inputs: Tensors) -> Any:
    x, smooth, counts, _ = wide(inputs)
    return exact_quotients(swiglu(x), smooth.repeat_interleave(counts, 0), args["dst_dtype"])


def _gated_quant_cost(args: Args) -> Cost:
    routing, width = Routing.of(args), args["hidden_size"]
    count, used = routing.rows * width, sum(1 for rows in routing.counts if rows)
    vectors = size_bytes(ID, 2 * len(routing.counts))
    read = size_bytes(args["dtype"], 2 * count) + size_bytes(VECTOR, used * width) + vectors
    written = quant_bytes(args, routing.rows, width)
    held = size_bytes(args["dtype"], 2 * count) + size_bytes(VECTOR, len(routing.counts) * width) + vectors + written
    return Cost((SWIGLU_FLOPS + QUANT_FLOPS) * count, read, written, held, flops_dtype=args["dtype"])


MOE_SWIGLU_DYNAMIC_QUANT = Operator(
    name="moe_swiglu_dynamic_quant",
    family="moe",
    help="swiglu of the rank's rows, times their expert's smooth factors, quantised",
    arguments=(TOKENS, HIDDEN, *MOE_ARGUMENTS, half_precision(), quant_argument()),
    inputs=_gated_quant_inputs,
    kernel=_gated_quant_kernel,
    reference=_gated_quant_reference,
    cost=_gated_quant_cost,
    tolerance=lambda args: quant_tolerances(args["dtype"], args["dst_dtype"]),
    check=check_moe,
    basic=({"dst_dtype": ["int8"], "hidden_size": 1024, **SKEWED_MOE},),
)
MOE = {
    operator.name: operator
    for operator in (MOE_SOFTMAX_TOPK, MOE_DISPATCH_LOCAL, MOE_SCATTER_DYNAMIC_QUANT, MOE_SWIGLU, MOE_SWIGLU_DYNAMIC_QUANT)
}
