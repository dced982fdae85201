"""The correctness gate: outputs against a reference in higher precision, before anything is timed."""

from __future__ import annotations

from typing import Any

import msgspec

from micro.operators.contract import Args, Operator, Sample, Tensors, Tolerance


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """How far outputs are from the reference. `fault` is empty where they are within tolerance.
    `max_relative_error` is over reference values that are not tiny (at least 1 % of the largest)."""

    fault: str = ""
    max_absolute_error: float = 0.0
    max_relative_error: float = 0.0
    relative_tolerance: float = 0.0
    absolute_tolerance: float = 0.0
    values: int = 0


def check_outputs(operator: Operator, args: Args, inputs: Tensors, outputs: Any, reference: Any) -> Checked:
    """Compare, output by output; the worst one is returned."""
    if operator.comparable is not None:
        outputs = operator.comparable(args, inputs, outputs)
    got, expected = _several(outputs), _several(reference)
    if len(got) != len(expected):
        return Checked(fault=f"{len(got)} outputs instead of {len(expected)}")
    given = operator.tolerance(args)
    tolerances = [given] * len(expected) if isinstance(given, Tolerance) else list(given)
    results = [compare(*pair) for pair in zip(got, expected, tolerances, strict=True)]
    return next((result for result in results if result.fault), max(results, key=lambda result: result.max_absolute_error))


def compare(value: Any, expected: Any, tolerance: Tolerance) -> Checked:
    """One output against its reference, element by element in float64. NaN equals NaN only, infinity its like."""
    import torch

    value = value if isinstance(value, torch.Tensor) else torch.as_tensor(value)
    if isinstance(expected, Sample):
        value, expected = value[expected.rows.to(value.device)], expected.expected
    if tuple(value.shape) != tuple(expected.shape):
        return Checked(fault=f"shape {list(value.shape)} instead of {list(expected.shape)}")
    value, expected = value.detach().to("cpu", torch.float64), expected.detach().to("cpu", torch.float64)
    if not value.numel():
        return Checked(relative_tolerance=tolerance.relative, absolute_tolerance=tolerance.absolute)
    same = (value == expected) | (value.isnan() & expected.isnan())
    error = torch.where(same, 0.0, (value - expected).abs()).nan_to_num(nan=float("inf"))
    wrong = error > tolerance.absolute + tolerance.relative * expected.abs().nan_to_num(0.0, 0.0, 0.0)
    count, large = int(wrong.sum()), expected.abs() >= 0.01 * expected.abs().max()
    relative = (error / expected.abs())[large & (expected != 0)]
    worst = float(error.max())
    fault = ""
    if count:
        place = int(torch.where(wrong, error, -1.0).argmax())
        got, want = float(value.flatten()[place]), float(expected.flatten()[place])
        fault = f"{count} of {value.numel()} values are wrong; the worst is {got:.6g} instead of {want:.6g}"
    return Checked(
        fault=fault,
        max_absolute_error=min(worst, 1e308),  # JSON has no infinity
        max_relative_error=min(float(relative.max()), 1e308) if relative.numel() else 0.0,
        relative_tolerance=tolerance.relative,
        absolute_tolerance=tolerance.absolute,
        values=value.numel(),
    )


def _several(outputs: Any) -> list[Any]:
    several = isinstance(outputs, tuple | list) and not isinstance(outputs, Sample)  # a Sample is a tuple too
    return list(outputs) if several else [outputs]
