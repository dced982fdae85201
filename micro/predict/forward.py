"""What of a model decides its speed, read from its Hugging Face configuration; and the operators of one forward pass, in order, with
the arguments that `bmp micro` takes.

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

import difflib
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from bytemlperf.errors import UserError
from bytemlperf.models.resolve import resolve
from engines.untrusted import decode_json
from micro.cases.case import Arguments


class Architecture(NamedTuple):
    """What a `model_type` adds to a Llama's layer: a norm of q and k heads, or experts in place of the MLP
    (the keys under which a configuration counts them)."""

    qk_norm: bool = False
    experts_key: str = ""
    expert_size_key: str = "intermediate_size"


ARCHITECTURES = {
    "llama": Architecture(),
    "mistral": Architecture(),
    "qwen2": Architecture(),
    "qwen3": Architecture(qk_norm=True),
    "mixtral": Architecture(experts_key="num_local_experts"),
    "qwen3_moe": Architecture(qk_norm=True, experts_key="num_experts", expert_size_key="moe_intermediate_size"),
}
"""By `model_type`: those whose forward pass `micro.predict.forward` writes down."""

CONFIG_NAME = "config.json"
DTYPES = {"float32": "float32", "float16": "float16", "bfloat16": "bfloat16"}


class ModelShape(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes of one decoder. `experts` 0: a dense MLP of `intermediate` values; else each expert's is so large."""

    name: str
    model_type: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    dtype: str
    qk_norm: bool = False
    tied: bool = False
    experts: int = 0
    experts_per_token: int = 0
    context: int | None = None
    window: int | None = None

    @property
    def layer_values(self) -> int:
        """Weights of one layer's matrices."""
        attention = self.hidden * self.head_dim * 2 * (self.heads + self.kv_heads)
        mlp = 3 * self.hidden * self.intermediate
        return attention + (self.experts * (mlp + self.hidden) if self.experts else mlp)

    @property
    def pass_values(self) -> int:
        """Weights that one pass reads: every layer and the head (the embedding's rows are few)."""
        return self.layers * self.layer_values + self.hidden * self.vocabulary

    @property
    def held_values(self) -> int:
        """Weights that are kept: also the embedding, where it is not the head's matrix."""
        return self.pass_values + (0 if self.tied else self.hidden * self.vocabulary)

    def cache_values(self, tokens: int) -> int:
        """Keys and values of so many tokens."""
        return 2 * self.layers * self.kv_heads * self.head_dim * tokens


def read_shape(name: str) -> ModelShape:
    """From a config.json, a folder that holds one, or a model's name as `bmp-llm` takes it. Raises UserError."""
    path = Path(name).expanduser()
    if path.is_dir():
        path = path / CONFIG_NAME
    elif not path.is_file():
        folder = resolve(name).path
        if folder is None:
            raise UserError(f"model '{name}' has no folder here", "give a folder or a config.json")
        path = Path(folder) / CONFIG_NAME
    try:
        content = decode_json(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"'{name}' has no {CONFIG_NAME}", "give a Hugging Face checkpoint folder, or its config.json") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} can't be read as a configuration: {error}", "give a Hugging Face config.json") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a JSON object", "give a Hugging Face config.json")
    return shape_of(name, content)


def shape_of(name: str, config: dict[str, Any]) -> ModelShape:
    """From a configuration's content. Raises UserError that names the key."""
    model_type = str(config.get("model_type"))
    if model_type not in ARCHITECTURES:
        near = difflib.get_close_matches(model_type, ARCHITECTURES, n=1)
        known = f"did you mean {near[0]}?" if near else f"known: {', '.join(ARCHITECTURES)}"
        raise UserError(f"'{name}' has model_type '{model_type}', whose forward pass is not supported", known)
    if config.get("quantization_config"):
        raise UserError(f"'{name}' has quantised weights", "give the configuration of the unquantised model")
    architecture = ARCHITECTURES[model_type]
    heads, hidden = _count(name, config, "num_attention_heads"), _count(name, config, "hidden_size")
    experts = _count(name, config, architecture.experts_key) if architecture.experts_key else 0
    size_key = architecture.expert_size_key if experts else "intermediate_size"
    return ModelShape(
        name=name,
        model_type=model_type,
        layers=_count(name, config, "num_hidden_layers"),
        hidden=hidden,
        intermediate=_count(name, config, size_key),
        heads=heads,
        kv_heads=_count(name, config, "num_key_value_heads", heads),
        head_dim=_count(name, config, "head_dim", max(1, hidden // heads)),
        vocabulary=_count(name, config, "vocab_size"),
        dtype=_dtype(config),
        qk_norm=architecture.qk_norm,
        tied=config.get("tie_word_embeddings") is True,
        experts=experts,
        experts_per_token=_count(name, config, "num_experts_per_tok") if experts else 0,
        context=_count(name, config, "max_position_embeddings", 0) or None,
        window=_window(config),
    )


def _count(name: str, config: dict[str, Any], key: str, default: int | None = None) -> int:
    value = config.get(key)
    if value is None and default is not None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        fault = "is missing" if value is None else f"is {value!r}"
        raise UserError(f"'{name}': {key} {fault} in the configuration", "give a whole number of at least 1 there")
    return value


def _dtype(config: dict[str, Any]) -> str:
    given = str(config.get("dtype") or config.get("torch_dtype") or "bfloat16").removeprefix("torch.")
    return DTYPES.get(given, "bfloat16")


def _window(config: dict[str, Any]) -> int | None:
    window = config.get("sliding_window")
    return window if isinstance(window, int) and config.get("use_sliding_window", True) else None


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
