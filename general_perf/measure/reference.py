"""The reference outputs of a model, on the CPU in the highest precision that fits: made once a model, kept as a file.

A torch model runs in float64 where it can (its code casts nothing to float32 by hand, memory suffices), else in
float32. An ONNX file runs in ONNX's own reference evaluator, plain numpy in the file's precision; where that lacks an
operator or would take minutes, in ONNX Runtime with every optimisation off. What was taken is kept beside the outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from bytemlperf.child.limits import memory_to_plan_with
from general_perf.backends.contract import Arrays, SourceModel

KIND_KEY = "reference_kind"
DOUBLE_FACTOR = 4
"""A model in float64 needs twice its bytes for weights, as much again while it is converted, and activations."""

EVALUATOR_BYTES = 1 << 20
"""ONNX's reference evaluator is plain Python: a convolution over more than this takes minutes."""

Predict = Callable[[Arrays], dict[str, Any]]


def reference_of(model: SourceModel, probe: Arrays) -> tuple[Predict, str]:
    """What answers as the reference, and in words what it is. `probe` is one batch that it must be able to answer."""
    if model.onnx_path is not None:
        return _onnx(model, probe)
    if model.format == "torchscript":
        return _torch(model, model.module, None), "TorchScript, CPU, as the file is"
    if model.parameter_bytes * DOUBLE_FACTOR <= memory_to_plan_with():
        import copy

        import torch

        predict = _torch(model, copy.deepcopy(model.module).double(), torch.float64)
        try:
            predict(probe)
        except (RuntimeError, TypeError, ValueError):
            return _torch(model, model.module, None), "torch eager, CPU, float32 (the model can't run in float64)"
        return predict, "torch eager, CPU, float64"
    return _torch(model, model.module, None), "torch eager, CPU, float32 (float64 does not fit the memory)"


def plain_of(model: SourceModel) -> Predict:
    """The model in float32 on the CPU: what accuracy is compared with."""
    return _ort(model) if model.onnx_path is not None else _torch(model, model.module, None)


def save(path: Path, arrays: dict[str, Any], kind: str) -> None:
    """Keep outputs (plain arrays, read back without pickles), whole or not at all."""
    import numpy as np

    part = path.with_name(f"part-{path.name}")
    np.savez(part, **arrays, **{KIND_KEY: np.array(kind)})
    part.replace(path)


def read(path: Path) -> tuple[dict[str, Any], str]:
    """Outputs by name, and what made them."""
    import numpy as np

    with np.load(path, allow_pickle=False) as held:
        arrays = {name: held[name] for name in held.files if name != KIND_KEY}
        return arrays, str(held[KIND_KEY])


def _torch(model: SourceModel, module: Any, dtype: Any) -> Predict:
    import torch

    def predict(inputs: Arrays) -> dict[str, Any]:
        tensors = [torch.from_numpy(inputs[name]) for name in model.input_names]
        if dtype is not None:
            tensors = [each.to(dtype) if each.is_floating_point() else each for each in tensors]
        with torch.inference_mode():
            return {name: each.numpy() for name, each in zip(model.card.outputs, module(*tensors), strict=True)}

    return predict


def _onnx(model: SourceModel, probe: Arrays) -> tuple[Predict, str]:
    from onnx.reference import ReferenceEvaluator

    if sum(each.nbytes for each in probe.values()) > EVALUATOR_BYTES:
        return _ort(model), "ONNX Runtime, CPU, every optimisation off (ONNX's reference evaluator is too slow for inputs so large)"
    try:
        evaluator = ReferenceEvaluator(str(model.onnx_path))
        names = dict(zip(evaluator.input_names, model.input_names, strict=True))

        def predict(inputs: Arrays) -> dict[str, Any]:
            answers = evaluator.run(None, {theirs: inputs[ours] for theirs, ours in names.items()})
            return dict(zip(model.card.outputs, answers, strict=False))

        predict(probe)
    except Exception:  # its operators raise what they like; the other way is said in the record
        return _ort(model), "ONNX Runtime, CPU, every optimisation off (ONNX's reference evaluator can't run the file)"
    return predict, "ONNX reference evaluator, numpy, as the file is"


def _ort(model: SourceModel) -> Predict:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(model.onnx_path), options, providers=["CPUExecutionProvider"])
    names = dict(zip([each.name for each in session.get_inputs()], model.input_names, strict=True))

    def predict(inputs: Arrays) -> dict[str, Any]:
        answers = session.run(None, {theirs: inputs[ours] for theirs, ours in names.items()})
        return dict(zip(model.card.outputs, answers, strict=False))

    return predict
