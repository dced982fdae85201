"""Models as torch modules of tensors: built from a configuration, filled from files, read as TorchScript. A card is data.

A class that a card names is one of the library's own, or `models.<model>.modeling_<model>.<Class>`; what it stands for must be a class
of models (or of configurations) of transformers or diffusers that the library defines itself, or one of ours. Anything else (a
function, a class that loads, runs or fetches) is refused before it is touched.
"""

from __future__ import annotations

import importlib
from itertools import pairwise
from pathlib import Path
from typing import Any

from bytemlperf.extras import require
from bytemlperf.models import resolve
from general_perf.backends.contract import SourceFormat, SourceModel
from general_perf.backends.tensors import held_by_module
from general_perf.card import Architecture, Card, LanguageModel
from general_perf.failures import StageError

require("a torch model", "general", "torch")
import torch  # noqa: E402
from torch import nn  # noqa: E402


def model_class(library: str, name: str) -> Any:
    """A class of models, `AutoModel…` among them. Raises StageError."""
    if library == "own":
        if name not in OWN:
            raise StageError("unsupported_format", f"'{name}' is not a model of ours", f"name one of {', '.join(OWN)}")
        return OWN[name]
    if library == "diffusers":
        from diffusers import ModelMixin

        return _class(library, name, (ModelMixin,), "model")
    from transformers import PreTrainedModel
    from transformers.models.auto.auto_factory import _BaseAutoModelClass

    return _class(library, name, (PreTrainedModel, _BaseAutoModelClass), "model")


def config_class(name: str) -> Any:
    """A class of transformers' configurations. Raises StageError."""
    from transformers import PretrainedConfig

    return _class("transformers", name, (PretrainedConfig,), "configuration")


def _class(library: str, name: str, bases: tuple[type, ...], what: str) -> Any:
    folder, _, last = name.rpartition(".")
    try:
        named = getattr(importlib.import_module(f"{library}.{folder}" if folder else library), last, None)
    except ImportError:
        named = None
    if isinstance(named, type) and issubclass(named, bases) and named.__module__.startswith(f"{library}.models."):
        return named
    raise StageError("unsupported_format", f"'{name}' is not a {what} class of {library}", "name a class such as BertModel in the card")


def described(card: Card, model: torch.nn.Module, weights: str, method: str | None = None) -> SourceModel:
    """A model of keyword arguments and named outputs, or its `method`, as a source whose module takes and gives tensors."""
    model.requires_grad_(False)
    if getattr(config := getattr(model, "config", None), "use_cache", False):
        config.use_cache = False  # type: ignore[union-attr]
    return _source(card, "torch", weights, _Tensors(model, method, card))


def architecture(source: Architecture) -> torch.nn.Module:
    """The class of a card with its configuration and seeded random weights."""
    make = model_class(source.library, source.model)
    torch.manual_seed(source.seed)
    if source.library == "own":
        return make(**source.config)
    if source.library == "diffusers":
        return make(**{key: tuple(value) if isinstance(value, list) else value for key, value in source.config.items()})
    config = config_class(source.config_class or "")(**source.config)
    config._attn_implementation = "sdpa"
    try:
        return make(config)
    except ValueError as error:
        if "scaled_dot_product_attention" not in str(error):
            raise
        torch.manual_seed(source.seed)
        config._attn_implementation = "eager"
        return make(config)


def language_model(source: LanguageModel) -> torch.nn.Module:
    """The causal language model of that name, without a cache."""
    return checkpoint(Path(str(resolve(source.name).path)), "AutoModelForCausalLM")


def checkpoint(path: Path, model: str | None, library: str = "transformers") -> torch.nn.Module:
    """A Hugging Face checkpoint folder, whole; code in it is never run, pickles are never read. Raises StageError."""
    if library == "own":
        raise StageError("unsupported_format", f"{model} is a module of ours, which has no checkpoint folders", "give safetensors")
    if not (path / "config.json").is_file():
        raise StageError("missing_weights", f"{path} has no config.json", "give a checkpoint folder")
    if not any(path.glob("*.safetensors")):
        raise StageError("missing_weights", f"{path} has no *.safetensors", "save the checkpoint as safetensors")
    more: dict[str, Any] = {"torch_dtype": torch.float32}
    if library != "diffusers":
        more = {"trust_remote_code": False, "dtype": torch.float32}
    loaded, report = model_class(library, model or "AutoModel").from_pretrained(
        path, local_files_only=True, use_safetensors=True, output_loading_info=True, ignore_mismatched_sizes=True, **more
    )
    if report["mismatched_keys"]:  # the libraries would fill these, and the missing ones, with random numbers
        name, theirs, ours = min(report["mismatched_keys"])
        cause = f"{path.name} has {name} as {list(theirs)}, the model of its config.json as {list(ours)}"
        raise StageError("shape_mismatch", cause, "give the checkpoint whole, with its own config.json")
    if report["missing_keys"]:
        raise StageError("corrupt_weights", f"{path.name} lacks {min(report['missing_keys'])}", "give the checkpoint whole")
    return loaded


def filled(model: torch.nn.Module, path: Path) -> torch.nn.Module:
    """The model with a safetensors file's weights; every name and shape must fit. Raises StageError."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise StageError("corrupt_weights", f"{path.name} can't be read: {error}", "download or rebuild the weight file") from None
    own = model.state_dict()
    for name, tensor in state.items():
        if name in own and tensor.shape != own[name].shape:
            cause = f"{path.name} has {name} as {list(tensor.shape)}, the model as {list(own[name].shape)}"
            raise StageError("shape_mismatch", cause, "give the weights of this architecture and size")
    if differing := sorted(own.keys() - state.keys()) or sorted(state.keys() - own.keys()):
        cause = f"{path.name} and the model differ in {differing[0]}"
        raise StageError("corrupt_weights", cause, "give the weights of this very architecture, whole")
    model.load_state_dict(state, strict=True)
    return model


def script(card: Card, path: Path, weights: str) -> SourceModel:
    """A TorchScript file. Raises StageError."""
    try:
        module = torch.jit.load(str(path), map_location="cpu").eval()
    except RuntimeError as error:
        raise StageError("corrupt_weights", f"{path.name} is not a TorchScript file: {error}", "download or rebuild it") from None
    return _source(card, "torchscript", weights, _Script(module, card))


def _source(card: Card, form: SourceFormat, weights: str, module: torch.nn.Module) -> SourceModel:
    parameters = list(module.parameters())
    return SourceModel(
        card=card,
        format=form,
        weights=weights,
        module=module.eval(),
        parameters=sum(tensor.numel() for tensor in parameters),
        parameter_bytes=sum(tensor.numel() * tensor.element_size() for tensor in parameters),
        held=held_by_module(module),
    )


class _Tensors(torch.nn.Module):  # type: ignore[misc]
    """A module of tensors around a model of keyword arguments and named outputs."""

    def __init__(self, model: torch.nn.Module, method: str | None, card: Card) -> None:
        super().__init__()
        self.model, self._method, self._outputs = model, method, card.outputs
        self._names = [entry.name for entry in card.inputs]

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        call = self.model if self._method is None else getattr(self.model, self._method)
        result = call(**dict(zip(self._names, tensors, strict=True)))
        if isinstance(result, torch.Tensor):
            return (result,)
        return result if isinstance(result, tuple) else tuple(getattr(result, name) for name in self._outputs)


class _Script(torch.nn.Module):  # type: ignore[misc]
    """TorchScript as it is, but with a tuple of the named outputs as its answer: those of a mapping by name, else the first."""

    def __init__(self, script: torch.jit.ScriptModule, card: Card) -> None:
        super().__init__()
        self.script, self._outputs = script, card.outputs

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        result = self.script(*tensors)
        if isinstance(result, dict):
            whole = result.keys() >= set(self._outputs)
            result = [result[name] for name in self._outputs] if whole else list(result.values())
        return (result,) if isinstance(result, torch.Tensor) else tuple(result)[: len(self._outputs)]


# --- ranking models that transformers and diffusers don't have ----------------------------------------------------------------
# Wide & Deep: Cheng et al., Wide & Deep Learning for Recommender Systems, 2016. DLRM: Naumov et al., Deep Learning
# Recommendation Model for Personalization and Recommendation Systems, 2019.


class WideDeep(nn.Module):  # type: ignore[misc]
    """A linear model over all features beside a deep one over embeddings and numbers; one logit.

    Inputs: `dense` float [batch, numbers], `categories` int64 [batch, columns]. Output: [batch, 1].
    """

    def __init__(self, numbers: int, cardinalities: list[int], embedding: int = 16, hidden: tuple[int, ...] = (256, 128)) -> None:
        super().__init__()
        self.wide_numbers = nn.Linear(numbers, 1)
        self.wide_categories = nn.ModuleList(nn.Embedding(count, 1) for count in cardinalities)
        self.deep_categories = nn.ModuleList(nn.Embedding(count, embedding) for count in cardinalities)
        self.deep = _layers([numbers + embedding * len(cardinalities), *hidden, 1])

    def forward(self, dense: torch.Tensor, categories: torch.Tensor) -> torch.Tensor:
        wide = self.wide_numbers(dense)
        columns = [dense]
        for column, (narrow, rich) in enumerate(zip(self.wide_categories, self.deep_categories, strict=True)):
            wide = wide + narrow(categories[:, column])
            columns.append(rich(categories[:, column]))
        return wide + self.deep(torch.cat(columns, dim=1))


class Dlrm(nn.Module):  # type: ignore[misc]
    """Bottom layers over numbers, embeddings of categories, dot products of all pairs, top layers; one logit.

    Inputs and output as WideDeep.
    """

    def __init__(
        self,
        numbers: int,
        cardinalities: list[int],
        embedding: int = 64,
        bottom: tuple[int, ...] = (512, 256),
        top: tuple[int, ...] = (512, 256),
    ) -> None:
        super().__init__()
        self.bottom = _layers([numbers, *bottom, embedding])
        self.tables = nn.ModuleList(nn.Embedding(count, embedding) for count in cardinalities)
        vectors = len(cardinalities) + 1
        self.top = _layers([embedding + vectors * (vectors - 1) // 2, *top, 1])
        rows, columns = torch.tril_indices(vectors, vectors, offset=-1)
        self.register_buffer("pairs", rows * vectors + columns, persistent=False)

    def forward(self, dense: torch.Tensor, categories: torch.Tensor) -> torch.Tensor:
        low = self.bottom(dense)
        vectors = torch.stack([low, *[table(categories[:, column]) for column, table in enumerate(self.tables)]], dim=1)
        products = torch.bmm(vectors, vectors.transpose(1, 2)).flatten(1)
        return self.top(torch.cat([low, products[:, self.pairs]], dim=1))


def _layers(sizes: list[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for wide, narrow in pairwise(sizes):
        layers += [nn.Linear(wide, narrow), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


OWN: dict[str, Any] = {"WideDeep": WideDeep, "Dlrm": Dlrm}
"""Of cards whose `library` is own."""
