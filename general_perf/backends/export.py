"""From a torch module to a graph: torch.export with a dynamic batch axis, and ONNX from that."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from general_perf.backends.contract import Arrays, CompileOptions, SourceModel
from general_perf.failures import StageError

DEFAULT_OPSET = 20
ONNX_BYTES_LIMIT = 2_000_000_000
"""A protobuf file ends at 2 GiB; larger weights go beside it."""


def exported(module: Any, model: SourceModel, example: Arrays, extra: Any) -> Any:
    """The module as an ExportedProgram. `dynamic=false` among the options fixes the batch size of `example`."""
    import torch

    tensors = tuple(torch.from_numpy(example[name]) for name in model.input_names)
    dtype = next((each.dtype for each in module.parameters() if each.is_floating_point()), torch.float32)
    tensors = tuple(each.to(dtype) if each.is_floating_point() else each for each in tensors)
    shapes = None
    if is_dynamic(model, extra):
        axes = tuple({} if each.fixed else {0: torch.export.Dim.DYNAMIC} for each in model.card.inputs)
        shapes = (axes,) if _takes_star(module) else axes
    with torch.no_grad(), quiet():
        return torch.export.export(module, tensors, dynamic_shapes=shapes)


def is_dynamic(model: SourceModel, extra: Any) -> bool:
    """Whether the graph is to take any batch size."""
    return model.card.fixed_batch is None and extra.get("dynamic", "true") != "false"


def example_for(model: SourceModel, options: CompileOptions) -> Arrays:
    """Inputs to trace with: a batch of at least two where the batch is dynamic, since a 1 would be taken as a constant."""
    from general_perf.datasets.inputs import make_inputs

    if not is_dynamic(model, options.extra):
        return options.example
    batch = len(next(iter(options.example.values())))
    return options.example if batch > 1 else make_inputs(model.card, 2, seed=0)


def to_onnx(module: Any, model: SourceModel, options: CompileOptions, path: Path) -> Path:
    """Write the module as ONNX. Raises what the exporter raises."""
    import torch

    program = exported(module, model, example_for(model, options), options.extra)
    with quiet():
        made = torch.onnx.export(
            program,
            dynamo=True,
            optimize=True,
            verbose=False,
            opset_version=opset(options),
            input_names=model.input_names,
            output_names=[f"out_{name}" for name in model.card.outputs],
        )
        made.save(str(path), external_data=model.parameter_bytes > ONNX_BYTES_LIMIT)
    written = next(each.version for each in made.model_proto.opset_import if each.domain in ("", "ai.onnx"))
    if "opset" in options.extra and written != opset(options):
        raise StageError("unsupported_opset", f"torch's exporter wrote opset {written}, not {opset(options)}", f"give opset={written}")
    return path


def opset(options: CompileOptions) -> int:
    """The opset asked for with `opset=N`. Raises StageError for one that this ONNX doesn't know: the exporter would
    look for a way to it without end."""
    from onnx.defs import onnx_opset_version

    asked, newest = options.extra.get("opset", str(DEFAULT_OPSET)), onnx_opset_version()
    if not asked.isdigit() or not 0 < int(asked) <= newest:
        raise StageError("unsupported_opset", f"opset {asked} is not one that ONNX knows here", f"give opset=N up to {newest}")
    return int(asked)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep exporters' chatter out; their errors are raised all the same."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _takes_star(module: Any) -> bool:
    import inspect

    return any(each.kind is inspect.Parameter.VAR_POSITIONAL for each in inspect.signature(module.forward).parameters.values())
