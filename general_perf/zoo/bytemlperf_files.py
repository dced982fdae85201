"""ByteMLPerf's own pairs of files, read unchanged: a workload and the model card that it names; either stands for both.

The card is looked for beside the workload, and in a `model_zoo/` beside its folder, as `model-<model>.json` or
`<model>.json`. Weights are where `model_path` says, from the working folder, the card's, or a folder above it. Inputs and
outputs are the card's own; with --random-weights our architecture whose name the model's begins with stands in, at the card's
sizes. What can't be run is a failure that is known before it begins, so that it becomes a row.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from bytemlperf.checked import StructT, check
from bytemlperf.errors import UserError
from bytemlperf.runs.files import read_plain
from engines.untrusted import UntrustedJson, decode_json
from general_perf.card import CLASSES, FORMATS, Architecture, Card, Input, Local, ModelClass, zoo
from general_perf.choices import LARGEST_BATCH, MOST_CALLS, MOST_INSTANCES
from general_perf.failures import ErrorClass

MAX_FILE_BYTES = 1 << 20
DTYPES = {"FLOAT32": "float32", "FLOAT16": "float16", "LONG": "int64", "INT64": "int64", "INT32": "int32", "BOOL": "bool"}
HIGH_ID = 1000
"""Random ids are below it, as ByteMLPerf's are: its cards name no vocabulary."""
CLASS_FOLDERS: dict[str, ModelClass] = {"regular": "regular", "popular": "business", "sota": "sota"}
UNKNOWN = Input(name="unknown", shape=["batch"], kind="zeros")


Name = Annotated[str, Meta(pattern=r"^[^/\\]+\Z")]


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    """ByteMLPerf's workload. Unknown keys are left alone, as it does."""

    model: Name
    test_perf: bool = True
    test_accuracy: bool = True
    test_numeric: bool = True
    clients: Annotated[int, Meta(ge=1, le=MOST_INSTANCES)] | None = None
    iterations: Annotated[int, Meta(ge=1, le=MOST_CALLS)] | None = None
    batch_sizes: Annotated[tuple[Annotated[int, Meta(ge=1, le=LARGEST_BATCH)], ...], Meta(min_length=1)] = (1,)
    data_percent: Annotated[float, Meta(gt=0, le=100)] = 100
    compile_only: bool = False


class ModelFile(msgspec.Struct, frozen=True, kw_only=True):
    """ByteMLPerf's model card."""

    model: Name
    model_path: Annotated[str, Meta(min_length=1)]
    framework: str = ""
    model_format: str = ""
    outputs: str | None = None
    input_shape: dict[str, list[Annotated[int, Meta(ge=1, le=1 << 31)]]] | None = None
    input_type: str | None = None
    layout: str = ""
    dataset_name: str | None = None
    max_batch_size: int | None = None


class Failed(NamedTuple):
    """Why a pair can't be run, known before it begins."""

    error_class: ErrorClass
    reason: str
    fix: str


class Read(NamedTuple):
    """A workload with a card of our form. `weights` is None where our architecture stands in."""

    workload: Workload
    card: Card
    weights: str | None
    failed: Failed | None = None


def workload_files(name: str) -> list[Path]:
    """Files of ByteMLPerf's that a model was named by: a JSON file, or those of a folder. Empty for other names."""
    path = Path(name)
    if path.is_dir() and name not in (*zoo(), *CLASSES, "all"):
        return sorted(path.glob("*.json"))
    return [path] * name.endswith(".json")


def read_workload(path: Path, weights: str | None = None, *, random_weights: bool = False) -> Read:
    """The pair that a file begins; `weights` replaces the card's. Raises UserError that names the file and key."""
    workload, model, card_file = _pair(path)
    too_large = [size for size in workload.batch_sizes if model.max_batch_size and size > model.max_batch_size]
    if too_large:
        raise UserError(
            f"{path.name} asks for batch {too_large[0]}, {card_file.name} allows {model.max_batch_size}", "lower it in the workload"
        )
    inputs, unclear = _inputs(model)
    own = random_weights or (weights is not None and (Path(weights).is_dir() or Path(weights).suffix == ".safetensors"))
    chosen = None if random_weights else weights or str(_weights(model, card_file))
    common: dict[str, Any] = {"name": _slug(workload.model), "dataset": model.dataset_name, "batch_sizes": list(workload.batch_sizes)}
    theirs = replace(
        unread(Path(chosen or model.model_path)),
        **common,
        model_class=next((name for folder, name in CLASS_FOLDERS.items() if folder in Path(model.model_path).parts), "regular"),
        inputs=inputs or [UNKNOWN],
        outputs=[name.strip() for name in (model.outputs or "").split(",") if name.strip()] or [UNKNOWN.name],
    )
    if unclear:
        return Read(
            workload, theirs, chosen, Failed("unsupported_format", f"{card_file.name} {unclear}", "name inputs with shapes and types")
        )
    if own:
        try:
            return Read(workload, replace(stand_in(theirs), **common), chosen)
        except ValueError as error:
            return Read(workload, theirs, chosen, Failed("missing_weights", str(error), "give its own weights"))
    return Read(workload, theirs, chosen, _unreadable(model, Path(str(chosen)), theirs))


def unread(path: Path) -> Card:
    """A card that has the name of a file, and nothing else that could be told of it."""
    return Card(
        name=_slug(path.stem),
        model_class="regular",
        task="ByteMLPerf's",
        source=Local(path=str(path), format=FORMATS.get(path.suffix, "onnx")),
        inputs=[UNKNOWN],
        outputs=[UNKNOWN.name],
    )


def _slug(model: str) -> str:
    """A model's name as a card may have it."""
    return re.sub(r"[^a-z0-9._-]+", "-", model.lower()).lstrip("._-") or "model"


def _pair(path: Path) -> tuple[Workload, ModelFile, Path]:
    """The workload, the model card, and the card's file."""
    held = _object(path)
    if "perf_config" in held or "model_interface" in held:
        raise UserError(f"{path.name} is of a language model", "measure those with bmp-llm")
    if "model_path" in held:
        model = _checked(held, ModelFile, path)
        beside = next((candidate for candidate in _places(path, model.model, "workloads") if candidate.is_file()), None)
        return (_checked(_object(beside), Workload, beside) if beside else Workload(model=model.model)), model, path
    workload = _checked(held, Workload, path)
    candidates = _places(path, workload.model, "model_zoo")
    card_file = next((candidate for candidate in candidates if candidate.is_file()), None)
    if card_file is None:
        cause = f"{path.name} names the model {workload.model}, whose card is neither beside it nor in a model_zoo/ beside its folder"
        raise UserError(cause, f"put {candidates[0].name} there")
    return workload, _checked(_object(card_file), ModelFile, card_file), card_file


def _places(path: Path, model: str, folder: str) -> list[Path]:
    """Where a file's other half may be."""
    here, names = path.absolute().parent, (f"model-{model}.json", f"{model}.json")
    candidates = [candidate / name for candidate in (here, here.parent / folder) for name in names]
    return [candidate for candidate in candidates if candidate != path.absolute()]


def _inputs(model: ModelFile) -> tuple[list[Input], str]:
    """The card's inputs, or what is unclear about them."""
    shapes, types = model.input_shape or {}, [kind.strip() for kind in (model.input_type or "").split(",")]
    if not shapes or not model.outputs:
        return [], "names no inputs or outputs (language models are measured by bmp-llm)"
    if len(types) < len(shapes):
        return [], f"names {len(shapes)} inputs and {len(types)} types"
    wrong = next((kind for kind in types if kind not in DTYPES), None)
    if wrong is not None:
        return [], f"has an input of type {wrong}, which is not one of {', '.join(DTYPES)}"
    return [_input(name, shape, DTYPES[kind], model.layout) for (name, shape), kind in zip(shapes.items(), types, strict=False)], ""


def _input(name: str, shape: list[int], dtype: Any, layout: str) -> Input:
    """Values as ByteMLPerf makes them: ids below 1000, masks and segments of 0 and 1, numbers around 0."""
    facts: dict[str, Any] = {"kind": "image" if len(shape) == 4 else "features"}
    if "mask" in name and dtype != "bool":
        facts = {"kind": "attention_mask"}
    elif "segment" in name or "token_type" in name:
        facts = {"kind": "timestep", "high": 2}
    elif dtype == "bool":
        facts = {"kind": "zeros"}
    elif not dtype.startswith("float") or "token" in name:
        facts = {"kind": "token_ids" if len(shape) > 1 else "timestep", "high": HIGH_ID}
    fixed = not shape or shape[0] != 1
    axes: list[int | str] = [*shape] if fixed else ["batch", *shape[1:]]
    return Input(name=name, shape=axes, dtype=dtype, fixed=fixed, nhwc=layout == "NHWC", **facts)


def _unreadable(model: ModelFile, weights: Path, card: Card) -> Failed | None:
    """What is known beforehand to be wrong with a card's own weights."""
    if weights.suffix not in FORMATS or (model.framework == "Tensorflow" and weights.suffix != ".onnx"):
        what = " ".join(filter(None, (model.framework, model.model_format or weights.suffix)))
        return Failed("unsupported_format", f"{what} is not read here", f"convert it to ONNX and name that with --weights{_or_ours(card)}")
    if not weights.is_file():
        return Failed("missing_weights", f"{weights} is not there", f"put the weights there, or give others with --weights{_or_ours(card)}")
    return None


def _or_ours(card: Card) -> str:
    try:
        stand_in(card)
    except ValueError:
        return ""
    return "; or --random-weights for our architecture"


def _weights(model: ModelFile, card_file: Path) -> Path:
    named = Path(model.model_path)
    folders = [Path(), *card_file.absolute().parents]
    return next((folder / named for folder in folders if (folder / named).exists()), named)


def _object(path: Path) -> dict[str, Any]:
    try:
        raw = read_plain(path.resolve())
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}", "give the path of a workload JSON") from None
    if len(raw) > MAX_FILE_BYTES:
        raise UserError(f"{path.name} is larger than {MAX_FILE_BYTES} bytes", "give a workload JSON")
    try:
        held = decode_json(raw, lenient=True)
    except UntrustedJson as error:
        raise UserError(f"{path.name} is not valid JSON: {error}", "fix the file") from None
    if not isinstance(held, dict):
        raise UserError(f"{path.name} is not a JSON object", "fix the file")
    return held


def _checked(held: dict[str, Any], struct: type[StructT], path: Path) -> StructT:
    return check(held, struct, lambda _: path.name, strict=False)


PARTS = ("encoder", "decoder")
NUMBERS = ("image", "features", "uniform")
"""Kinds of input that differ in their values alone."""


def stand_in(theirs: Card) -> Card:
    """Our card whose name a model's begins with, hyphens apart, its dims those of the model's inputs. Raises ValueError with why not.

    What the model takes beside ours is left out (segments); a mask that it hasn't got is ours.
    """
    plain = theirs.name.replace("-", "")
    base = max((name for name in zoo() if plain.startswith(name.replace("-", ""))), key=len, default="")
    part = next((part for part in PARTS if part in theirs.name and part not in base), "")
    ours = zoo().get(base)
    if ours is None or part or not isinstance(ours.source, Architecture):
        raise ValueError(f"no architecture of ours stands in for {theirs.name}" + (f": our {base} is more than the {part}" if part else ""))
    dims, remaining = dict[str, int](), list(theirs.inputs)
    for entry in ours.inputs:
        given = next((given for given in remaining if _alike(entry, given) and _sizes(entry, given, ours.dims) is not None), None)
        if given is not None:
            dims |= _sizes(entry, given, ours.dims) or {}
            remaining.remove(given)
        elif entry.kind != "attention_mask":
            offered = ", ".join(f"{given.name} {_shape(given)}" for given in theirs.inputs)
            raise ValueError(f"our {base} takes {entry.name} {_shape(entry)}, which {theirs.name} doesn't: it takes {offered}")
    source = replace(ours.source, stands_for=theirs.name)
    return replace(ours, dims={**ours.dims, **dims}, source=source)


def _alike(ours: Input, theirs: Input) -> bool:
    return ours.kind == theirs.kind or {ours.kind, theirs.kind} <= set(NUMBERS)


def _shape(entry: Input) -> str:
    return f"[{', '.join(map(str, entry.shape))}]"


def _sizes(ours: Input, theirs: Input, dims: Mapping[str, int]) -> dict[str, int] | None:
    """Our dims that make both shapes equal; None where they can't be."""
    shape = list(theirs.shape)
    if theirs.nhwc and len(shape) == 4:
        shape = [shape[0], shape[3], *shape[1:3]]
    if len(shape) != len(ours.shape):
        return None
    sizes: dict[str, int] = {}
    for our, their in zip(ours.shape, shape, strict=True):
        if our in dims and isinstance(our, str) and isinstance(their, int):
            if sizes.setdefault(our, their) != their:
                return None
        elif our != their:
            return None
    return sizes
