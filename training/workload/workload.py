"""The workload file: which model is trained, on what data, with which recipe.

It says nothing of devices or of how the work is split over them, so that one file compares trainers,
layouts and machines. `load` takes the name of a built-in workload or the path of a YAML file; all of
it is checked here, before anything starts. docs/training.md describes every key.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from bytemlperf import checked_yaml
from bytemlperf.checked import Checked
from bytemlperf.errors import UserError, nearest
from training.workload.choices import Precision, Recompute

BUILTIN_FOLDER = Path(__file__).parents[1] / "workloads"

Family = Literal["gpt", "llama", "moe", "bert", "resnet"]
Corpus = Literal["stdlib", "prompts", "digits"]
TokenizerName = Literal["auto", "smollm2", "bytes"]
Size = Annotated[int, Meta(ge=1, le=1 << 22)]

BYTE_VOCABULARY = 256
SMOLLM2_VOCABULARY = 49_152
IMAGE_PIXELS = 32
"""Digits come as 8 x 8 pixels; each is repeated four times each way, so that a ResNet has something to halve."""


IGNORED_LABEL = -100
"""Of a token that a masked model isn't asked for."""


class ModelSize(Checked, frozen=True, kw_only=True):
    """Sizes of a transformer (`layers` … `top_k`) or of a ResNet (`widths`, `depths`)."""

    layers: Annotated[int, Meta(ge=1, le=1024)] = 1
    hidden: Size = 64
    heads: Size = 4
    kv_heads: Size | None = None
    ffn: Size | None = None
    seq_len: Size = 64
    experts: Annotated[int, Meta(ge=2, le=4096)] | None = None
    top_k: Annotated[int, Meta(ge=1, le=64)] = 2
    widths: list[Size] | None = None
    depths: list[Size] | None = None

    @property
    def ffn_size(self) -> int:
        """Width of the feed-forward part; 4 times hidden unless given."""
        return self.ffn or 4 * self.hidden

    @property
    def kv_head_count(self) -> int:
        """Key and value heads; as many as query heads unless given."""
        return self.kv_heads or self.heads


class Data(Checked, frozen=True, kw_only=True):
    """What is learned: `stdlib` are the Python standard library's sources, `prompts` the built-in scenarios'
    texts (the same on every machine), `digits` scikit-learn's handwritten digits."""

    corpus: Corpus = "stdlib"
    tokenizer: TokenizerName = "auto"


class Recipe(Checked, frozen=True, kw_only=True):
    """How it is learned: AdamW, linear warm-up, then a constant rate."""

    global_batch: Size
    micro_batch: Size
    steps: Annotated[int, Meta(ge=1, le=10_000_000)] = 50
    learning_rate: Annotated[float, Meta(gt=0, le=10)] = 1e-3
    warmup_steps: Annotated[int, Meta(ge=0)] = 0
    weight_decay: Annotated[float, Meta(ge=0, le=1)] = 0.1
    clip: Annotated[float, Meta(gt=0, le=1e12)] = 1.0
    precision: Precision = "fp32"
    recompute: Recompute = "none"


class Workload(Checked, frozen=True, kw_only=True):
    """One workload. Dropout is always 0, so that a loss curve depends on nothing but what is compared."""

    name: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9._-]*\Z", max_length=60)]
    description: str = ""
    family: Family
    model: ModelSize
    data: Data = Data()
    training: Recipe

    def __post_init__(self) -> None:
        model = self.model
        if self.family == "resnet":
            if not model.widths or not model.depths or len(model.widths) != len(model.depths):
                raise ValueError("a resnet needs widths and depths; give both, one number for each stage")
            if self.data.corpus != "digits":
                raise ValueError("a resnet learns images; write data: {corpus: digits}")
            return
        if self.data.corpus == "digits":
            raise ValueError("digits are images; take the corpus stdlib or prompts")
        if model.hidden % model.heads:
            raise ValueError(f"{model.heads} heads don't divide hidden {model.hidden}; make hidden a multiple of heads")
        if model.heads % model.kv_head_count:
            raise ValueError(f"{model.kv_head_count} kv_heads don't divide {model.heads} heads; make heads a multiple of kv_heads")
        if self.family == "moe" and model.experts is None:
            raise ValueError("a moe needs experts; add model.experts")
        if self.family == "moe" and model.experts is not None and model.top_k > model.experts:
            raise ValueError(f"top_k {model.top_k} exceeds {model.experts} experts; lower top_k")
        if self.training.global_batch % self.training.micro_batch:
            raise ValueError("micro_batch doesn't divide global_batch; make it a divisor")


def load(name: str) -> Workload:
    """The built-in workload `name`, or the YAML file at that path. Raises UserError."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or "/" in name:
        return checked_yaml.load(path, Workload)
    if name not in names():
        raise UserError(f"there is no workload '{name}'", nearest(name, names()))
    return checked_yaml.load(BUILTIN_FOLDER / f"{name}.yaml", Workload, shown_as=f"workload {name}")


def names() -> list[str]:
    """Names of the built-in workloads."""
    return sorted(path.stem for path in BUILTIN_FOLDER.glob("*.yaml"))


def vocabulary(tokenizer: str) -> int:
    """Token ids that a resolved tokenizer gives."""
    return SMOLLM2_VOCABULARY if tokenizer == "smollm2" else BYTE_VOCABULARY
