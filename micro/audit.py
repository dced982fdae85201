"""Whether a kernel computed what it was timed for: one more timed call, on values that it has never seen.

A kernel can be fast because it remembers: its first result, a result by its buffers' addresses, or by what is in them;
or because it leaves the work to a thread and returns. So after the samples the buffers of one set are overwritten in
place with new values, the call on them is timed like the others, and what its result holds at that moment is compared with
the reference of the new values. Where that call took several times the median of the samples, calls on values that
were seen before had been cut short.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from statistics import median
from typing import Any, NamedTuple

from micro.check import Checked, check_outputs
from micro.operators.contract import Args, Operator, Tensors
from micro.providers.contract import Kernel
from micro.timing import Stopwatch, Timed

SEEDS_APART = 7_919
"""From a case's seed to that of other values for the same case."""

SLOWER = 3.0
SLOWER_NS = 500_000
"""A call on new values that takes so many times the median, and so much longer, found nothing to repeat: the samples did.
Less is what threads take to wake up, or another process."""

TRIES = 5
WARM_CALLS = 2


class LastCall(NamedTuple):
    """`outputs` are copies made when the clock had stopped; `fault` is what is wrong whatever they hold."""

    values: Tensors
    outputs: Any
    fault: str = ""


def copied(inputs: Tensors) -> Tensors:
    """Inputs of its own for a call."""
    return tuple(_copy(part) for part in inputs)


def value_sets(kernel: Kernel, prepared: Tensors, inputs: Tensors, others: Callable[[], Tensors], count: int) -> list[Tensors]:
    """`count` sets of inputs to take turns, prepared, of which neighbours hold different values; `prepared` of `inputs` is
    the last."""
    both = (others(), inputs) if count > 1 else ()
    return [*(kernel.prepare(copied(both[(place + count) % 2])) for place in range(count - 1)), prepared]


def last_call(
    kernel: Kernel, writes: Sequence[int], sets: list[Tensors], values: Tensors, clock: Stopwatch, timed: Timed | None
) -> LastCall:
    """Overwrite the last set with `values` and time one call on it, after calls on others. `writes` are inputs that may change."""
    new = kernel.prepare(copied(values))
    for mine in sets[-WARM_CALLS - 1 :]:  # memory for results is there, threads are awake, and others' work may still be under way
        kernel.run(*mine)
    sets[-1] = overwritten(sets[-1], new)
    kept: list[Any] = []

    def keeping(*inputs: Any) -> None:
        kept.append(kernel.run(*inputs))

    took_ns = clock.time_ns(keeping, [sets[-1]])
    fault = unusual(kept[0])
    outputs = None if fault else _copy(kept[0])
    kept.clear()
    fault = fault or changed(new, sets[-1], set(writes) | set(kernel.writes))
    if timed is not None and not timed.graph and not fault:  # a graph leaves the host's launches out, this call doesn't
        fault = _remembered(kernel, sets[-1], took_ns, values, clock, timed)
    return LastCall(values, outputs, fault)


def judged(operator: Operator, args: Args, last: LastCall, everyones: Any = None) -> Checked:
    """What its outputs are, compared with the reference of its values (of collectives: of `everyones`)."""
    if last.fault:
        return Checked(fault=last.fault)
    reference = operator.reference(args, last.values if everyones is None else everyones)
    return check_outputs(operator, args, last.values, last.outputs, reference)


def _remembered(kernel: Kernel, buffers: Tensors, took_ns: int, values: Tensors, clock: Stopwatch, timed: Timed) -> str:
    """The sentence where every call on new values is far slower than those of the samples, "" where one isn't."""
    usual_ns = median(timed.samples_ns) / timed.calls
    for _ in range(TRIES - 1):
        if took_ns <= SLOWER * usual_ns + SLOWER_NS:
            return ""
        values = _turned(values)
        buffers = overwritten(buffers, kernel.prepare(copied(values)))
        took_ns = min(took_ns, clock.time_ns(kernel.run, [buffers]))
    return f"a call on values not seen before took {took_ns / 1000:,.0f} µs, {took_ns / usual_ns:,.1f} times the median: results are kept"


def _turned(values: Tensors) -> Tensors:
    """The same values, those of the first input that holds no indices one place further."""
    import torch

    place = next((place for place, part in enumerate(values) if _is_data(part)), None)
    if place is None:
        return values
    turned = values[place].view(torch.uint8).flatten().roll(values[place].element_size())
    return (*values[:place], turned.view(values[place].dtype).view(values[place].shape), *values[place + 1 :])


def _is_data(part: Any) -> bool:
    return hasattr(part, "is_floating_point") and bool(part.is_floating_point() or part.element_size() == 1) and part.dim() > 0


def overwritten(old: Any, new: Any) -> Any:
    """`old` with the values of `new`, in the memory that it has; where that can't be (packed by a library), `new`."""
    import torch

    if isinstance(old, list | tuple):
        alike = isinstance(new, list | tuple) and len(new) == len(old)
        return type(old)(map(overwritten, old, new)) if alike else new
    with suppress(RuntimeError, TypeError, ValueError):
        if isinstance(old, torch.Tensor):
            if old.shape == new.shape and old.dtype == new.dtype and old.layout == new.layout == torch.strided:
                return old.copy_(new)
        elif type(old).__module__ == "numpy" and old.shape == new.shape:
            old[...] = new
            return old
    return new


def changed(before: Any, after: Any, allowed: set[int]) -> str:
    """Which input isn't what it was, "" where none; `allowed` ones may be."""
    for place, (one, other) in enumerate(zip(before, after, strict=False)):
        if place not in allowed and not _same(one, other):
            return f"the kernel overwrote its input {place}"
    return ""


def _same(one: Any, other: Any) -> bool:
    import torch

    if isinstance(one, torch.Tensor) and one.layout == torch.strided and one.shape == other.shape:
        return bool(torch.equal(_bytes(one), _bytes(other)))
    if isinstance(one, list | tuple):
        return all(map(_same, one, other))
    return bool((one == other).all()) if type(one).__module__ == "numpy" else True


def _bytes(tensor: Any) -> Any:
    import torch

    return tensor.contiguous().flatten().view(torch.uint8)  # NaN equals itself, float8 too


def unusual(outputs: Any) -> str:
    """A result that isn't plain memory may be computed when it is read, after the clock has stopped."""
    import numpy
    import torch

    for output in outputs if isinstance(outputs, list | tuple) else (outputs,):
        if type(output) not in (torch.Tensor, torch.nn.Parameter, numpy.ndarray) and not isinstance(output, numpy.generic):
            return f"a result of type {type(output).__name__}, neither a tensor nor an array"
    return ""


def _copy(part: Any) -> Any:
    if isinstance(part, list | tuple):
        return tuple(_copy(each) for each in part)
    if hasattr(part, "clone"):
        return part.clone().pin_memory() if part.is_pinned() else part.clone()
    return part.copy() if hasattr(part, "copy") else part
