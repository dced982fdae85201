"""A task card: what a model is, what it eats, what it is judged by. Checked YAML, one file a model.

`source` says where model and weights come from; `dims` names the sizes that shapes speak of; `sizes` holds
variants under a name (`published` is what the top level says). Batch is the first axis of every input and
always dynamic, unless `fixed_batch` says that the model can't have it so.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from bytemlperf.checked import Checked
from bytemlperf.checked_yaml import load
from bytemlperf.errors import UserError, nearest
from general_perf.choices import PUBLISHED

CARDS = Path(__file__).parent / "cards"
BATCH = "batch"

ModelClass = Literal["regular", "business", "sota"]
CLASSES: tuple[ModelClass, ...] = ("regular", "business", "sota")
InputKind = Literal[
    "image",
    "audio",
    "features",
    "uniform",
    "token_ids",
    "attention_mask",
    "categories",
    "timestep",
    "file_bytes",
    "text_page",
    "zeros",
    "constant",
]
FileFormat = Literal["safetensors", "onnx", "torchscript"]
FORMATS: dict[str, FileFormat] = {
    ".safetensors": "safetensors",
    ".onnx": "onnx",
    ".pt": "torchscript",
    ".pth": "torchscript",
    ".jit": "torchscript",
}
"""Of files of weights, by their ending."""
Dtype = Literal["float32", "float16", "int64", "int32", "bool"]
DistributionRule = Literal["softmax", "sigmoid", "probabilities", "none"]
DecisionRule = Literal["argmax", "threshold", "none"]


CLASS_NAME = r"^(models(\.[a-z0-9_]+)*\.(modeling|configuration)_[a-z0-9_]+\.)?[A-Z][A-Za-z0-9]*$"
"""A class of a library, by its own name or from a model's own module: `models.whisper.modeling_whisper.WhisperEncoder`."""
ClassName = Annotated[str, Meta(pattern=CLASS_NAME)]
LOADING = ("attn_implementation", "auto_map", "quantization_config", "trust_remote_code", "use_pretrained_backbone")
"""Keys of a configuration by which a library would fetch or run what isn't in the card."""


class Architecture(Checked, frozen=True, kw_only=True, tag_field="kind", tag="architecture"):
    """A class of a library with a configuration, and seeded random weights."""

    library: Literal["transformers", "diffusers", "own"]
    model: ClassName
    config_class: ClassName | None = None
    config: dict[str, Any] = {}
    seed: int = 0
    method: Literal["encode", "decode", "get_text_features", "get_image_features"] | None = None
    """The method of the model to call, where it isn't the forward."""
    stands_for: str | None = None
    """The model whose place it takes, where its own weights aren't here."""

    def __post_init__(self) -> None:
        loading = next(_loading(self.config), None)
        if loading is not None:
            raise ValueError(f"config has '{loading}', by which the library would fetch or run something; leave it out")


def _loading(config: Any) -> Iterator[str]:
    """Keys at any depth that a card may not have."""
    for key, value in config.items() if isinstance(config, dict) else enumerate(config if isinstance(config, list) else ()):
        if isinstance(key, str) and (key.startswith("_") or key in LOADING):
            yield key
        yield from _loading(value)


class Package(Checked, frozen=True, kw_only=True, tag_field="kind", tag="package"):
    """Real weights that an installed package carries: a checkpoint folder, an ONNX or a TorchScript file."""

    package: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*\Z")]
    module: Annotated[str, Meta(pattern=r"^[A-Za-z_]\w*\Z")]
    """Of the top level: a module inside a package could not be found without importing that."""
    path: Annotated[str, Meta(pattern=r"^[\w-][\w.-]*(/[\w-][\w.-]*)*\Z")]
    format: Literal["checkpoint", "onnx", "torchscript"]
    model: ClassName | None = None
    licence: str

    def folder(self) -> Path | None:
        """Where the module's files are; None where it is not installed. Imports nothing."""
        spec = find_spec(self.module)
        return Path(spec.origin).parent if spec and spec.origin else None


class Trained(Checked, frozen=True, kw_only=True, tag_field="kind", tag="trained"):
    """Weights trained here by `general_perf.zoo.train`, seeded, on data that a package carries."""

    recipe: str


class Local(Checked, frozen=True, kw_only=True, tag_field="kind", tag="local"):
    """A file or checkpoint folder on this machine."""

    path: str
    format: Literal["checkpoint", "onnx", "torchscript", "safetensors"]
    model: ClassName | None = None
    architecture: str | None = None
    """The card whose architecture the weights fit (safetensors)."""


class Hub(Checked, frozen=True, kw_only=True, tag_field="kind", tag="hub"):
    """A checkpoint of the Hugging Face hub that is in its local cache already: nothing is fetched in a run."""

    id: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*\Z")]
    revision: str | None = None
    model: ClassName | None = None


class LanguageModel(Checked, frozen=True, kw_only=True, tag_field="kind", tag="language_model"):
    """A causal language model by the name that `bmp-llm --model` knows: `smollm2`, `synthetic`, a folder."""

    name: str


Source = Architecture | Package | Trained | Local | Hub | LanguageModel


class Input(Checked, frozen=True, kw_only=True):
    """One input. `shape` holds numbers and names of `dims`; its first axis is `batch` unless `fixed`. `nhwc`: an image whose
    channels come last."""

    name: str
    shape: list[int | str]
    dtype: Dtype = "float32"
    kind: InputKind
    high: int | list[int] | None = None
    """Values are below this: vocabulary, categories (one for each column), timesteps."""
    value: float | None = None
    fixed: bool = False
    nhwc: bool = False

    def __post_init__(self) -> None:
        if self.kind in ("token_ids", "categories", "timestep") and self.high is None:
            raise ValueError(f"{self.name} is of kind {self.kind} without `high`; say what its values are below")
        if self.kind == "constant" and self.value is None:
            raise ValueError(f"{self.name} is constant without `value`; give it")


class Tolerance(Checked, frozen=True, kw_only=True):
    """Pass when the largest difference is at most `scaled_max` times the reference's root mean square, and the
    cosine is at least `cosine`."""

    scaled_max: Annotated[float, Meta(gt=0, le=1e12)]
    cosine: Annotated[float, Meta(gt=0, le=1)]


DEFAULT_TOLERANCES = {
    "fp32": Tolerance(scaled_max=1e-3, cosine=0.99999),
    "bf16": Tolerance(scaled_max=0.5, cosine=0.995),
    "fp16": Tolerance(scaled_max=0.05, cosine=0.9995),
    "int8": Tolerance(scaled_max=1.0, cosine=0.98),
}
"""Ours, by what a mantissa of 24, 8, 11 and 7 bits leaves after some dozens of layers; a card may name its own."""


class Size(Checked, frozen=True, kw_only=True):
    """A variant: parts of the configuration and dims that differ from the published ones."""

    config: dict[str, Any] = {}
    dims: dict[str, int] = {}
    high: dict[str, int | list[int]] = {}


SQUAD_FILE = "squad:"
"""Begins a dataset that is a file of questions."""


class Card(Checked, frozen=True, kw_only=True):
    """One model of the zoo."""

    name: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9._-]*\Z")]
    model_class: ModelClass
    task: str
    about: str = ""
    source: Source
    dims: dict[str, int] = {}
    inputs: Annotated[list[Input], Meta(min_length=1)]
    outputs: Annotated[list[str], Meta(min_length=1)]
    distribution: DistributionRule = "none"
    decision: DecisionRule = "none"
    fixed_batch: int | None = None
    batch_sizes: Annotated[list[int], Meta(min_length=1)] = msgspec.field(default_factory=lambda: [1, 4])
    dataset: str | None = None
    dataset_samples: Annotated[int, Meta(ge=1)] | None = None
    """At most so many samples of the dataset, for a model that is slow."""
    tolerances: dict[Literal["fp32", "bf16", "fp16", "int8"], Tolerance] = {}
    sizes: dict[str, Size] = {}

    def __post_init__(self) -> None:
        for given in self.inputs:
            for axis in given.shape:
                if isinstance(axis, str) and axis != BATCH and axis not in self.dims:
                    raise ValueError(f"input {given.name} speaks of '{axis}', which dims doesn't have; add it to dims")
            if self.fixed_batch is None and not given.fixed and (not given.shape or given.shape[0] != BATCH):
                raise ValueError(f"input {given.name} must begin with 'batch'; write [batch, …], or name fixed_batch or fixed")
        for name, size in self.sizes.items():
            unknown = sorted(set(size.dims) - set(self.dims))
            if unknown:
                raise ValueError(f"size {name} sets '{unknown[0]}', which dims doesn't have; {nearest(unknown[0], self.dims)}")
        if any(size < 1 for size in self.batch_sizes):
            raise ValueError("batch_sizes must be at least 1; give numbers such as [1, 8]")

    def tolerance(self, precision: str) -> Tolerance:
        """The tolerance at a precision: the card's own, else the default."""
        own = next((tolerance for name, tolerance in self.tolerances.items() if name == precision), None)
        return own or DEFAULT_TOLERANCES[precision]

    def at_size(self, size: str, dims: dict[str, int] | None = None) -> Card:
        """The card with a variant's sizes, and dims given by the user, put in. Raises UserError."""
        chosen = Size() if size == PUBLISHED else self.sizes.get(size)
        if chosen is None:
            raise UserError(f"model {self.name} has no size '{size}'", nearest(size, [PUBLISHED, *self.sizes]))
        for name in dims or {}:
            if name not in self.dims:
                raise UserError(
                    f"model {self.name} has no dimension '{name}'", nearest(name, self.dims) if self.dims else "leave --dim out"
                )
        source = self.source
        if isinstance(source, Architecture) and chosen.config:
            source = replace(source, config=_merged(source.config, chosen.config))
        inputs = [replace(given, high=chosen.high[given.name]) if given.name in chosen.high else given for given in self.inputs]
        return replace(self, source=source, inputs=inputs, dims={**self.dims, **chosen.dims, **(dims or {})})

    def shape(self, entry: Input, batch: int) -> tuple[int, ...]:
        """The shape of an input at a batch size."""
        sizes = {**self.dims, BATCH: self.fixed_batch or batch}
        return tuple(axis if isinstance(axis, int) else sizes[axis] for axis in entry.shape)


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    both = dict(base)
    for key, value in over.items():
        both[key] = _merged(both[key], value) if isinstance(value, dict) and isinstance(both.get(key), dict) else value
    return both


@cache
def zoo() -> dict[str, Card]:
    """Every card that comes with us by name, regular before business before sota."""
    cards = [load_card(path) for path in sorted(CARDS.glob("*.yaml"))]
    return {card.name: card for card in sorted(cards, key=lambda card: (CLASSES.index(card.model_class), card.name))}


def load_card(path: Path) -> Card:
    """A card from a file; files that it names by relative paths lie beside it. Raises UserError that names line and key."""
    return _beside(path.parent, load(path, Card, shown_as=path.name if path.parent == CARDS else None))


def _beside(folder: Path, card: Card) -> Card:
    """The card with its file of weights and its file of questions as seen from anywhere: a run may be resumed elsewhere."""
    source, data = card.source, card.dataset
    if isinstance(source, Local):
        source = replace(source, path=_absolute(folder, source.path))
    if data and data.startswith(SQUAD_FILE):
        data = SQUAD_FILE + _absolute(folder, data.removeprefix(SQUAD_FILE))
    return replace(card, source=source, dataset=data)


def _absolute(folder: Path, path: str) -> str:
    return str((folder / Path(path).expanduser()).absolute())


def find_cards(name: str) -> list[Card]:
    """Cards by name, by class, `all`, or a YAML file's path. Raises UserError."""
    if name == "all":
        return list(zoo().values())
    if name in CLASSES:
        return [card for card in zoo().values() if card.model_class == name]
    if name.endswith((".yaml", ".yml")):
        return [load_card(Path(name))]
    if name not in zoo():
        raise UserError(f"model '{name}' is unknown", f"{nearest(name, [*zoo(), *CLASSES, 'all'])} (or a card's YAML file)")
    return [zoo()[name]]
