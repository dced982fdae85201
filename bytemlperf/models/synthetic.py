"""A tiny Llama with random weights and a byte-level tokenizer, for quick tests and for teaching.

Written by hand, with the standard library alone: the same options give the same bytes on every
machine and with every version of every library. The weights are uniform (no libm function is
used, whose last bit differs between machines). A token is a byte, so that text length in bytes is
token count; the output layer can only choose printable ASCII, so that greedy output is readable
text and never ends by itself.
"""

from __future__ import annotations

import json
import math
import random
from array import array
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from bytemlperf.checked import Checked, check
from bytemlperf.models import checkpoint
from bytemlperf.models.cache import built_folder
from engines.contract import Model

FIRST_BYTE_ID = 3  # behind the special tokens
VOCAB_SIZE = FIRST_BYTE_ID + 256
HEAD_DIM = 32  # the smallest that every engine's attention kernels accept
PRINTABLE = range(0x20, 0x7F)
WEIGHT_STD = 0.05
OUTPUT_STD = 0.5
MAX_PARAMETERS = 20_000_000
RECIPE_VERSION = 1
TEMPLATES = Path(__file__).with_suffix(".json")
"""The checkpoint's JSON files by name; what the options say is null in them."""


class Options(Checked, frozen=True, kw_only=True):
    """What may follow `synthetic:`. `context` is in tokens."""

    seed: Annotated[int, Meta(ge=0)] = 0
    layers: Annotated[int, Meta(ge=1, le=1000)] = 2
    hidden: Annotated[int, Meta(ge=HEAD_DIM, le=1 << 16, multiple_of=HEAD_DIM)] = 64
    context: Annotated[int, Meta(ge=1)] = 2048

    def __post_init__(self) -> None:
        if self.parameters() > MAX_PARAMETERS:
            raise ValueError(f"that size has more than {MAX_PARAMETERS:,} weights; give fewer layers or a smaller hidden")

    def parameters(self) -> int:
        return sum(math.prod(shape) for _, shape, _ in _tensors(self))


def resolve(name: str, text: str) -> Model:
    """The model that `synthetic[:key=value,…]` describes. Raises UserError for bad options."""
    options = parse(text)
    recipe: dict[str, object] = {"synthetic": RECIPE_VERSION, **msgspec.to_builtins(options)}
    label = f"synthetic-s{options.seed}-l{options.layers}-h{options.hidden}-c{options.context}"
    folder = built_folder(label, recipe, lambda target: _build(target / "checkpoint", options))
    model = checkpoint.describe(name, folder / "checkpoint")
    return msgspec.structs.replace(model, random_weights=True)


def parse(text: str) -> Options:
    """`seed=1,layers=4` as Options. Raises UserError that names the key and what it may be."""
    given = dict(part.strip().partition("=")[::2] for part in text.split(",") if part.strip())
    return check(given, Options, lambda _: "model synthetic", strict=False)


def _build(folder: Path, options: Options) -> dict[str, str]:
    folder.mkdir()
    for name, content in _files(options).items():
        (folder / name).write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
    _write_weights(folder / "model.safetensors", options)
    return {}


def _files(options: Options) -> dict[str, Any]:
    files: dict[str, Any] = json.loads(TEMPLATES.read_text(encoding="utf-8"))
    heads = options.hidden // HEAD_DIM
    files["config.json"] |= {
        "hidden_size": options.hidden,
        "intermediate_size": 4 * options.hidden,
        "num_hidden_layers": options.layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "max_position_embeddings": options.context,
    }
    special = {token["content"]: token["id"] for token in files["tokenizer.json"]["added_tokens"]}
    files["tokenizer.json"]["model"]["vocab"] = special | {char: FIRST_BYTE_ID + byte for byte, char in enumerate(byte_alphabet())}
    files["tokenizer_config.json"]["model_max_length"] = options.context
    return files


def _tensors(options: Options) -> list[tuple[str, tuple[int, ...], float | None]]:
    """(name, shape, standard deviation; None for all ones) of every weight, in file order."""
    hidden, wide = options.hidden, 4 * options.hidden
    tensors: list[tuple[str, tuple[int, ...], float | None]] = [
        ("lm_head.weight", (VOCAB_SIZE, hidden), OUTPUT_STD),
        ("model.embed_tokens.weight", (VOCAB_SIZE, hidden), 1.0),
    ]
    for layer in range(options.layers):
        base = f"model.layers.{layer}."
        tensors += [(f"{base}self_attn.{letter}_proj.weight", (hidden, hidden), WEIGHT_STD) for letter in "qkvo"]
        tensors += [(f"{base}mlp.{part}_proj.weight", (wide, hidden), WEIGHT_STD) for part in ("gate", "up")]
        tensors += [(f"{base}mlp.down_proj.weight", (hidden, wide), WEIGHT_STD)]
        tensors += [(f"{base}{part}_layernorm.weight", (hidden,), None) for part in ("input", "post_attention")]
    return [*tensors, ("model.norm.weight", (hidden,), None)]


def _write_weights(path: Path, options: Options) -> None:
    """The safetensors format: header length (8 bytes, little-endian), JSON header, raw tensors."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name, shape, _ in _tensors(options):
        end = start + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
        start = end
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    draw = random.Random(options.seed)
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for name, shape, std in _tensors(options):
            values = _values(draw, math.prod(shape), std)
            if name == "lm_head.weight":
                _only_printable(values, options.hidden)
            file.write(_little_endian(values))


def _values(draw: random.Random, count: int, std: float | None) -> array[float]:
    if std is None:
        return array("f", [1.0]) * count
    scale = 2 * std * 1.7320508075688772  # a uniform variable of width w has standard deviation w/sqrt(12)
    uniform = draw.random
    return array("f", [scale * (uniform() - 0.5) for _ in range(count)])


def _only_printable(values: array[float], hidden: int) -> None:
    """Zero the rows of every other token: some printable one always scores above 0."""
    for token in range(VOCAB_SIZE):
        if token - FIRST_BYTE_ID not in PRINTABLE:
            values[token * hidden : (token + 1) * hidden] = array("f", [0.0]) * hidden


def _little_endian(values: array[float]) -> bytes:
    if array("H", [1]).tobytes() != b"\x01\x00":
        values.byteswap()
    return values.tobytes()


def byte_alphabet() -> list[str]:
    """GPT-2's printable character for each of the 256 bytes, which ByteLevel tokenizers use."""
    plain = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    shifted = iter(range(256, 512))
    return [chr(byte) if byte in plain else chr(next(shifted)) for byte in range(256)]
