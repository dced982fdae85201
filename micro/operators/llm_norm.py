"""Norms and gates between the products of a transformer.

FLOPs for each value: rms norm 4 (square, add, multiply by the root's inverse, multiply by the weight), residual
1, swiglu 2 (silu is one special function, then a product).
num_tokens is over all `sp_size` ranks of sequence parallelism; one rank has its share.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from micro.operators.contract import Args, Argument, Cost, Maker, Operator, Tensors, dtype_argument, rounding, wide
from micro.operators.dtypes import size_bytes
from micro.operators.norm import EPSILON, rms_normalised, row_units

TOKENS = Argument("num_tokens", "int", "tokens of all ranks")
SP_SIZE = Argument("sp_size", "int", "ranks that share the tokens", 1)
HIDDEN = Argument("hidden_size", "int", "values of a token")
NORM_FLOPS, RESIDUAL_FLOPS, SWIGLU_FLOPS = 4, 1, 2
VECTOR = "float32"
_FLOATS = dtype_argument(("bfloat16", "float16", "float32"))
_BASIC: dict[str, Any] = {"num_tokens": [16, 256], "hidden_size": 2048}


def tokens_of_rank(args: Args) -> int:
    """num_tokens over sp_size."""
    return int(args["num_tokens"] // args["sp_size"])


def check_tokens(args: Args) -> str:
    """At least one token for a rank."""
    return "" if tokens_of_rank(args) else f"sp_size={args['sp_size']} ranks share num_tokens={args['num_tokens']}"


def swiglu(x: Any) -> Any:
    """silu of the first half of the last dimension, times the second half."""
    from torch.nn.functional import silu

    gate, up = x.chunk(2, -1)
    return silu(gate) * up


def factors(make: Maker, *shape: int) -> Any:
    """float32 weights or smooth factors around 1."""
    return make.uniform(0.5, 1.5, *shape)


# --- add_rms_norm ---------------------------------------------------------------------------------------------


def _add_inputs(args: Args, make: Maker) -> Tensors:
    rows, width, dtype = tokens_of_rank(args), args["hidden_size"], args["dtype"]
    return make.normal(rows, width, dtype=dtype), make.normal(rows, width, dtype=dtype), make.uniform(0.5, 1.5, width, dtype=dtype)


def _add_kernel(args: Args) -> Callable[..., Any]:
    from torch.nn.functional import rms_norm

    shape = (args["hidden_size"],)

    def add_rms_norm(x: Any, residual: Any, weight: Any) -> Any:
        after = x + residual
        return after, rms_norm(after, shape, weight, EPSILON)

    return add_rms_norm


def _add_reference(_args: Args, inputs: Tensors) -> Any:
    x, residual, weight = wide(inputs)
    return x + residual, rms_normalised(x + residual, weight)


def _add_cost(args: Args) -> Cost:
    count, dtype = tokens_of_rank(args) * args["hidden_size"], args["dtype"]
    moved = size_bytes(dtype, 2 * count)
    return Cost((RESIDUAL_FLOPS + NORM_FLOPS) * count, moved + size_bytes(dtype, args["hidden_size"]), moved, flops_dtype=dtype)


ADD_RMS_NORM = Operator(
    name="add_rms_norm",
    family="llm",
    help="x + residual, and its rms norm, over [num_tokens/sp_size, hidden_size]",
    arguments=(TOKENS, HIDDEN, SP_SIZE, _FLOATS),
    inputs=_add_inputs,
    kernel=_add_kernel,
    reference=_add_reference,
    cost=_add_cost,
    tolerance=lambda args: rounding(args["dtype"], roundings=3, units=row_units(args["hidden_size"])),
    check=check_tokens,
    basic=({"dtype": ["float32", "bfloat16"], **_BASIC},),
)


# --- norms of heads, in place ---------------------------------------------------------------------------------


def _signs(make: Maker, count: int) -> Any:
    """Weights of ±1: norms in place are called on their own results, and other weights would let values decay to
    subnormal numbers, which a CPU handles slowly."""
    return make.integers(0, 2, count, dtype="int32").float() * 2 - 1


def _norm_in_place(heads: Any, weight: Any) -> None:
    from torch.nn.functional import rms_norm

    heads.copy_(rms_norm(heads.float(), (heads.shape[-1],), weight, EPSILON))


def _head_check(args: Args) -> str:
    if args["norm_head_start"] + args["norm_head_num"] > args["total_head_num"]:
        return f"heads {args['norm_head_start']} to {args['norm_head_start'] + args['norm_head_num'] - 1} of {args['total_head_num']}"
    return check_tokens(args)


def _head_inputs(args: Args, make: Maker) -> Tensors:
    data = make.normal(tokens_of_rank(args), args["total_head_num"], args["head_dim"], dtype=args["dtype"], scale=2.0)
    return data, _signs(make, args["head_dim"])


def _head_kernel(args: Args) -> Callable[..., Any]:
    start, end = args["norm_head_start"], args["norm_head_start"] + args["norm_head_num"]

    def head_rms_norm(data: Any, weight: Any) -> Any:
        _norm_in_place(data[:, start:end], weight)
        return data

    return head_rms_norm


def _head_reference(args: Args, inputs: Tensors) -> Any:
    data, weight = wide(inputs)
    result, heads = data.clone(), slice(args["norm_head_start"], args["norm_head_start"] + args["norm_head_num"])
    result[:, heads] = rms_normalised(data[:, heads], weight)
    return result


def _in_place_cost(args: Args, normed: int, held: int, weights: int) -> Cost:
    moved, vectors = size_bytes(args["dtype"], normed), size_bytes(VECTOR, weights)
    return Cost(NORM_FLOPS * normed, moved + vectors, moved, size_bytes(args["dtype"], held) + vectors, flops_dtype=args["dtype"])


def _head_cost(args: Args) -> Cost:
    values = tokens_of_rank(args) * args["head_dim"]
    return _in_place_cost(args, values * args["norm_head_num"], values * args["total_head_num"], args["head_dim"])


HEAD_RMS_NORM = Operator(
    name="head_rms_norm",
    writes=(0,),
    family="llm",
    help="rms norm of norm_head_num heads from norm_head_start of [num_tokens/sp_size, total_head_num, head_dim], in place",
    arguments=(
        TOKENS,
        Argument("total_head_num", "int", "heads of a token"),
        Argument("head_dim", "int", "values of a head"),
        Argument("norm_head_start", "int", "first head to norm", low=0),
        Argument("norm_head_num", "int", "heads to norm"),
        SP_SIZE,
        _FLOATS,
    ),
    inputs=_head_inputs,
    kernel=_head_kernel,
    reference=_head_reference,
    cost=_head_cost,
    tolerance=lambda args: rounding(args["dtype"], units=16),
    check=_head_check,
    basic=(
        {
            "dtype": ["float32", "bfloat16"],
            "num_tokens": 256,
            "total_head_num.norm_head_start.norm_head_num.head_dim": [[40, 32, 4, 128]],
        },
    ),
)


def _qk_dims(args: Args) -> tuple[int, int, int]:
    """Values of a token: of q, of q and k, of q, k and v."""
    q, k = args["q_head_num"] * args["qk_head_dim"], args["kv_head_num"] * args["qk_head_dim"]
    return q, q + k, q + k + args["kv_head_num"] * (args["v_head_dim"] or args["qk_head_dim"])


def _qk_inputs(args: Args, make: Maker) -> Tensors:
    data = make.normal(tokens_of_rank(args), _qk_dims(args)[2], dtype=args["dtype"], scale=2.0)
    return data, _signs(make, args["qk_head_dim"]), _signs(make, args["qk_head_dim"])


def _qk_kernel(args: Args) -> Callable[..., Any]:
    (q_end, k_end, _), q_heads, k_heads = _qk_dims(args), args["q_head_num"], args["kv_head_num"]

    def qk_rms_norm(data: Any, q_weight: Any, k_weight: Any) -> Any:
        _norm_in_place(data[:, :q_end].unflatten(-1, (q_heads, -1)), q_weight)
        _norm_in_place(data[:, q_end:k_end].unflatten(-1, (k_heads, -1)), k_weight)
        return data

    return qk_rms_norm


def _qk_reference(args: Args, inputs: Tensors) -> Any:
    data, q_weight, k_weight = wide(inputs)
    result, (q_end, k_end, _) = data.clone(), _qk_dims(args)
    result[:, :q_end] = rms_normalised(data[:, :q_end].unflatten(-1, (args["q_head_num"], -1)), q_weight).flatten(1)
    result[:, q_end:k_end] = rms_normalised(data[:, q_end:k_end].unflatten(-1, (args["kv_head_num"], -1)), k_weight).flatten(1)
    return result


def _qk_cost(args: Args) -> Cost:
    rows, (_, normed, total) = tokens_of_rank(args), _qk_dims(args)
    return _in_place_cost(args, rows * normed, rows * total, 2 * args["qk_head_dim"])


QK_RMS_NORM = Operator(
    name="qk_rms_norm",
    writes=(0,),
    family="llm",
    help="rms norm of every q and k head of packed [num_tokens/sp_size, q, k, v], in place",
    arguments=(
        TOKENS,
        Argument("q_head_num", "int", "heads of q"),
        Argument("kv_head_num", "int", "heads of k and of v"),
        Argument("qk_head_dim", "int", "values of a head of q or k"),
        Argument("v_head_dim", "int", "values of a head of v; 0 is qk_head_dim", 0, low=0),
        SP_SIZE,
        _FLOATS,
    ),
    inputs=_qk_inputs,
    kernel=_qk_kernel,
    reference=_qk_reference,
    cost=_qk_cost,
    tolerance=lambda args: rounding(args["dtype"], units=16),
    check=check_tokens,
    basic=({"dtype": ["float32", "bfloat16"], "num_tokens": 256, "q_head_num.kv_head_num.qk_head_dim": [[32, 8, 128]]},),
)


# --- gate -----------------------------------------------------------------------------------------------------


def _swiglu_inputs(args: Args, make: Maker) -> Tensors:
    return (make.normal(tokens_of_rank(args), 2 * args["hidden_size"], dtype=args["dtype"]),)


def _swiglu_cost(args: Args) -> Cost:
    count, dtype = tokens_of_rank(args) * args["hidden_size"], args["dtype"]
    return Cost(SWIGLU_FLOPS * count, size_bytes(dtype, 2 * count), size_bytes(dtype, count), flops_dtype=dtype)


SWIGLU = Operator(
    name="swiglu",
    family="llm",
    help="silu(first half) · second half of [num_tokens/sp_size, 2·hidden_size]",
    arguments=(TOKENS, HIDDEN, SP_SIZE, _FLOATS),
    inputs=_swiglu_inputs,
    kernel=lambda _args: swiglu,
    reference=lambda _args, inputs: swiglu(inputs[0].double()),
    cost=_swiglu_cost,
    tolerance=lambda args: rounding(args["dtype"], roundings=3, units=8),
    check=check_tokens,
    basic=({"dtype": ["float32", "bfloat16"], **_BASIC},),
)


LLM_NORMS = {operator.name: operator for operator in (ADD_RMS_NORM, HEAD_RMS_NORM, QK_RMS_NORM, SWIGLU)}
