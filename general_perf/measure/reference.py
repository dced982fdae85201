"""The reference outputs of a model, on the CPU in the highest precision that fits: made once a model, kept as a file.

A torch model runs in float64 where it can (its code casts nothing to float32 by hand, memory suffices), else in
float32. An ONNX file runs in ONNX's own reference evaluator, plain numpy in the file's precision; where that lacks an
operator or would take minutes, in ONNX Runtime with every optimisation off. What was taken is kept beside the outputs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bytemlperf.child.limits import memory_to_plan_with
from general_perf.backends.contract import Arrays, Outputs, SourceModel

if TYPE_CHECKING:
    import torch

KIND_KEY = "reference_kind"
DOUBLE_FACTOR = 4
"""A model in float64 needs twice its bytes for weights, as much again while it is converted, and activations."""

EVALUATOR_BYTES = 1 << 20
"""ONNX's reference evaluator is plain Python: a convolution over more than this takes minutes."""

Predict = Callable[[Arrays], Outputs]


def reference_of(model: SourceModel, probe: Arrays) -> tuple[Predict, str]:
    """What answers as the reference, and in words what it is. `probe` is one batch that it must be able to answer."""
    if model.onnx_path is not None:
        return _onnx(model, probe)
    if model.format == "torchscript":
        return plain_of(model), "TorchScript, CPU, as the file is"
    if model.parameter_bytes * DOUBLE_FACTOR > memory_to_plan_with():
        return plain_of(model), "torch eager, CPU, float32 (float64 does not fit the memory)"
    predict = _double(model)
    try:
        predict(probe)
    except (RuntimeError, TypeError, ValueError):
        return plain_of(model), "torch eager, CPU, float32 (the model can't run in float64)"
    return predict, "torch eager, CPU, float64"


def plain_of(model: SourceModel) -> Predict:
    """The model in float32 on the CPU: what accuracy is compared with."""
    if model.onnx_path is None:
        from general_perf.backends.tensors import tensors_of

        return lambda inputs: outputs_of(model, model.module, tensors_of(inputs, model))
    from general_perf.backends.onnx_files import OrtSession, cpu_session

    return OrtSession(cpu_session(model.onnx_path), model).predict


def save(path: Path, arrays: Outputs, kind: str) -> None:
    """Keep outputs (plain arrays, read back without pickles), whole or not at all."""
    part = path.with_name(f"part-{path.name}")
    np.savez(part, **arrays, **{KIND_KEY: np.array(kind)})  # type: ignore[arg-type]  # a name of ours is no flag of theirs
    part.replace(path)


def read(path: Path) -> tuple[Outputs, str]:
    """Outputs by name, and what made them."""
    with np.load(path, allow_pickle=False) as held:
        arrays = {name: held[name] for name in held.files if name != KIND_KEY}
        return arrays, str(held[KIND_KEY])


def _double(model: SourceModel) -> Predict:
    import torch

    from general_perf.backends.tensors import floats_as, tensors_of

    module = copy.deepcopy(model.module).double()
    return lambda inputs: outputs_of(model, module, floats_as(torch.float64, tensors_of(inputs, model)))


def outputs_of(model: SourceModel, call: Callable[..., Any], tensors: tuple[torch.Tensor, ...]) -> Outputs:
    """What a callable of tensors, such as the model's module, answers."""
    import torch

    with torch.inference_mode():
        return {name: tensor.numpy() for name, tensor in zip(model.card.outputs, call(*tensors), strict=True)}


def _onnx(model: SourceModel, probe: Arrays) -> tuple[Predict, str]:
    from onnx.reference import ReferenceEvaluator

    plain = "ONNX Runtime, CPU, every optimisation off (ONNX's reference evaluator"
    if sum(array.nbytes for array in probe.values()) > EVALUATOR_BYTES:
        return plain_of(model), f"{plain} is too slow for inputs so large)"
    try:
        evaluator = ReferenceEvaluator(str(model.onnx_path))
        names = dict(zip(evaluator.input_names, model.input_names, strict=True))

        def predict(inputs: Arrays) -> Outputs:
            arrays = evaluator.run(None, {theirs: inputs[ours] for theirs, ours in names.items()})
            return dict(zip(model.card.outputs, arrays, strict=False))

        predict(probe)
    except Exception:  # its operators raise what they like; the other way is said in the record
        return plain_of(model), f"{plain} can't run the file)"
    return predict, "ONNX reference evaluator, numpy, as the file is"
