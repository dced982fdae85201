"""Causal attention of new tokens over a key and value cache that holds them already.

Token i of q_len sees cache_len + i + 1 keys. With p = q·kᵀ/√head_dim and softmax(p)·v, FLOPs are
4 · q_head_num · head_dim · Σ q_len·(2·cache_len + q_len + 1)/2 over sequences (ByteMLPerf counts the same); with
is_causal false q_len·kv_len. Bytes are q, every sequence's keys and values once, and the result.

The plain expression keeps the scores of some rows at a time, so that long prompts fit into memory. Compute
dtypes other than the activations' say whose peak the FLOPs count against and how far a result may be
off; torch itself multiplies in the dtype of `compute_type` and the row's note says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from bytemlperf.lazy import torch
from micro.operators.contract import (
    SMALLEST,
    Args,
    Argument,
    Maker,
    Operator,
    Run,
    SameAs,
    Sample,
    Tensor,
    Tensors,
    Tolerance,
    dtype_argument,
    torch_dtype,
    units_of,
)
from micro.operators.kv_cache import (
    BLOCK_SIZE,
    CACHES,
    HEADS,
    SEQUENCES,
    Sequences,
    cache_scale,
    cache_values,
    check_sequences,
    longest,
    new_tokens,
    quantised_normal,
    random_cache,
    scales_of,
)
from micro.operators.product import LARGEST, as_stored
from micro.operators.tensors import ACTIVATIONS, TensorSpec, moved, normal, spread_rows

if TYPE_CHECKING:
    from torch import dtype as TorchDtype

SCORES_BYTES = 64 << 20
"""Scores that the plain expression holds at a time, in float32."""

NEWEST_SCORE = 2.0
"""What a new token's own key has beyond a random one's score, whose standard deviation is 1."""

SPLIT_KEYS = 256
"""Keys of a part in flash_decoding."""


class One(NamedTuple):
    """One sequence of a case: q [q heads, q_len, head_dim], k and v [kv heads, kv_len, head_dim], all of one dtype."""

    q: Tensor
    k: Tensor
    v: Tensor
    cached: int


def compute_type(args: Args) -> str:
    """In what the plain expression multiplies: the activations' dtype, the result's where those are quantised."""
    return str(args["dst_dtype"] if args["dtype"] in LARGEST else args["dtype"])


Q = TensorSpec((new_tokens, "q_head_num", "head_dim"), "dtype", quantised_normal)


def make_inputs(args: Args, make: Maker) -> Tensors:
    """q, k_cache, v_cache, block_table, then k_scale and v_scale of a quantised cache, q_scale of quantised q."""
    sequences, q = Sequences.of(args), Q.draw(args, make)
    k_cache, v_cache = random_cache(args, make, sequences), random_cache(args, make, sequences)
    scales = [cache_scale(args, make), cache_scale(args, make)] if args["cache_dtype"] in LARGEST else []
    if args["dtype"] in LARGEST:
        scales.append(scales_of(make, args["dtype"], *q.shape[:2]))
    table = sequences.block_table(make)
    real_q = q.float() * scales[2][..., None] if args["dtype"] in LARGEST else q.float()
    _let_newest_count(args, k_cache, sequences.slots(make, table), real_q, scales[0] if scales else None)
    return (q, k_cache, v_cache, table, *scales)


def _let_newest_count(args: Args, k_cache: Tensor, slots: Tensor, q: Tensor, scale: Tensor | None) -> None:
    """Turn each new token's own key towards its queries: it weighs some times as much as another then, so that a kernel that
    leaves it out is off by more than rounding in a long cache too."""
    group, size = args["q_head_num"] // args["kv_head_num"], k_cache.shape[2]
    slot = slots // size, slice(None), slots % size
    mean = q.unflatten(1, (-1, group)).mean(2)
    towards = mean * (NEWEST_SCORE * args["head_dim"] ** 0.5 / mean.square().sum(-1, keepdim=True))
    before = k_cache[slot].float()
    k_cache[slot] = (before + towards).to(k_cache.dtype) if scale is None else as_stored(before + towards / scale, args["cache_dtype"])


def each_sequence(args: Args, tensors: Tensors, dtype: TorchDtype) -> Iterator[One]:
    """The case's sequences with real values of `dtype`: gathered from the blocks, scaled where quantised."""
    sequences = Sequences.of(args)
    q, k_cache, v_cache, table, *scales = tensors
    q_scale = scales.pop() if args["dtype"] in LARGEST else None
    for row, (start, new, length) in enumerate(zip(sequences.starts, sequences.query, sequences.lengths, strict=True)):
        mine = q[start : start + new].transpose(0, 1)
        if q_scale is not None:
            mine = mine.to(q_scale.dtype) * q_scale[start : start + new].t()[..., None]
        used = -(-length // sequences.block_size)
        if sequences.blocks_per_sequence == 1:  # its block's number is its own: a view, no gather
            kept = [cache[row, :, :length] for cache in (k_cache, v_cache)]
        else:
            kept = [cache[table[row, :used]].transpose(0, 1).flatten(1, 2)[:, :length] for cache in (k_cache, v_cache)]
        if scales:
            kept = [part.to(scale.dtype) * scale[:, None] for part, scale in zip(kept, scales, strict=True)]
        yield One(mine.to(dtype), kept[0].to(dtype), kept[1].to(dtype), length - new)


def _check(args: Args) -> str:
    if args["q_lens"] == [] and args["attn_mode"] == "decode" and args["q_len"] > 64:
        return f"q_len={args['q_len']} is not a decode step"
    if args["dtype"] in LARGEST and args["cache_dtype"] != args["dtype"]:
        return f"dtype={args['dtype']} needs a cache of the same, not {args['cache_dtype']}"
    if args["cache_dtype"] in ACTIVATIONS and args["cache_dtype"] != args["dtype"]:
        return f"cache_dtype={args['cache_dtype']} is neither dtype={args['dtype']} nor one of {', '.join(LARGEST)}"
    if args["dtype"] in ACTIVATIONS and args["dst_dtype"] != args["dtype"]:
        return f"dst_dtype={args['dst_dtype']} is not dtype={args['dtype']}"
    return check_sequences(args)


def rows_attended(one: One, first: int, last: int, causal: bool) -> Tensor:
    """Plain attention of q rows first to last − 1: [q heads, rows, head_dim]. Scores and softmax in float32 or better."""
    kv_heads, length, dim = one.k.shape
    q = one.q[:, first:last].reshape(kv_heads, -1, dim)  # heads of a group share their keys: one product
    scores = (q @ one.k.transpose(1, 2)) * dim**-0.5
    scores = scores if scores.dtype == torch.float64 else scores.float()
    if causal:
        limit = one.cached + torch.arange(first, last, device=q.device)
        hidden = torch.arange(length, device=q.device) > limit[:, None]
        scores = scores.unflatten(1, (-1, last - first)).masked_fill(hidden, float("-inf")).flatten(1, 2)
    return (scores.softmax(-1).to(one.v.dtype) @ one.v).reshape(one.q.shape[0], last - first, dim)


def _plain(one: One, causal: bool) -> Tensor:
    """[q_len, q heads, head_dim], some rows at a time."""
    heads, rows, _ = one.q.shape
    step = max(1, SCORES_BYTES // (4 * heads * one.k.shape[1]))
    parts = [rows_attended(one, first, min(first + step, rows), causal) for first in range(0, rows, step)]
    return torch.cat(parts, 1).transpose(0, 1)


def _sequence_by_sequence(attend: Callable[[One, bool], Tensor]) -> Callable[[Args], Run]:
    """The kernel that computes each sequence by `attend(one, causal)`."""

    def kernel(args: Args) -> Run:
        causal, dtype, result = args["is_causal"], torch_dtype(compute_type(args)), torch_dtype(args["dst_dtype"])
        cat = torch.cat
        return lambda *tensors: cat([attend(one, causal) for one in each_sequence(args, tensors, dtype)]).to(result)

    return kernel


def _reference(args: Args, inputs: Tensors) -> Sample:
    """float64, of evenly spread tokens where all would cost too much."""
    sequences = Sequences.of(args)
    chosen = spread_rows(sequences.tokens, 4 * args["q_head_num"] * args["head_dim"] * longest(args))
    exact_scales, parts = (scale.double() for scale in inputs[4:]), []
    ones = each_sequence(args, (*inputs[:4], *exact_scales), torch.float64)
    for start, new, one in zip(sequences.starts, sequences.query, ones, strict=True):
        rows = chosen[(chosen >= start) & (chosen < start + new)] - start
        step = max(1, SCORES_BYTES // (8 * one.q.shape[0] * one.k.shape[1]))
        if len(rows) == new:
            spans = [(first, min(first + step, new)) for first in range(0, new, step)]
        else:
            spans = [(row, row + 1) for row in rows.tolist()]
        parts += [rows_attended(one, first, last, args["is_causal"]).transpose(0, 1) for first, last in spans]
    return Sample(chosen, torch.cat(parts))


def pairs(args: Args) -> int:
    """Pairs of a new token and a key that it sees, over all sequences."""
    sequences = Sequences.of(args)
    both = list(zip(sequences.query, sequences.cached, strict=True))
    if args["is_causal"]:
        return sum(new * (2 * old + new + 1) // 2 for new, old in both)
    return sum(new * (old + new) for new, old in both)


def _used_blocks(args: Args) -> int:
    sequences = Sequences.of(args)
    return sum(-(-length // sequences.block_size) for length in sequences.lengths)


_BESIDE_CACHE = (
    Q,
    normal(_used_blocks, dtype="int32"),
    normal(2, "kv_head_num", "head_dim", dtype="float32")._replace(present=lambda args: args["cache_dtype"] in LARGEST),
    normal(new_tokens, "q_head_num", dtype="float32")._replace(present=lambda args: args["dtype"] in LARGEST),
)
_KEYS_AND_VALUES = normal(2, lambda args: sum(Sequences.of(args).lengths), "kv_head_num", "head_dim", dtype="cache_dtype")
_CACHES, _RESULT = normal(2, cache_values, dtype="cache_dtype"), Q._replace(dtype="dst_dtype")
_COST = moved(
    (*_BESIDE_CACHE, _KEYS_AND_VALUES),
    (_RESULT,),
    *(4, "q_head_num", "head_dim", pairs),
    flops_dtype="qk_compute_dtype",
    held=(*_BESIDE_CACHE, _RESULT, _CACHES),
)


def _tolerance(args: Args) -> Tolerance:
    """A result is an average that is the smaller, the more keys there are, and every weight's error is a share of the weight:
    all errors follow the row's scale. They are one rounding each of scores (up to 8, so of some 1 % in bfloat16 where a kernel
    rounds them at all), weights and result, and sums in float32; where q or the weights are quantised, what that loses."""
    unit, sum_unit = units_of(args["dst_dtype"])
    sums = sum_unit * (4 + args["head_dim"] ** 0.5 + longest(args) ** 0.5)
    lost = LOSS.get(args["pv_compute_dtype"], 0.0)
    if args["qk_compute_dtype"] != args["dtype"]:
        lost += LOSS.get(args["qk_compute_dtype"], 0.0)
    return Tolerance(unit + 2 * sum_unit, SMALLEST.get(args["dst_dtype"], 0.0), 12 * unit + 6 * (sums + lost), 4 * unit + sums + lost)


LOSS = {"int8": 4 / 127, "float8_e4m3": 0.0375}
"""Of a row's scale, root mean square: weights or q in steps of 1/127 of the largest, or rounded to three bits, and half again."""


def _emulation(args: Args, _device: str) -> str:
    used, real = {args["qk_compute_dtype"], args["pv_compute_dtype"]}, compute_type(args)
    emulated = sorted(used - {real})
    return f"{' and '.join(emulated)} products are emulated in {real}" if emulated else ""


# --- flash_decoding -------------------------------------------------------------------------------------------


def _split(one: One, causal: bool) -> Tensor:
    """Parts of the keys apart, merged by their log-sum-exp: [q_len, q heads, head_dim]."""
    heads, rows, dim = one.q.shape
    kv_heads, length, _ = one.k.shape
    q = one.q.reshape(kv_heads, -1, dim)
    limit = one.cached + torch.arange(rows, device=q.device).repeat(heads // kv_heads)
    parts, weights = [], []
    for first in range(0, length, SPLIT_KEYS):
        last = min(first + SPLIT_KEYS, length)
        scores = (q @ one.k[:, first:last].transpose(1, 2)).float() * dim**-0.5
        if causal:
            scores = scores.masked_fill(torch.arange(first, last, device=q.device) > limit[:, None], -1e30)
        top = scores.amax(-1, keepdim=True)
        exponents = (scores - top).exp()
        total = exponents.sum(-1, keepdim=True)
        parts.append((exponents.to(one.v.dtype) @ one.v[:, first:last]).float() / total)
        weights.append(top + total.log())
    share = torch.stack(weights).softmax(0)
    merged = (torch.stack(parts) * share).sum(0)
    return merged.reshape(heads, rows, dim).transpose(0, 1)


_ARGUMENTS = (
    *HEADS,
    *SEQUENCES,
    BLOCK_SIZE,
    Argument("is_causal", "bool", "a token sees no later one", True),
    dtype_argument(CACHES, default="bfloat16"),
    dtype_argument(CACHES, name="cache_dtype", default=SameAs("dtype", "bfloat16")),
    dtype_argument(CACHES, name="qk_compute_dtype", default=SameAs("dtype", "bfloat16")),
    dtype_argument(CACHES, name="pv_compute_dtype", default=SameAs("dtype", "bfloat16")),
    dtype_argument(ACTIVATIONS, name="dst_dtype", default=SameAs("dtype", "bfloat16")),
)


def _operator(name: str, what: str, attend: Callable[[One, bool], Tensor], arguments: tuple[Argument, ...]) -> Operator:
    return Operator(
        name=name,
        constant=lambda _args: (1, 2, 3),
        help=what,
        arguments=arguments,
        inputs=make_inputs,
        kernel=_sequence_by_sequence(attend),
        reference=_reference,
        cost=_COST,
        tolerance=_tolerance,
        check=_check,
        aliases={"q_seq_len": "q_len"},
        emulation=_emulation,
    )


FLASH_ATTENTION = _operator(
    "flash_attention",
    "causal attention of packed q over a linear or paged cache, of prefill or decode",
    _plain,
    _ARGUMENTS,
)
FLASH_DECODING = _operator(
    "flash_decoding",
    "attention of a few new tokens with the keys in parts, merged by their log-sum-exp",
    _split,
    (SEQUENCES[0]._replace(default="decode"), *(argument for argument in _ARGUMENTS if argument.name != "attn_mode")),
)
ATTENTION = {operator.name: operator for operator in (FLASH_ATTENTION, FLASH_DECODING)}
