"""FLOPs of a model: counted once from its own graph, so that every backend says the same of it.

A backend's own graph may hold fewer products (what depends on weights alone is folded) or more (channels filled up to a
block): that is the backend's figure, `flops_executed`, and its share of the graph comes from there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

if TYPE_CHECKING:
    from general_perf.backends.contract import Arrays, Coverage, SourceModel


class ModelFlops(NamedTuple):
    """FLOPs of one call, and operators that multiply and could not be counted, by name."""

    flops: int
    uncounted: dict[str, int]


def model_flops(model: SourceModel, inputs: Arrays) -> ModelFlops:
    """Of one call: a torch model's at torch's dispatcher, an ONNX file's from the shapes of a profiled run without optimisations."""
    if model.onnx_path is not None:
        from general_perf.measure.onnx_profile import flops_of_file

        return ModelFlops(*flops_of_file(model.onnx_path, inputs, model.input_names))
    import torch

    from bytemlperf.models.torch_flops import count_call

    like = next(iter(model.module.parameters()), torch.empty(0))
    tensors = [torch.from_numpy(inputs[name]).to(like.device) for name in model.input_names]
    counted = count_call(model.module, tuple(each.to(like.dtype) if each.is_floating_point() else each for each in tensors))
    return ModelFlops(counted.flops, counted.uncounted)


def with_model_flops(found: Coverage, model: SourceModel, inputs: Arrays) -> Coverage:
    """A backend's coverage with the model's FLOPs; its own count stays beside, with what that left out."""
    counted = model_flops(model, inputs)
    details: dict[str, Any] = {**found.details, "operators_without_flops_formula": counted.uncounted}
    if found.flops is not None:
        details |= {
            "flops_executed": found.flops,
            "executed_without_flops_formula": found.details.get("operators_without_flops_formula", {}),
        }
    return msgspec.structs.replace(found, flops=counted.flops, details=details)
