"""FLOPs of a model: counted once from its own graph, so that every backend says the same of it.

A backend's own graph may hold fewer products (what depends on weights alone is folded) or more (channels filled up to a
block): that is the backend's figure, `flops_executed`, and its share of the graph comes from there.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import msgspec

from bytemlperf.models.torch_flops import count_call
from general_perf.backends.contract import Arrays, Coverage, Details, SourceModel


class ModelFlops(NamedTuple):
    """FLOPs of one call, and operators that multiply and could not be counted, by name."""

    flops: int
    uncounted: dict[str, int]


class Tally:
    """Counts the operators of a backend's graph: which of them it took itself, and the FLOPs of those that multiply."""

    def __init__(self) -> None:
        self.nodes = self.flops = self._taken_flops = 0
        self._elsewhere: Counter[str] = Counter()
        self._unknown: Counter[str] = Counter()

    def add(self, kind: str, flops: int | None, *, taken: bool) -> None:
        """One operator; `flops` is None where it multiplies and can't be counted."""
        self.nodes += 1
        self._unknown[kind] += flops is None
        self._elsewhere[kind] += not taken
        self.flops += flops or 0
        self._taken_flops += (flops or 0) if taken else 0

    def coverage(self, method: str, details: Details, partitions: int | None = None) -> Coverage:
        """What was counted, as a coverage."""
        taken = self.nodes - self._elsewhere.total()
        return Coverage(
            method=method,
            nodes=self.nodes,
            taken_nodes=taken,
            graph_share=taken / self.nodes if self.nodes else None,
            flops=self.flops,
            flops_share=self._taken_flops / self.flops if self.flops else None,
            partitions=partitions,
            fallback_operators=dict(sorted((+self._elsewhere).items())),
            details={**details, "operators_without_flops_formula": dict(sorted((+self._unknown).items()))},
        )


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
