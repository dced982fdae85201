"""A mixture of experts on one rank of expert parallelism: choosing, scattering, the experts' products, gathering.

Who gets which token is `routing`'s. Rows of a rank lie expert after expert; experts_token_count and
experts_token_offset say where. Bytes count weights of experts that got a token, and tokens that came to the rank.
moe_dispatch_local is what this rank takes of all tokens, without the network; moe_dispatch_tokens, which ByteMLPerf
has too, is an all-to-all of sorted tokens between ranks (`micro.collectives.dispatch`).
"""

from __future__ import annotations

from bytemlperf.lazy import numpy, torch
from micro.operators.contract import (
    DTYPES,
    EXACT,
    Args,
    Argument,
    Maker,
    Operator,
    Outputs,
    Run,
    Sample,
    Tensor,
    Tensors,
    Tolerance,
    dtype_argument,
    rounding,
    torch_dtype,
    wide,
)
from micro.operators.llm_norm import HIDDEN, SP_SIZE, SWIGLU_FLOPS, TOKENS, VECTOR, swiglu, tokens_of_rank
from micro.operators.llm_quant import quantised
from micro.operators.norm import at, distinct
from micro.operators.product import DST_DTYPE, HALF_PRECISION, QUANT_FLOPS, exact_quotients, quant_tolerances, quantise
from micro.operators.routing import MOE_ARGUMENTS, Routing, check_moe
from micro.operators.tensors import (
    ACTIVATIONS,
    REFERENCE_VALUES,
    TensorSpec,
    drawn,
    integers_or_normal,
    moved,
    normal,
    spread_rows,
    streamed,
    times,
    uniform,
)

ID = "int32"
SOFTMAX_FLOPS = 5  # maximum, subtract, exp, add, divide


# --- sizes of a rank ------------------------------------------------------------------------------------------


def rows_of_rank(args: Args) -> int:
    """Rows that come to the rank."""
    return Routing.of(args).rows


def used_tokens(args: Args) -> int:
    """Different tokens among them."""
    return Routing.of(args).used_tokens


def experts_of_rank(args: Args) -> int:
    """The rank's experts."""
    return int(args["num_experts"] // args["ep_size"])


def used_experts(args: Args) -> int:
    """Those of them that got a row."""
    return sum(1 for rows in Routing.of(args).counts if rows)


COUNTS_AND_OFFSETS = normal(2, experts_of_rank, dtype=ID)
HOMES = (normal(rows_of_rank, dtype=ID), normal(rows_of_rank, dtype=VECTOR))
"""Each row's token, and its weight there."""
SMOOTH = uniform(experts_of_rank, "hidden_size", dtype=VECTOR)
_USED_SMOOTH = uniform(used_experts, "hidden_size", dtype=VECTOR)


def expert_of_rows(counts: Tensor, rows: int) -> Tensor:
    """[rows] int64: each row's expert, from the experts' counts."""
    return torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts.long(), output_size=rows)


def counts_and_offsets(routing: Routing, make: Maker) -> Tensors:
    """experts_token_count and experts_token_offset."""
    return make.values(list(routing.counts), ID), make.values(routing.offsets, ID)


def selected_experts(routing: Routing, make: Maker) -> Tensors:
    """selected_experts [tokens, topk] int32 and moe_weights float32 that add up to 1 for a token."""
    selected = routing.selection(make)
    weights = make.uniform(0.1, 1.0, routing.tokens, routing.topk)
    return selected, weights / weights.sum(-1, keepdim=True)


# --- moe_softmax_topk -----------------------------------------------------------------------------------------

_GATES, _CHOSEN = normal(tokens_of_rank, "num_experts"), normal(tokens_of_rank, "topk")


def _softmax_kernel(args: Args) -> Run:
    k, softmax_first = args["topk"], args["compute_mode"] == "pre-softmax"

    def moe_softmax_topk(gates: Tensor) -> Tensors:
        if softmax_first:
            weights, chosen = gates.softmax(-1).topk(k, dim=-1)
            weights = weights / weights.sum(-1, keepdim=True)
        else:
            best, chosen = gates.topk(k, dim=-1)
            weights = best.softmax(-1)
        return chosen.int(), weights

    return moe_softmax_topk


def _softmax_reference(args: Args, inputs: Tensors) -> Tensors:
    """Both modes are the same mathematically: softmax over the chosen ones."""
    best = inputs[0].double().sort(-1, descending=True).values[:, : args["topk"]]
    return best.softmax(-1), best, torch.ones(best.shape[0], dtype=torch.bool)


def _softmax_comparable(_args: Args, inputs: Tensors, outputs: Outputs) -> Tensors:
    chosen, weights = outputs
    gates = at(inputs[0], chosen)
    order = gates.argsort(-1, descending=True)  # by gate: where two are equal their weights are too
    return weights.gather(-1, order), gates.gather(-1, order), distinct(chosen)


def _softmax_values(args: Args) -> int:
    return int(args["topk"] + (args["num_experts"] if args["compute_mode"] == "pre-softmax" else 0))


MOE_SOFTMAX_TOPK = Operator(
    name="moe_softmax_topk",
    help="the topk experts of each row of [num_tokens/sp_size, num_experts] and their weights, which add up to 1",
    arguments=(
        TOKENS,
        *MOE_ARGUMENTS[:2],
        Argument("compute_mode", "choice", "softmax before or after topk", "pre-softmax", choices=("pre-softmax", "post-softmax")),
        SP_SIZE,
        dtype_argument(("float32",)),
    ),
    kernel=_softmax_kernel,
    reference=_softmax_reference,
    **streamed((_GATES,), (_CHOSEN, _CHOSEN._replace(dtype=ID)), SOFTMAX_FLOPS, tokens_of_rank, _softmax_values),
    tolerance=lambda args: (Tolerance(16 * DTYPES[args["dtype"]].epsilon, 1e-6), EXACT, EXACT),
    check=lambda args: f"topk={args['topk']} is more than num_experts={args['num_experts']}" if args["topk"] > args["num_experts"] else "",
    comparable=_softmax_comparable,
)


# --- dispatch: moe_dispatch_local, moe_scatter_dynamic_quant ---------------------------------------------------

_TOKENS, _USED_TOKENS = (TensorSpec((rows, "hidden_size"), "dtype", integers_or_normal) for rows in ("num_tokens", used_tokens))
_SELECTION = (normal("num_tokens", "topk", dtype=ID), normal("num_tokens", "topk", dtype=VECTOR))
_PLAN = (*HOMES, COUNTS_AND_OFFSETS)
_DISPATCHED = (normal(rows_of_rank, "hidden_size"), *_PLAN)
_SCATTERED = (*quantised(rows_of_rank, "hidden_size"), *_PLAN)


def dispatched(routing: Routing, selected: Tensor, weights: Tensor) -> Tensors:
    """token id and weight of the rank's rows, expert after expert; counts and offsets of its experts. Computed
    from the selection: the routing only says how many rows there will be."""
    here, flat = len(routing.counts), selected.flatten().long() - routing.first
    key = torch.where((flat >= 0) & (flat < here), flat, here)
    order = key.argsort(stable=True)[: routing.rows]
    counts = torch.zeros(here + 1, dtype=torch.int32, device=flat.device).scatter_add_(0, key, torch.ones_like(key, dtype=torch.int32))[:-1]
    offsets = (counts.cumsum(0) - counts).int()
    return (order // selected.shape[1]).int(), weights.flatten()[order], counts, offsets


def _dispatch_kernel(args: Args) -> Run:
    routing = Routing.of(args)

    def moe_dispatch_local(x: Tensor, selected: Tensor, weights: Tensor) -> Tensors:
        token, weight, counts, offsets = dispatched(routing, selected, weights)
        return x[token], token, weight, counts, offsets

    return moe_dispatch_local


def _in_row_order(args: Args, token: Tensor, weight: Tensor, counts: Tensor, offsets: Tensor) -> tuple[Tensor | slice, Tensors]:
    """Rows of an expert may come in any order: by expert, then by token; and the plan in that order."""
    rows, order = token.shape[0], slice(None)
    if int(counts.sum()) == rows:  # else it is wrong anyway
        order = (expert_of_rows(counts, rows) * args["num_tokens"] + token.long()).argsort()
    return order, (token[order], weight[order], counts, offsets)


def _dispatch_comparable(args: Args, _inputs: Tensors, outputs: Outputs) -> Tensors:
    x, *plan = outputs
    order, ordered_plan = _in_row_order(args, *plan)
    return (x[order], *ordered_plan)


def _plan(args: Args, selected: Tensor, weights: Tensor) -> Tensors:
    """The reference of `dispatched`, with numpy and another algorithm: expert by expert. Also each row's expert."""
    routing, chosen, given = Routing.of(args), selected.cpu().numpy(), weights.cpu().numpy()
    places = [numpy.nonzero(chosen == routing.first + expert) for expert in range(len(routing.counts))]
    counts = numpy.array([len(token) for token, _ in places])
    tokens, kept = numpy.concatenate([token for token, _ in places]), numpy.concatenate([given[place] for place in places])
    experts: numpy.ndarray = numpy.repeat(numpy.arange(len(counts)), counts)
    return tuple(map(torch.from_numpy, (tokens, kept, counts, numpy.cumsum(counts) - counts, experts)))


def _dispatch_reference(args: Args, inputs: Tensors) -> Tensors:
    x, selected, weights = inputs
    token, weight, counts, offsets, _ = _plan(args, selected, weights)
    return x[token], token, weight, counts, offsets


MOE_DISPATCH_LOCAL = Operator(
    name="moe_dispatch_local",
    help="of [num_tokens, hidden_size] the rows for this rank's experts, expert after expert, with ids, weights, counts",
    arguments=(TOKENS, HIDDEN, *MOE_ARGUMENTS, dtype_argument((*ACTIVATIONS, "int8"), default="bfloat16")),
    inputs=lambda args, make: (_TOKENS.draw(args, make), *selected_experts(Routing.of(args), make)),
    kernel=_dispatch_kernel,
    reference=_dispatch_reference,
    cost=moved((_USED_TOKENS, *_SELECTION), _DISPATCHED, held=(_TOKENS, *_SELECTION, *_DISPATCHED)),
    check=check_moe,
    comparable=_dispatch_comparable,
    aliases={"world_size": "ep_size"},
)


def _scatter_inputs(args: Args, make: Maker) -> Tensors:
    return (*drawn(_TOKENS, SMOOTH)(args, make), *selected_experts(Routing.of(args), make))


def _scatter_kernel(args: Args) -> Run:
    routing, dst_dtype = Routing.of(args), args["dst_dtype"]

    def moe_scatter_dynamic_quant(x: Tensor, smooth: Tensor, selected: Tensor, weights: Tensor) -> Tensors:
        token, weight, counts, offsets = dispatched(routing, selected, weights)
        values, scale = quantise(x[token].float(), smooth[expert_of_rows(counts, routing.rows)], dst_dtype)
        return values, scale, token, weight, counts, offsets

    return moe_scatter_dynamic_quant


def _scatter_reference(args: Args, inputs: Tensors) -> tuple[Tensor | Sample, ...]:
    x, smooth, selected, weights = inputs
    token, weight, counts, offsets, expert = _plan(args, selected, weights)
    rows = spread_rows(len(token), args["hidden_size"], REFERENCE_VALUES)
    quotients = exact_quotients(x[token[rows]], smooth[expert[rows]], args["dst_dtype"])
    return (*(Sample(rows, part) for part in quotients), token, weight, counts, offsets)


def _scatter_comparable(args: Args, _inputs: Tensors, outputs: Outputs) -> Tensors:
    values, scale, *plan = outputs
    order, ordered_plan = _in_row_order(args, *plan)
    by_byte = values.view(dtype=torch_dtype("uint8"))[order].view(values.dtype)
    return (by_byte, scale[order], *ordered_plan)


MOE_SCATTER_DYNAMIC_QUANT = Operator(
    name="moe_scatter_dynamic_quant",
    help="moe_dispatch_local with each row times its expert's smooth factors, quantised",
    arguments=(TOKENS, HIDDEN, *MOE_ARGUMENTS, HALF_PRECISION, DST_DTYPE),
    inputs=_scatter_inputs,
    kernel=_scatter_kernel,
    reference=_scatter_reference,
    cost=moved(
        (_USED_TOKENS, *_SELECTION, _USED_SMOOTH),
        _SCATTERED,
        *(QUANT_FLOPS, rows_of_rank, "hidden_size"),
        held=(_TOKENS, SMOOTH, *_SELECTION, *_SCATTERED),
    ),
    tolerance=lambda args: (*quant_tolerances(args["dtype"], args["dst_dtype"]), EXACT, EXACT, EXACT, EXACT),
    check=check_moe,
    comparable=_scatter_comparable,
)


# --- moe_swiglu, moe_swiglu_dynamic_quant ---------------------------------------------------------------------

_GATE_AND_UP, _GATED = normal(rows_of_rank, times(2, "hidden_size")), normal(rows_of_rank, "hidden_size")
_GATED_QUANT = quantised(*_GATED.sizes)

MOE_SWIGLU = Operator(
    name="moe_swiglu",
    help="swiglu of the rank's rows [rows, 2·hidden_size]",
    arguments=(TOKENS, HIDDEN, *MOE_ARGUMENTS, HALF_PRECISION),
    kernel=lambda _args: swiglu,
    reference=lambda _args, inputs: swiglu(inputs[0].double()),
    **streamed((_GATE_AND_UP,), (_GATED,), SWIGLU_FLOPS, *_GATED.sizes),
    tolerance=lambda args: rounding(args["dtype"], roundings=3, units=8),
    check=check_moe,
)


def _gated_quant_kernel(args: Args) -> Run:
    dst_dtype, rows = args["dst_dtype"], rows_of_rank(args)
    return lambda x, smooth, counts, _offsets: quantise(swiglu(x.float()), smooth[expert_of_rows(counts, rows)], dst_dtype)


def _gated_quant_reference(args: Args, inputs: Tensors) -> Tensors:
    x, smooth, counts, _ = wide(inputs)
    return exact_quotients(swiglu(x), smooth.repeat_interleave(counts, 0), args["dst_dtype"])


MOE_SWIGLU_DYNAMIC_QUANT = Operator(
    name="moe_swiglu_dynamic_quant",
    help="swiglu of the rank's rows, times their expert's smooth factors, quantised",
    arguments=(TOKENS, HIDDEN, *MOE_ARGUMENTS, HALF_PRECISION, DST_DTYPE),
    inputs=lambda args, make: (*drawn(_GATE_AND_UP, SMOOTH)(args, make), *counts_and_offsets(Routing.of(args), make)),
    kernel=_gated_quant_kernel,
    reference=_gated_quant_reference,
    cost=moved(
        (_GATE_AND_UP, _USED_SMOOTH, COUNTS_AND_OFFSETS),
        _GATED_QUANT,
        *(SWIGLU_FLOPS + QUANT_FLOPS, *_GATED.sizes),
        held=(_GATE_AND_UP, SMOOTH, COUNTS_AND_OFFSETS, *_GATED_QUANT),
    ),
    tolerance=lambda args: quant_tolerances(args["dtype"], args["dst_dtype"]),
    check=check_moe,
)
MOE = (MOE_SOFTMAX_TOPK, MOE_DISPATCH_LOCAL, MOE_SCATTER_DYNAMIC_QUANT, MOE_SWIGLU, MOE_SWIGLU_DYNAMIC_QUANT)
