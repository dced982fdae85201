"""The operators of one forward pass, in order, with the arguments that `bmp micro` takes.

A layer of a Llama on one of `tp` ranks (Shoeybi et al., Megatron-LM, 2019: heads and the MLP's middle are
split, two sums a layer), T tokens, h hidden, q and kv heads of d values, i intermediate:

    norm → qkv gemm [T,h]·[h,(q+2kv)d] → (q and k norm) → rotary → store k, v → attention
         → o gemm [T,qd]·[qd,h] → (all_reduce) → add and norm → gate and up gemm [T,h]·[h,2i] → swiglu
         → down gemm [T,i]·[i,h] → (all_reduce) → add and norm of the next layer

with experts in the MLP's place: gating gemm, softmax and choice, grouped gemms over the tokens of each expert.
Before the layers the embedding; after them the head for each sequence's last token alone, and the choice of
the largest logit. Norms and additions between layers are one operator, qkv and gate/up one gemm each, as
serving engines fuse them.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from bytemlperf.errors import UserError
from bytemlperf.models.shape import ModelShape
from micro.cases.case import Arguments


class Pass(NamedTuple):
    """`batch` sequences, each with `new` tokens over `cached` ones."""

    mode: Literal["prefill", "decode"]
    batch: int
    new: int
    cached: int

    @property
    def tokens(self) -> int:
        """Of all sequences."""
        return self.batch * self.new


class Step(NamedTuple):
    """One operator of a pass, done `calls` times. `streams`: it reads weights or the KV cache, which a pass touches
    once each, so they come from memory where all of them don't fit into the cache."""

    part: str
    op: str
    args: Arguments
    calls: int
    streams: bool = False


def forward(shape: ModelShape, phase: Pass, dtype: str, tp: int = 1) -> list[Step]:
    """Every operator of a pass on one of `tp` ranks, in order of first use. Raises UserError where `tp` doesn't divide."""
    _check_split(shape, tp)
    layers, tokens = shape.layers, phase.tokens
    norm = {"num_tokens": tokens, "hidden_size": shape.hidden, "dtype": dtype}
    return [
        _embedding(shape, tokens, dtype),
        Step("first norm", "rms_norm", {"batch_size": tokens, "dim_size": shape.hidden, "dtype": dtype}, 1),
        *_attention(shape, phase, dtype, tp),
        *_sum(tokens, shape.hidden, dtype, tp, 2 * layers),
        Step("add and norm", "add_rms_norm", norm, 2 * layers),
        *(_experts(shape, tokens, dtype, tp) if shape.experts else _mlp(shape, tokens, dtype, tp)),
        *_head(shape, phase.batch, dtype, tp),
    ]


def _check_split(shape: ModelShape, tp: int) -> None:
    for what, amount in (("attention heads", shape.heads), ("MLP values", shape.intermediate), ("vocabulary", shape.vocabulary)):
        if amount % tp:
            raise UserError(f"--tp {tp} does not divide {shape.name}'s {amount} {what}", "give a divisor")
    if shape.kv_heads % tp and tp % shape.kv_heads:
        raise UserError(f"--tp {tp} and {shape.kv_heads} key and value heads don't divide each other", "give another --tp")


def _embedding(shape: ModelShape, tokens: int, dtype: str) -> Step:
    args = {"src_batch_size": shape.vocabulary, "dst_batch_size": tokens, "dim_size": shape.hidden, "dtype": dtype}
    return Step("embedding", "embedding", args, 1)  # few rows of a large table: many tables would be needed to keep them cold


def _gemm(part: str, m: int, k: int, n: int, dtype: str, calls: int) -> Step:
    return Step(part, "gemm", {"M": m, "K": k, "N": n, "dtype": dtype}, calls, streams=True)


def _attention(shape: ModelShape, phase: Pass, dtype: str, tp: int) -> list[Step]:
    q, kv, dim, layers = shape.heads // tp, max(1, shape.kv_heads // tp), shape.head_dim, shape.layers
    heads = {"q_head_num": q, "kv_head_num": kv, "head_dim": dim}
    sequences = {"attn_mode": phase.mode, "batch_size": phase.batch, "q_len": phase.new, "cache_len": phase.cached}
    multiply = dict.fromkeys(("dtype", "cache_dtype", "qk_compute_dtype", "pv_compute_dtype", "dst_dtype"), dtype)
    qk_norm = {"num_tokens": phase.tokens, "q_head_num": q, "kv_head_num": kv, "qk_head_dim": dim, "dtype": dtype}
    linear = {"block_size": 0}
    return [
        _gemm("qkv gemm", phase.tokens, shape.hidden, (q + 2 * kv) * dim, dtype, layers),
        *([Step("q and k norm", "qk_rms_norm", qk_norm, layers)] if shape.qk_norm else []),
        Step("rotary", "rotary_embedding", {**heads, **sequences, "rope_dim": dim, "dtype": dtype}, layers),
        Step("store k, v", "store_kv_cache", {**heads, **sequences, **linear, "dtype": dtype, "cache_dtype": dtype}, layers),
        Step("attention", "flash_attention", {**heads, **sequences, **linear, **multiply}, layers, streams=True),
        _gemm("o gemm", phase.tokens, q * dim, shape.hidden, dtype, layers),
    ]


def _mlp(shape: ModelShape, tokens: int, dtype: str, tp: int) -> list[Step]:
    middle, layers = shape.intermediate // tp, shape.layers
    return [
        _gemm("gate and up gemm", tokens, shape.hidden, 2 * middle, dtype, layers),
        Step("swiglu", "swiglu", {"num_tokens": tokens, "hidden_size": middle, "dtype": dtype}, layers),
        _gemm("down gemm", tokens, middle, shape.hidden, dtype, layers),
    ]


def _experts(shape: ModelShape, tokens: int, dtype: str, tp: int) -> list[Step]:
    """Each token's row is copied to its experts, which split as an MLP does; their results are weighed and added."""
    middle, layers, rows = shape.intermediate // tp, shape.layers, tokens * shape.experts_per_token
    groups = {"num_groups": shape.experts, "M": rows, "dtype": dtype}
    copied = {"src_batch_size": tokens, "dst_batch_size": rows, "dim_size": shape.hidden, "dtype": dtype}
    added = {"src_batch_size": rows, "dst_batch_size": tokens, "dim_size": shape.hidden, "dtype": dtype}
    return [
        _gemm("gating gemm", tokens, shape.hidden, shape.experts, dtype, layers),
        Step("expert softmax", "softmax", {"batch_size": tokens, "dim_size": shape.experts, "dtype": "float32"}, layers),
        Step(
            "expert choice",
            "topk",
            {"batch_size": tokens, "dim_size": shape.experts, "k": shape.experts_per_token, "dtype": "float32"},
            layers,
        ),
        Step("rows to experts", "index_select", copied, layers),
        Step("experts' gate and up", "group_gemm", {**groups, "K": shape.hidden, "N": 2 * middle}, layers, streams=True),
        Step("swiglu", "swiglu", {"num_tokens": rows, "hidden_size": middle, "dtype": dtype}, layers),
        Step("experts' down", "group_gemm", {**groups, "K": middle, "N": shape.hidden}, layers, streams=True),
        Step("rows from experts", "index_add", added, layers),
    ]


def _sum(rows: int, width: int, dtype: str, tp: int, calls: int) -> list[Step]:
    if tp == 1:
        return []
    return [Step("all_reduce", "all_reduce", {"world_size": tp, "batch_size": rows, "dim_size": width, "dtype": dtype}, calls)]


def _head(shape: ModelShape, batch: int, dtype: str, tp: int) -> list[Step]:
    """Logits of each sequence's last token; with several ranks their parts are gathered before the choice."""
    gathered = {"world_size": tp, "batch_size": batch, "dim_size": shape.vocabulary, "dtype": dtype}
    return [
        _gemm("head gemm", batch, shape.hidden, shape.vocabulary // tp, dtype, 1),
        *([Step("all_gather of logits", "all_gather", gathered, 1)] if tp > 1 else []),
        Step("choice of token", "reduce_max", {"batch_size": batch, "dim_size": shape.vocabulary, "dtype": dtype}, 1),
    ]
