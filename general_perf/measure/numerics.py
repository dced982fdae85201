"""How far outputs are from a reference of higher precision. Nothing that isn't finite is ever zeroed or dropped unseen.

Differences are taken where both values are finite; places where they aren't are counted on either side, and one that is
finite in the reference alone fails the comparison. Relative differences leave out places where the reference is 0,
which are counted. All arithmetic is float64.

The reference outputs of a model, on the CPU in the highest precision that fits: made once a model, kept as a file.

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
from general_perf.backends.contract import Array, Arrays, Outputs, SourceModel
from general_perf.backends.onnx_files import OrtSession, cpu_session
from general_perf.backends.tensors import floats_as, tensors_of
from general_perf.card import Tolerance

if TYPE_CHECKING:
    import torch
else:
    from bytemlperf.lazy import torch


BINS = 24
TINY = 1e-300


def compare(ours: Array, reference: Array, distribution: str) -> dict[str, Any]:
    """One output's comparison, JSON-ready. Raises ValueError where the shapes differ.

    Keys: count, nonfinite {ours, reference, only_ours}, abs and rel {max, mean, std}, rel_left_out, cosine, kl {mean,
    max} or None, reference_rms, scaled_max (largest absolute difference over reference_rms), zeros {ours,
    reference} as shares, histogram.
    """
    if ours.shape != reference.shape:
        raise ValueError(f"shape mismatch: the backend returned {list(ours.shape)}, the reference {list(reference.shape)}")
    one: Array = ours.astype(np.float64)
    two: Array = reference.astype(np.float64)
    fine_one, fine_two = np.isfinite(one), np.isfinite(two)
    both = fine_one & fine_two
    left, right = one[both], two[both]
    with np.errstate(over="ignore"):
        gap = np.abs(left - right)
    nonzero = right != 0
    rms = float(np.sqrt(np.mean(right**2))) if right.size else 0.0
    return {
        "count": int(one.size),
        "nonfinite": {
            "ours_nan": int(np.isnan(one).sum()),
            "ours_inf": int(np.isinf(one).sum()),
            "reference_nan": int(np.isnan(two).sum()),
            "reference_inf": int(np.isinf(two).sum()),
            "only_ours": int((~fine_one & fine_two).sum()),
        },
        "abs": _moments(gap),
        "rel": _moments(gap[nonzero] / np.abs(right[nonzero])),
        "rel_left_out": int((~nonzero).sum()),
        "cosine": _cosine(left, right),
        "kl": _kl(one, two, both, distribution),
        "reference_rms": rms,
        "scaled_max": float(gap.max() / rms) if gap.size and rms > 0 else (0.0 if gap.size and not gap.any() else None),
        "zeros": {"ours": _share(left == 0), "reference": _share(right == 0)},
        "histogram": _histogram(left, right),
    }


def verdict(comparisons: dict[str, dict[str, Any]], tolerance: Tolerance) -> bool:
    """Whether every output is within the tolerance and as finite as the reference."""
    for compared in comparisons.values():
        if compared["nonfinite"]["only_ours"] or compared["scaled_max"] is None or compared["scaled_max"] > tolerance.scaled_max:
            return False
        if compared["cosine"] is not None and compared["cosine"] < tolerance.cosine:
            return False
    return True


def decide(output: Array, rule: str, distribution: str) -> Array | None:
    """The decisions that an output stands for: the largest along the last axis, or which values pass the threshold
    (0 for logits, 0.5 for probabilities); None where the card names no rule."""
    if rule == "argmax":
        safe = np.where(np.isfinite(output), output, -np.inf)
        return np.asarray(safe.argmax(axis=-1))
    if rule == "threshold":
        return np.asarray(output > (0.0 if distribution == "sigmoid" else 0.5))
    return None


def _moments(values: Array) -> dict[str, float] | None:
    if not values.size:
        return None
    return {"max": float(values.max()), "mean": float(values.mean()), "std": float(values.std())}


def _cosine(one: Array, two: Array) -> float | None:
    """None where a side is all zero: an angle to nothing."""
    lengths = float(np.linalg.norm(one) * np.linalg.norm(two))
    return float(np.dot(one, two) / lengths) if lengths > 0 else None


def _share(flags: Array) -> float | None:
    return float(flags.mean()) if flags.size else None


def _kl(one: Array, two: Array, both: Array, distribution: str) -> dict[str, float] | None:
    """Kullback-Leibler divergence of ours from the reference's distribution, nats: over the last axis with softmax
    or probabilities, of each value with sigmoid (Bernoulli). Rows with a value that isn't finite are left out; None without any."""
    if distribution in ("softmax", "probabilities"):
        if distribution == "probabilities":
            one, two = (np.log(np.clip(values, TINY, None)) for values in (one, two))
        rows = both.reshape(-1, both.shape[-1]).all(axis=1)
        ours, reference = (log_softmax(values.reshape(-1, values.shape[-1])[rows]) for values in (one, two))
        values = (np.exp(reference) * (reference - ours)).sum(axis=1)
    elif distribution == "sigmoid":
        values = np.zeros(int(both.sum()))
        for sign in (1.0, -1.0):
            ours, reference = (-np.logaddexp(0.0, -sign * values[both]) for values in (one, two))
            values += np.exp(reference) * (reference - ours)
    else:
        return None
    return {"mean": float(values.mean()), "max": float(values.max())} if values.size else None


def log_softmax(logits: Array) -> Array:
    """Logarithms of the probabilities, over the last axis."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def _histogram(one: Array, two: Array) -> dict[str, Any] | None:
    """Counts of both over the same bins, which span both."""
    if not one.size:
        return None
    low, high = float(min(one.min(), two.min())), float(max(one.max(), two.max()))
    if high - low < TINY:
        high = low + 1.0
    edges = np.linspace(low, high, BINS + 1)
    return {
        "edges": [float(edge) for edge in edges],
        "ours": [int(count) for count in np.histogram(one, edges)[0]],
        "reference": [int(count) for count in np.histogram(two, edges)[0]],
    }


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
        return lambda inputs: outputs_of(model, model.module, tensors_of(inputs, model))
    return OrtSession(cpu_session(model.onnx_path), model).predict


def save_outputs(path: Path, arrays: Outputs, kind: str) -> None:
    """Keep outputs (plain arrays, read back without pickles), whole or not at all."""
    part = path.with_name(f"part-{path.name}")
    np.savez(part, **arrays, **{KIND_KEY: np.array(kind)})  # type: ignore[arg-type]  # a name of ours is no flag of theirs
    part.replace(path)


def read_outputs(path: Path) -> tuple[Outputs, str]:
    """Outputs by name, and what made them."""
    with np.load(path, allow_pickle=False) as held:
        arrays = {name: held[name] for name in held.files if name != KIND_KEY}
        return arrays, str(held[KIND_KEY])


def _double(model: SourceModel) -> Predict:
    module = copy.deepcopy(model.module).double()
    return lambda inputs: outputs_of(model, module, floats_as(torch.float64, tensors_of(inputs, model)))


def outputs_of(model: SourceModel, call: Callable[..., Any], tensors: tuple[torch.Tensor, ...]) -> Outputs:
    """What a callable of tensors, such as the model's module, answers."""
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
