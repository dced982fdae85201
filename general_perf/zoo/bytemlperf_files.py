"""ByteMLPerf's own pair of files, read unchanged: a workload (`workload-<model>.json`) and the model card that it names.

The card is looked for beside the workload as `model-<model>.json` or `<model>.json`. Weights are where `model_path`
says, from the working folder or the card's. The architecture's inputs and outputs come from our card whose name the
model's begins with (`resnet50-torch-fp32`: resnet50), whose shapes must agree.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bytemlperf_llm.checked_yaml import nearest
from bytemlperf_llm.errors import UserError
from general_perf.card import Card, zoo
from general_perf.limits import ABOVE_0

MAX_FILE_BYTES = 1 << 20


class Workload(BaseModel):
    """ByteMLPerf's workload. Unknown keys are left alone, as it does."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    model: str = Field(min_length=1)
    test_perf: bool = True
    test_accuracy: bool = True
    test_numeric: bool = True
    clients: int | None = Field(default=None, ge=1, le=int(ABOVE_0["instances"]))
    iterations: int | None = Field(default=None, ge=1, le=int(ABOVE_0["iterations"]))
    batch_sizes: list[Annotated[int, Field(ge=1, le=int(ABOVE_0["batch-size"]))]] = Field(default=[1], min_length=1)
    data_percent: float = Field(default=100, gt=0, le=100)
    compile_only: bool = False


class ModelFile(BaseModel):
    """ByteMLPerf's model card."""

    model_config = ConfigDict(extra="ignore", frozen=True, protected_namespaces=())

    model: str
    model_path: str
    framework: str = ""
    model_format: str = ""
    model_precision: str = "FP32"
    inputs: str = ""
    outputs: str = ""
    input_shape: dict[str, list[int]] = {}
    input_type: str = ""
    dataset_name: str | None = None
    max_batch_size: int | None = None


class Read(NamedTuple):
    """A workload with its card: ours, named as theirs, and where the weights are (whether or not they're there)."""

    workload: Workload
    model: ModelFile
    card: Card
    weights: str


def is_workload(name: str) -> bool:
    """Whether a model was named by one of ByteMLPerf's files."""
    return name.endswith(".json")


def read_workload(path: Path) -> Read:
    """The pair that a workload file begins. Raises UserError that names the file and key."""
    workload = _load(path, Workload)
    places = [path.parent / f"model-{workload.model}.json", path.parent / f"{workload.model}.json"]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise UserError(f"{path.name} names the model {workload.model}, whose card is not beside it", f"put {places[0].name} there")
    model = _load(found, ModelFile)
    card = _card(workload, model, found)
    too_large = [size for size in workload.batch_sizes if model.max_batch_size and size > model.max_batch_size]
    if too_large:
        raise UserError(
            f"{path.name} asks for batch {too_large[0]}, {found.name} allows {model.max_batch_size}", "lower it in the workload"
        )
    return Read(workload, model, card, _weights(model, found))


def _card(workload: Workload, model: ModelFile, path: Path) -> Card:
    slug = re.sub(r"[^a-z0-9._-]+", "-", workload.model.lower())
    base = max((name for name in zoo() if slug.startswith(name)), key=len, default=None)
    if base is None:
        raise UserError(f"{path.name}: no card of ours fits the model {workload.model}", nearest(workload.model, zoo()))
    card = zoo()[base]
    shapes = list(model.input_shape.values())
    if shapes and len(shapes) != len(card.inputs):
        raise UserError(
            f"{path.name} names {len(shapes)} inputs, our card {base} has {len(card.inputs)}", "name every input in input_shape"
        )
    for wanted, theirs in zip(card.inputs, shapes, strict=False):
        ours = card.shape(wanted, theirs[0] if theirs else 1)
        if tuple(theirs) != ours:
            raise UserError(
                f"{path.name}: input_shape of {wanted.name} is {theirs}, our card {base} takes {list(ours)}", "mend input_shape"
            )
    dataset = card.dataset if card.dataset else model.dataset_name
    return card.model_copy(update={"name": slug, "dataset": dataset, "batch_sizes": list(workload.batch_sizes)})


def _weights(model: ModelFile, card_file: Path) -> str:
    named = Path(model.model_path)
    places = [named, card_file.parent / named]
    return str(next((place for place in places if place.exists()), named))


def _load(path: Path, model: Any) -> Any:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}", "give the path of a workload JSON") from None
    if len(raw) > MAX_FILE_BYTES:
        raise UserError(f"{path.name} is larger than {MAX_FILE_BYTES} bytes", "give a workload JSON")
    try:
        held = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path.name} is not valid JSON: {error}", "mend the file") from None
    if not isinstance(held, dict):
        raise UserError(f"{path.name} holds no JSON object", "mend the file")
    try:
        return model.model_validate(held)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{path.name}: {'.'.join(map(str, first['loc']))}: {first['msg']}", "mend the file") from None
