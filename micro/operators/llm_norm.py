"""Norms and gates between the products of a transformer.

FLOPs for each value: rms norm 4 (square, add, multiply by the root's inverse, multiply by the weight), residual
1, swiglu 2 (silu is one special function, then a product).
num_tokens is over all `sp_size` ranks of sequence parallelism; one rank has its share.
"""

from __future__ import annotations

from bytemlperf.lazy import torch
from micro.operators.contract import Args, Argument, Maker, Operator, Run, Tensor, Tensors, dtype_argument, rounding, torch_dtype, wide
from micro.operators.norm import EPSILON, rms_normalised, row_units
from micro.operators.tensors import ACTIVATIONS, TensorSpec, drawn, moved, normal, streamed, times, uniform

TOKENS = Argument("num_tokens", "int", "tokens of all ranks")
SP_SIZE = Argument("sp_size", "int", "ranks that share the tokens", 1)
HIDDEN = Argument("hidden_size", "int", "values of a token")
NORM_FLOPS, RESIDUAL_FLOPS, SWIGLU_FLOPS = 4, 1, 2
VECTOR = "float32"
_FLOATS = dtype_argument(ACTIVATIONS)


def tokens_of_rank(args: Args) -> int:
    """num_tokens over sp_size."""
    return int(args["num_tokens"] // args["sp_size"])


def check_tokens(args: Args) -> str:
    """At least one token for a rank."""
    return "" if tokens_of_rank(args) else f"sp_size={args['sp_size']} ranks share num_tokens={args['num_tokens']}"


X, FACTORS = normal(tokens_of_rank, "hidden_size"), uniform("hidden_size", dtype=VECTOR)
"""A rank's tokens, and float32 weights or smooth factors of their values."""
GATE_AND_UP = normal(tokens_of_rank, times(2, "hidden_size"))


def swiglu(x: Tensor) -> Tensor:
    """silu of the first half of the last dimension, times the second half."""
    gate, up = x.chunk(2, -1)
    return torch.nn.functional.silu(gate) * up


def _add_kernel(args: Args) -> Run:
    shape, rms_norm = (args["hidden_size"],), torch.nn.functional.rms_norm

    def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor) -> Tensors:
        after = x + residual
        return after, rms_norm(after, shape, weight, EPSILON)

    return add_rms_norm


def _add_reference(_args: Args, inputs: Tensors) -> Tensors:
    x, residual, weight = wide(inputs)
    return x + residual, rms_normalised(x + residual, weight)


ADD_RMS_NORM = Operator(
    name="add_rms_norm",
    help="x + residual, and its rms norm, over [num_tokens/sp_size, hidden_size]",
    arguments=(TOKENS, HIDDEN, SP_SIZE, _FLOATS),
    kernel=_add_kernel,
    reference=_add_reference,
    **streamed((X, X, uniform("hidden_size")), (X, X), RESIDUAL_FLOPS + NORM_FLOPS, *X.sizes),
    tolerance=lambda args: rounding(args["dtype"], roundings=3, units=row_units(args["hidden_size"])),
    check=check_tokens,
)


# --- norms of heads, in place ---------------------------------------------------------------------------------


def _signs(make: Maker, *shape: int, dtype: str) -> Tensor:
    """Weights of ±1: norms in place are called on their own results, and other weights would let values decay to
    subnormal numbers, which a CPU handles slowly."""
    return make.integers(0, 2, *shape, dtype="int32").to(torch_dtype(dtype)) * 2 - 1


def _norm_in_place(heads: Tensor, weight: Tensor) -> None:
    heads.copy_(torch.nn.functional.rms_norm(heads.float(), (heads.shape[-1],), weight, EPSILON))


_HEADS = normal(tokens_of_rank, "total_head_num", "head_dim", scale=2.0)
_NORMED_HEADS = normal(tokens_of_rank, "norm_head_num", "head_dim")
_HEAD_SIGNS = TensorSpec(("head_dim",), VECTOR, _signs)


def _normed_heads(args: Args) -> slice:
    return slice(args["norm_head_start"], args["norm_head_start"] + args["norm_head_num"])


def _head_check(args: Args) -> str:
    heads = _normed_heads(args)
    if heads.stop > args["total_head_num"]:
        return f"heads {heads.start} to {heads.stop - 1} of {args['total_head_num']}"
    return check_tokens(args)


def _head_kernel(args: Args) -> Run:
    heads = _normed_heads(args)

    def head_rms_norm(data: Tensor, weight: Tensor) -> Tensor:
        _norm_in_place(data[:, heads], weight)
        return data

    return head_rms_norm


def _head_reference(args: Args, inputs: Tensors) -> Tensor:
    data, weight = wide(inputs)
    result, heads = data.clone(), _normed_heads(args)
    result[:, heads] = rms_normalised(data[:, heads], weight)
    return result


HEAD_RMS_NORM = Operator(
    name="head_rms_norm",
    writes=(0,),
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
    inputs=drawn(_HEADS, _HEAD_SIGNS),
    kernel=_head_kernel,
    reference=_head_reference,
    cost=moved((_NORMED_HEADS, _HEAD_SIGNS), (_NORMED_HEADS,), NORM_FLOPS, *_NORMED_HEADS.sizes, held=(_HEADS, _HEAD_SIGNS)),
    tolerance=lambda args: rounding(args["dtype"], units=16),
    check=_head_check,
)


def _q_end(args: Args) -> int:
    return int(args["q_head_num"] * args["qk_head_dim"])


def _k_end(args: Args) -> int:
    return int(_q_end(args) + args["kv_head_num"] * args["qk_head_dim"])


_PACKED = normal(tokens_of_rank, lambda args: _k_end(args) + args["kv_head_num"] * (args["v_head_dim"] or args["qk_head_dim"]), scale=2.0)
_Q_AND_K = normal(tokens_of_rank, _k_end)
_QK_SIGNS = TensorSpec(("qk_head_dim",), VECTOR, _signs)


def _qk_kernel(args: Args) -> Run:
    q_end, k_end, q_heads, k_heads = _q_end(args), _k_end(args), args["q_head_num"], args["kv_head_num"]

    def qk_rms_norm(data: Tensor, q_weight: Tensor, k_weight: Tensor) -> Tensor:
        _norm_in_place(data[:, :q_end].unflatten(-1, (q_heads, -1)), q_weight)
        _norm_in_place(data[:, q_end:k_end].unflatten(-1, (k_heads, -1)), k_weight)
        return data

    return qk_rms_norm


def _qk_reference(args: Args, inputs: Tensors) -> Tensor:
    data, q_weight, k_weight = wide(inputs)
    result, q_end, k_end = data.clone(), _q_end(args), _k_end(args)
    result[:, :q_end] = rms_normalised(data[:, :q_end].unflatten(-1, (args["q_head_num"], -1)), q_weight).flatten(1)
    result[:, q_end:k_end] = rms_normalised(data[:, q_end:k_end].unflatten(-1, (args["kv_head_num"], -1)), k_weight).flatten(1)
    return result


QK_RMS_NORM = Operator(
    name="qk_rms_norm",
    writes=(0,),
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
    inputs=drawn(_PACKED, _QK_SIGNS, _QK_SIGNS),
    kernel=_qk_kernel,
    reference=_qk_reference,
    cost=moved((_Q_AND_K, _QK_SIGNS, _QK_SIGNS), (_Q_AND_K,), NORM_FLOPS, *_Q_AND_K.sizes, held=(_PACKED, _QK_SIGNS, _QK_SIGNS)),
    tolerance=lambda args: rounding(args["dtype"], units=16),
    check=check_tokens,
)
SWIGLU = Operator(
    name="swiglu",
    help="silu(first half) · second half of [num_tokens/sp_size, 2·hidden_size]",
    arguments=(TOKENS, HIDDEN, SP_SIZE, _FLOATS),
    kernel=lambda _args: swiglu,
    reference=lambda _args, inputs: swiglu(inputs[0].double()),
    **streamed((GATE_AND_UP,), (X,), SWIGLU_FLOPS, *X.sizes),
    tolerance=lambda args: rounding(args["dtype"], roundings=3, units=8),
    check=check_tokens,
)
LLM_NORMS = (ADD_RMS_NORM, HEAD_RMS_NORM, QK_RMS_NORM, SWIGLU)
