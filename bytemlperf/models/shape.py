"""What of a model decides its speed, read from its Hugging Face configuration; and what one forward pass must do at least."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from bytemlperf.errors import UserError
from bytemlperf.models.resolve import resolve
from engines.untrusted import decode_json


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


class Work(NamedTuple):
    """The least that a pass does: FLOPs (a multiply-add is two), and values of weights and of KV cache that it reads or writes."""

    flops: float
    weight_values: float
    cache_values: float


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
        return round(self._layer_values(self.experts))

    def _layer_values(self, experts: float) -> float:
        attention = self.hidden * self.head_dim * 2 * (self.heads + self.kv_heads)
        mlp = 3 * self.hidden * self.intermediate
        return attention + (experts * mlp + self.experts * self.hidden if self.experts else mlp)

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

    def work(self, batch: float, new: float, cached: float) -> Work:
        """Of a pass of `batch` sequences, each with `new` tokens over `cached` ones, whose last token alone has logits. Experts are drawn
        evenly: E experts, k a token, of T tokens E·(1 − (1 − k/E)^T) are read."""
        tokens, head, k = batch * new, self.hidden * self.vocabulary, self.experts_per_token
        touched = self.experts * (1 - (1 - k / self.experts) ** tokens) if self.experts else 0.0
        attended = batch * new * (cached + (new + 1) / 2)
        attention = 2 * 2 * self.layers * self.heads * self.head_dim * attended
        products = 2 * (tokens * self.layers * self._layer_values(k) + batch * head)
        return Work(
            products + attention,
            self.layers * self._layer_values(touched) + head,
            batch * (new + cached) * self.cache_values(1),
        )


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
