"""FLOPs of a model: counted once from its own graph, so that every backend says the same of it.

A backend's own graph may hold fewer products (what depends on weights alone is folded) or more (channels filled up to a
block): that is the backend's figure, `flops_executed`, and its share of the graph comes from there.
"""

from __future__ import annotations

import msgspec

from bytemlperf.lazy import torch
from bytemlperf.models.torch_flops import count_call
from general_perf.backends.contract import Arrays, Coverage, Details, SourceModel
from general_perf.backends.tensors import floats_as, tensors_of
from general_perf.measure.onnx_profile import flops_of_file


def model_flops(model: SourceModel, inputs: Arrays) -> tuple[int, dict[str, int]]:
    """FLOPs of one call, and operators that multiply and could not be counted, by name: of a torch model at torch's dispatcher, of an
    ONNX file from the shapes of a profiled run without optimisations."""
    if model.onnx_path is not None:
        return flops_of_file(model, inputs)
    like = next(iter(model.module.parameters()), torch.empty(0))
    tensors = tuple(tensor.to(like.device) for tensor in tensors_of(inputs, model))
    counted = count_call(model.module, floats_as(like.dtype, tensors))
    return counted.flops, counted.uncounted


def with_model_flops(coverage: Coverage, model: SourceModel, inputs: Arrays) -> Coverage:
    """A backend's coverage with the model's FLOPs; its own count stays beside, with what that left out."""
    flops, uncounted = model_flops(model, inputs)
    details: Details = {**coverage.details, "operators_without_flops_formula": uncounted}
    if coverage.flops is not None:
        details["flops_executed"] = coverage.flops
        details["executed_without_flops_formula"] = coverage.details.get("operators_without_flops_formula", {})
    return msgspec.structs.replace(coverage, flops=flops, details=details)
