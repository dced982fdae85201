"""An ONNX file with the files beside it that hold its weights, where it is too large for one."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from general_perf.failures import StageError


def beside(path: Path, model: Any) -> list[Path]:
    """The files beside that hold weights of the model, each there and long enough. Raises StageError."""
    from onnx.external_data_helper import ExternalDataInfo, uses_external_data

    found: dict[str, Path] = {}
    for tensor in model.graph.initializer:
        if not uses_external_data(tensor):
            continue
        held = ExternalDataInfo(tensor)
        place = path.parent / held.location
        if not place.resolve().is_relative_to(path.parent.resolve()):
            raise StageError("corrupt_weights", f"{path.name} names weights outside its folder: {held.location}", "save it again")
        if not place.is_file():
            cause = f"{path.name} keeps weights in {held.location}, which is not beside it"
            raise StageError("missing_weights", cause, "put that file there")
        if (held.offset or 0) + (held.length or 0) > place.stat().st_size:
            raise StageError("corrupt_weights", f"{held.location} is shorter than {path.name} says", "download or rebuild both files")
        found[held.location] = place
    return list(found.values())


def copy_onnx(source: Path, target: Path) -> None:
    """The file under another name, with what lies beside it under the names that it says."""
    import onnx

    for place in beside(source, onnx.load(str(source), load_external_data=False)):
        copied = target.parent / place.relative_to(source.parent)
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(place, copied)
    shutil.copyfile(source, target)
