"""An ONNX file with the files beside it that hold its weights, what it holds, and sessions of it on the CPU as it stands."""

from __future__ import annotations

import math
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from general_perf.backends.contract import Array, Arrays, Outputs, SourceModel, held_by
from general_perf.failures import StageError

if TYPE_CHECKING:
    import onnx
    import onnxruntime
else:
    from bytemlperf.lazy import onnx, onnxruntime

NOT_WEIGHTS = ("int64", "int32", "bool")


class OrtSession:
    """One inference session of a model: the file's inputs and outputs by the names that the card has for them, in its order."""

    def __init__(self, session: onnxruntime.InferenceSession, model: SourceModel) -> None:
        self._session, self._outputs = session, model.card.outputs
        self._names = dict(zip([value.name for value in session.get_inputs()], model.input_names, strict=True))
        self._theirs = [value.name for value in session.get_outputs()][: len(self._outputs)]

    def predict(self, inputs: Arrays) -> Outputs:
        """See the contract."""
        arrays = self._session.run(self._theirs, {theirs: inputs[ours] for theirs, ours in self._names.items()})
        return dict(zip(self._outputs, arrays, strict=True))

    def device_memory_bytes(self) -> int | None:
        return None


def cpu_session(path: Path, settings: onnxruntime.SessionOptions | None = None, *, optimised: bool = False) -> onnxruntime.InferenceSession:
    """The file on the CPU, with every optimisation or with none."""
    levels = onnxruntime.GraphOptimizationLevel
    settings = settings or onnxruntime.SessionOptions()
    settings.graph_optimization_level = levels.ORT_ENABLE_ALL if optimised else levels.ORT_DISABLE_ALL
    settings.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])


def graph_of(path: Path) -> onnx.ModelProto:
    """The file without the weights that lie beside it."""
    return onnx.load(str(path), load_external_data=False)


def opset_of(model: onnx.ModelProto) -> int | None:
    """The opset of ONNX's own operators, the newest where there are several."""
    return max((opset.version for opset in model.opset_import if opset.domain in ("", "ai.onnx")), default=None)


def inputs_of(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """What a caller gives, in order: inputs that are no weights."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in weights]


def beside(path: Path, model: onnx.ModelProto) -> list[Path]:
    """The files beside that hold weights of the model, each there and long enough. Raises StageError."""
    files: dict[str, Path] = {}
    for tensor in filter(onnx.external_data_helper.uses_external_data, model.graph.initializer):
        held = onnx.external_data_helper.ExternalDataInfo(tensor)
        file = path.parent / held.location
        if not file.resolve().is_relative_to(path.parent.resolve()):
            raise StageError("corrupt_weights", f"{path.name} names weights outside its folder: {held.location}", "save it again")
        if not file.is_file():
            cause = f"{path.name} keeps weights in {held.location}, which is not beside it"
            raise StageError("missing_weights", cause, "put that file there")
        if (held.offset or 0) + (held.length or 0) > file.stat().st_size:
            raise StageError("corrupt_weights", f"{held.location} is shorter than {path.name} says", "download or rebuild both files")
        files[held.location] = file
    return list(files.values())


def copy_onnx(source: Path, target: Path) -> None:
    """The file under another name, with what lies beside it under the names that it says."""
    for file in beside(source, graph_of(source)):
        copied = target.parent / file.relative_to(source.parent)
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copied)
    shutil.copyfile(source, target)


def held_by_onnx(model: onnx.ModelProto) -> str:
    """The precision of an ONNX model's initializers with two axes or more."""
    values: Counter[str] = Counter()
    for tensor in model.graph.initializer:
        if len(tensor.dims) > 1:
            name = onnx.TensorProto.DataType.Name(tensor.data_type).lower().replace("uint4", "int4")
            values[name] += math.prod(tensor.dims)
    return held_by({name: count for name, count in values.items() if name not in NOT_WEIGHTS})


def weights_of(path: Path) -> Iterator[Array]:
    """Each initializer and constant of the graph, and of the graphs inside it (`If`, `Loop`)."""
    return _of_graph(onnx.load(str(path)).graph)


def _of_graph(graph: onnx.GraphProto) -> Iterator[Array]:
    for tensor in graph.initializer:
        yield onnx.numpy_helper.to_array(tensor)
    for attribute in (attribute for node in graph.node for attribute in node.attribute):
        if attribute.HasField("t"):
            yield onnx.numpy_helper.to_array(attribute.t)
        for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            yield from _of_graph(inner)
