"""From a torch module to a graph: torch.export with a dynamic batch axis, and ONNX from that."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path

from bytemlperf.extras import require
from general_perf.backends.contract import Arrays, CompileOptions, SourceModel, quiet
from general_perf.backends.tensors import floats_as, tensors_of
from general_perf.datasets.inputs import make_inputs
from general_perf.failures import StageError

require("exporting a model", "general", "torch", "onnx")
import onnx  # noqa: E402
import torch  # noqa: E402

DEFAULT_OPSET = 20
ONNX_BYTES_LIMIT = 2_000_000_000
"""A protobuf file ends at 2 GiB; larger weights go beside it."""


def exported(module: torch.nn.Module, model: SourceModel, example: Arrays, extra: Mapping[str, str]) -> torch.export.ExportedProgram:
    """The module as an ExportedProgram. `dynamic=false` among the options fixes the batch size of `example`."""
    dtype = next((weight.dtype for weight in module.parameters() if weight.is_floating_point()), torch.float32)
    tensors = floats_as(dtype, tensors_of(example, model))
    shapes = None
    if is_dynamic(model, extra):
        axes = tuple({} if entry.fixed else {0: torch.export.Dim.DYNAMIC} for entry in model.card.inputs)
        takes_star = any(parameter.kind is parameter.VAR_POSITIONAL for parameter in inspect.signature(module.forward).parameters.values())
        shapes = (axes,) if takes_star else axes
    with torch.no_grad(), quiet():
        return torch.export.export(module, tensors, dynamic_shapes=shapes)


def is_dynamic(model: SourceModel, extra: Mapping[str, str]) -> bool:
    """Whether the graph is to take any batch size."""
    return model.card.fixed_batch is None and extra.get("dynamic", "true") != "false"


def example_for(model: SourceModel, options: CompileOptions) -> Arrays:
    """Inputs to trace with: a batch of at least two where the batch is dynamic, since a 1 would be taken as a constant."""
    if not is_dynamic(model, options.extra):
        return options.example
    batch = len(next(iter(options.example.values())))
    return options.example if batch > 1 else make_inputs(model.card, 2, seed=0)


def to_onnx(model: SourceModel, options: CompileOptions, path: Path) -> None:
    """Write the model as ONNX; for bf16 with a module that is cast inside. Raises what the exporter raises."""
    module: torch.nn.Module = model.module
    if options.precision == "bf16":
        module = _CastInside(copy.deepcopy(module).to(torch.bfloat16), torch.bfloat16).eval()
    program = exported(module, model, example_for(model, options), options.extra)
    with quiet():
        converted = torch.onnx.export(
            program,
            dynamo=True,
            optimize=True,
            verbose=False,
            opset_version=opset(options),
            input_names=model.input_names,
            output_names=[f"out_{name}" for name in model.card.outputs],
        )
        converted.save(str(path), external_data=model.parameter_bytes > ONNX_BYTES_LIMIT)
    written = next(entry.version for entry in converted.model_proto.opset_import if entry.domain in ("", "ai.onnx"))
    if "opset" in options.extra and written != opset(options):
        raise StageError("unsupported_opset", f"torch's exporter wrote opset {written}, not {opset(options)}", f"give opset={written}")


class _CastInside(torch.nn.Module):  # type: ignore[misc]
    """fp32 at the edges, `dtype` inside: numpy has no bf16."""

    def __init__(self, inner: torch.nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.inner, self._dtype = inner, dtype

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return floats_as(torch.float32, self.inner(*floats_as(self._dtype, tensors)))

    def parameters(self, recurse: bool = True) -> Iterator[torch.nn.Parameter]:  # noqa: ARG002
        return iter(())  # the example stays fp32: the cast is inside the graph


def opset(options: CompileOptions) -> int:
    """The opset that `opset=N` names. Raises StageError for one that this ONNX doesn't know: the exporter would
    look for a way to it without end."""
    named, newest = options.extra.get("opset", str(DEFAULT_OPSET)), onnx.defs.onnx_opset_version()
    if not named.isdigit() or not 0 < int(named) <= newest:
        raise StageError("unsupported_opset", f"opset {named} is not one that ONNX knows here", f"give opset=N up to {newest}")
    return int(named)
