"""The correctness gate: outputs against a reference in higher precision, before anything is timed."""

from __future__ import annotations

import msgspec

from bytemlperf.lazy import torch
from micro.operators.contract import Args, Expected, Operator, Outputs, Sample, Tensor, Tensors, Tolerance, several


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """How far outputs are from the reference. `fault` is empty where they are within tolerance.
    `max_relative_error` is over reference values that are not tiny (at least 1 % of the largest); `row_error` the worst row's
    root mean square error over that of its reference. The tolerances are `contract.Tolerance`'s."""

    fault: str = ""
    max_absolute_error: float = 0.0
    max_relative_error: float = 0.0
    row_error: float = 0.0
    relative_tolerance: float = 0.0
    absolute_tolerance: float = 0.0
    scale_tolerance: float = 0.0
    noise_tolerance: float = 0.0
    values: int = 0


def check_outputs(operator: Operator, args: Args, inputs: Tensors, outputs: Outputs, reference: Expected) -> Checked:
    """Compare, output by output; the worst one is returned."""
    if operator.comparable is not None:
        outputs = operator.comparable(args, inputs, outputs)
    got, expected = several(outputs), several(reference)
    if len(got) != len(expected):
        return Checked(fault=f"{len(got)} outputs instead of {len(expected)}")
    given = operator.tolerance(args)
    tolerances = [given] * len(expected) if isinstance(given, Tolerance) else list(given)
    results = [compare(*pair) for pair in zip(got, expected, tolerances, strict=True)]
    return next((result for result in results if result.fault), max(results, key=lambda result: result.max_absolute_error))


def compare(value: Tensor, expected: Tensor | Sample, tolerance: Tolerance) -> Checked:
    """One output against its reference, element by element in float64. NaN equals NaN only, infinity its like."""
    value = value if isinstance(value, torch.Tensor) else torch.as_tensor(value)
    if isinstance(expected, Sample):
        value, expected = value[expected.rows.to(value.device)], expected.expected
    if tuple(value.shape) != tuple(expected.shape):
        return Checked(fault=f"shape {list(value.shape)} instead of {list(expected.shape)}")
    value, expected = value.detach().to("cpu", torch.float64), expected.detach().to("cpu", torch.float64)
    if not value.numel():
        return Checked(relative_tolerance=tolerance.relative, absolute_tolerance=tolerance.absolute)
    shape = _by_row(expected)
    value, expected = value.reshape(shape), expected.reshape(shape)
    same = (value == expected) | (value.isnan() & expected.isnan())
    signed = torch.where(same, 0.0, value - expected).nan_to_num(nan=float("inf"))
    error, finite = signed.abs(), expected.nan_to_num(0.0, 0.0, 0.0)
    scale = finite.square().mean(1).sqrt()
    wrong = error > tolerance.absolute + tolerance.relative * finite.abs() + tolerance.of_scale * scale[:, None]
    count, large = int(wrong.sum()), expected.abs() >= 0.01 * expected.abs().max()
    relative = (error / expected.abs())[large & (expected != 0)]
    by_row = error.square().mean(1).sqrt()
    if count:
        worst = int(torch.where(wrong, error, -1.0).argmax())
        got, right = float(value.flatten()[worst]), float(expected.flatten()[worst])
        fault = f"{count} of {value.numel()} values are wrong; the worst is {got:.6g} instead of {right:.6g}"
    else:
        fault = _off_together(by_row, scale, signed, finite, tolerance) if tolerance.noise else ""
    return Checked(
        fault=fault,
        max_absolute_error=min(float(error.max()), 1e308),  # JSON has no infinity
        max_relative_error=min(float(relative.max()), 1e308) if relative.numel() else 0.0,
        row_error=min(float((by_row / scale.clamp_min(1e-300)).max()), 1e308),
        relative_tolerance=tolerance.relative,
        absolute_tolerance=tolerance.absolute,
        scale_tolerance=tolerance.of_scale,
        noise_tolerance=tolerance.noise,
        values=value.numel(),
    )


ROW_VALUES = 64
"""A row's root mean square says how large its values are from so many on."""

FACTOR, FACTOR_VALUES = 0.02, 1024
"""A factor common to so many values is no rounding, however coarse that is: the errors of which have random signs."""


def _by_row(expected: Tensor) -> tuple[int, int]:
    """Rows and their length: as few of the last dimensions as have `ROW_VALUES`, else everything is one row."""
    width = 1
    for size in reversed(expected.shape):
        width *= size
        if width >= ROW_VALUES:
            return expected.numel() // width, width
    return 1, expected.numel()


def _off_together(by_row: Tensor, scale: Tensor, signed: Tensor, expected: Tensor, tolerance: Tolerance) -> str:
    """What is wrong where every value by itself may be right, "" where nothing is."""
    over = by_row - (tolerance.absolute + tolerance.noise * scale)
    row = int(over.argmax())
    if over[row] > 0:
        off, count = float(by_row[row] / scale[row]), int((over > 0).sum())
        return f"{count} of {len(over)} rows are off as a whole; the worst by {off:.2%} of its size, not {tolerance.noise:.2%}"
    factor = float((signed * expected).sum() / expected.square().sum().clamp_min(1e-300))
    if abs(factor) > FACTOR and expected.numel() >= FACTOR_VALUES:
        return f"all values together are {factor:+.1%} off"
    return ""
