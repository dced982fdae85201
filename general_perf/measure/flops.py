"""FLOPs of a model: counted once from its own graph, so that every backend says the same of it.

A backend's own graph may hold fewer products (what depends on weights alone is folded) or more (channels filled up to a
block): that is the backend's figure, `flops_executed`, and its share of the graph comes from there.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from bytemlperf.models.torch_flops import count_call
from general_perf.backends.contract import Arrays, Coverage, Details, SourceModel


class ModelFlops(NamedTuple):
    """FLOPs of one call, and operators that multiply and could not be counted, by name."""

    flops: int
    uncounted: dict[str, int]


def model_flops(model: SourceModel, inputs: Arrays) -> ModelFlops:
    """Of one call: a torch model's at torch's dispatcher, an ONNX file's from the shapes of a profiled run without optimisations."""
    if model.onnx_path is not None:
        from general_perf.measure.onnx_profile import flops_of_file

        return ModelFlops(*flops_of_file(model, inputs))
    import torch

    from general_perf.backends.tensors import floats_as, tensors_of

    like = next(iter(model.module.parameters()), torch.empty(0))
    tensors = tuple(tensor.to(like.device) for tensor in tensors_of(inputs, model))
    counted = count_call(model.module, floats_as(like.dtype, tensors))
    return ModelFlops(counted.flops, counted.uncounted)


def with_model_flops(coverage: Coverage, model: SourceModel, inputs: Arrays) -> Coverage:
    """A backend's coverage with the model's FLOPs; its own count stays beside, with what that left out."""
    counted = model_flops(model, inputs)
    details: Details = {**coverage.details, "operators_without_flops_formula": counted.uncounted}
    if coverage.flops is not None:
        details["flops_executed"] = coverage.flops
        details["executed_without_flops_formula"] = coverage.details.get("operators_without_flops_formula", {})
    return msgspec.structs.replace(coverage, flops=counted.flops, details=details)
