"""The correctness gate: outputs against a reference in higher precision, before anything is timed.

Whether a kernel computed what it was timed for: one more timed call, on values that it has never seen.

A kernel can be fast because it remembers: its first result, a result by its buffers' addresses, or by what is in them;
because its work was done while weights were prepared; or because it leaves the work to a thread and returns. So after the
samples the inputs of one set are overwritten in place (all but the constants, which may be packed), the call on them is timed
like the others, and what its result holds at that moment is compared with the reference of the new values. One more call,
on other values again, must not give the same result: a kernel that skips some of its calls may have done this one. Where calls
on new values all take several times the median of the samples, those on values that were seen before had been cut short.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from statistics import median
from typing import NamedTuple

import msgspec

from bytemlperf.lazy import numpy, torch
from micro.measure.timing import Stopwatch, Timed
from micro.operators.contract import Args, Expected, Operator, Outputs, Sample, Tensor, Tensors, Tolerance, several
from micro.providers.contract import Kernel


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


SEEDS_APART = 7_919
"""From a case's seed to that of other values for the same case."""

SLOWER = 3.0
SLOWER_NS = 50_000
"""A call on new values that takes so many times the median, and so much longer, found nothing to repeat: the samples did.
The quickest of some tries counts, since a single call may wait for threads or for another process."""

TRIES = 10
WARM_CALLS = 2


class LastCall(NamedTuple):
    """`outputs` are copies made when the clock had stopped; `fault` is what is wrong whatever they hold."""

    values: Tensors
    outputs: Outputs | None
    fault: str = ""


def copied(inputs: Tensors) -> Tensors:
    """Inputs of its own for a call."""
    return tuple(_copy(part) for part in inputs)


def value_sets(kernel: Kernel, prepared: Tensors, inputs: Tensors, others: Callable[[], Tensors], count: int) -> list[Tensors]:
    """`count` sets of inputs to take turns, prepared, of which neighbours hold different values; `prepared` of `inputs` is
    the last."""
    both = (others(), inputs) if count > 1 else ()
    return [*(kernel.prepare(copied(both[(index + count) % 2])) for index in range(count - 1)), prepared]


def last_call(
    kernel: Kernel,
    writes: Sequence[int],
    sets: Sequence[Tensors],
    given: Tensors,
    values: Tensors,
    clock: Stopwatch,
    timed: Timed | None,
    constant: Collection[int] = (),
) -> LastCall:
    """Put `values` where the last set's inputs were `given` and time one call on it, after calls on others. `writes` are
    inputs that may change, `constant` ones that the kernel may have prepared a copy of."""
    for mine in sets[-WARM_CALLS - 1 :]:  # memory for results is there, threads are awake, and others' work may still be under way
        kernel.run(*mine)
    _overwrite(given, values)
    kept: list[Outputs] = []

    def keeping(*inputs: Tensor) -> None:
        kept.append(kernel.run(*inputs))

    took_ns = clock.time_ns(keeping, [sets[-1]])
    fault = unusual(kept[0])
    outputs = None if fault else _copy(kept[0])
    kept.clear()
    fault = fault or changed(values, given, set(writes) | set(kernel.writes))
    if timed is not None and not fault:
        wrote = [index for index in {*writes, *kernel.writes} if not torch.equal(_bytes(values[index]), _bytes(given[index]))]
        fault = _skipped(kernel, sets[-1], given, outputs, constant, wrote)
    if timed is not None and not timed.graph and not fault:  # a graph leaves the host's launches out, this call doesn't
        fault = _remembered(kernel, sets[-1], given, took_ns, clock, timed)
    return LastCall(values, outputs, fault)


def new_values(operator: Operator, args: Args, before: Tensors, fresh: Tensors) -> Tensors:
    """`fresh` inputs with the constants of those before: what may be prepared beforehand stays."""
    constant = operator.constant(args)
    return tuple(old if index in constant else new for index, (old, new) in enumerate(zip(before, fresh, strict=True)))


def _overwrite(given: Tensors, values: Tensors) -> None:
    """In the memory that is there."""
    for old, new in zip(given, values, strict=True):
        if hasattr(old, "copy_"):
            old.copy_(new)


def judged(operator: Operator, args: Args, last: LastCall, everyones: object = None) -> Checked:
    """What its outputs are, compared with the reference of its values (of collectives: of `everyones`)."""
    if last.fault:
        return Checked(fault=last.fault)
    reference = operator.reference(args, last.values if everyones is None else everyones)
    return check_outputs(operator, args, last.values, last.outputs, reference)


def _remembered(kernel: Kernel, buffers: Tensors, given: Tensors, took_ns: int, clock: Stopwatch, timed: Timed) -> str:
    """The sentence where every call on new values is far slower than those of the samples, "" where one isn't, or where
    calls on the same values again are as slow: the machine has become so."""
    usual_ns = median(timed.samples_ns) / timed.calls
    limit_ns = SLOWER * usual_ns + SLOWER_NS
    for _ in range(TRIES - 1):
        if took_ns <= limit_ns:
            return ""
        _turn(given)
        took_ns = min(took_ns, clock.time_ns(kernel.run, [buffers]))
    if min(clock.time_ns(kernel.run, [buffers]) for _ in range(TRIES)) > limit_ns:
        return ""
    return f"a call on new values took {took_ns / 1000:,.0f} µs, {took_ns / usual_ns:,.1f} times the median: results are kept"


def _skipped(kernel: Kernel, buffers: Tensors, given: Tensors, outputs: Outputs, constant: Collection[int], wrote: Sequence[int]) -> str:
    """The sentence where other values give the very same result, or leave those that the last call `wrote` as they are;
    "" where not, or where they might."""
    if not _turn(given) - set(constant):
        return ""
    _turn(tuple(given[index] for index in wrote))  # twice: a copy's result, turned like what it copied, would be right already
    before = [given[index].clone() for index in wrote]
    again = kernel.run(*buffers)
    if wrote:
        pairs = [(one, given[index]) for one, index in zip(before, wrote, strict=True)]
    else:
        pairs = [(torch.as_tensor(one), torch.as_tensor(other)) for one, other in zip(several(outputs), several(again), strict=True)]
        if all((one.float() == one.flatten()[:1].float()).all() for one, _ in pairs):  # a softmax of one value is 1, whatever that is
            return ""
    same = all(torch.equal(_bytes(one), _bytes(other)) for one, other in pairs)
    return "a call on other values gave the same result again: calls are skipped" if same else ""


def _turn(given: Tensors) -> set[int]:
    """Other values that need not be made: those of every input that holds no indices, one place further. Which have changed."""
    turned = set()
    for index, part in enumerate(given):
        if hasattr(part, "roll") and part.dim() and part.is_contiguous() and (part.is_floating_point() or part.element_size() == 1):
            flat = _bytes(part)
            further = flat.roll(part.element_size())
            if not torch.equal(flat, further):
                turned.add(index)
            flat.copy_(further)
    return turned


def changed(before: Tensors, after: Tensors, allowed: set[int]) -> str:
    """Which input isn't what it was, "" where none; `allowed` ones may be."""
    for index, (one, other) in enumerate(zip(before, after, strict=True)):
        if index not in allowed and hasattr(one, "flatten") and not torch.equal(_bytes(one), _bytes(other)):
            return f"the kernel overwrote its input {index}"
    return ""


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.contiguous().flatten().view(torch.uint8)  # NaN equals itself, float8 too


def unusual(outputs: Outputs) -> str:
    """A result that isn't plain memory may be computed when it is read, after the clock has stopped."""
    for output in several(outputs):
        if type(output) not in (torch.Tensor, torch.nn.Parameter, numpy.ndarray) and not isinstance(output, numpy.generic):
            return f"a result of type {type(output).__name__}, neither a tensor nor an array"
    return ""


def _copy(part: Outputs) -> Outputs:
    if isinstance(part, list | tuple):
        return tuple(map(_copy, part))
    if hasattr(part, "clone"):
        return part.clone().pin_memory() if part.is_pinned() else part.clone()
    return part.copy() if hasattr(part, "copy") else part
