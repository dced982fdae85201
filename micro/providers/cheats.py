"""Providers that cheat, each in one way that has been seen: what the checks must catch (`bmp micro check --cheats`).

None is listed or taken by `-p all`. Each starts from the operator's own torch expression.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING

from bytemlperf.lazy import torch
from micro.operators import attention
from micro.operators.contract import Args, Operator, Outputs, Run, Tensor, several, torch_dtype
from micro.providers.contract import Kernel, Provider, Refused

if TYPE_CHECKING:
    import numpy

PREFIX = "cheat:"
LATE_S = 0.2
"""How much later than its call a thread has its result: a kernel of that length."""

MOST_THREADS = 16


def _each(change: Callable[[Tensor], Tensor], outputs: Outputs) -> Outputs:
    return tuple(map(change, outputs)) if isinstance(outputs, tuple) else change(outputs)


def _kept_by(key: Callable[..., Hashable]) -> Callable[[Run], Run]:
    """The first result for a key, again and again."""

    def cheat(right: Run) -> Run:
        kept: dict[Hashable, Outputs] = {}

        def run(*inputs: Tensor) -> Outputs:
            known = key(*inputs)
            if known not in kept:
                kept[known] = _each(lambda part: part.clone(), right(*inputs))
            return kept[known]

        return run

    return cheat


def _addresses(*inputs: Tensor) -> Hashable:
    return tuple(part.data_ptr() for part in inputs)


def _content(*inputs: Tensor) -> Hashable:
    """What is in the buffers, by some of their values: quicker than a product of them."""
    return tuple(tuple(part.flatten()[:: max(1, part.numel() // 64)].tolist()) for part in inputs)


def _every_fourth(right: Run) -> Run:
    """The result of the last call that was one of four."""
    kept: list[Outputs] = []
    calls = itertools.count()

    def run(*inputs: Tensor) -> Outputs:
        if next(calls) % 4 == 0:
            kept[:] = [right(*inputs)]
        return kept[0]

    return run


def _returns_early(right: Run) -> Run:
    """Work goes on in a thread after the call."""

    def run(*inputs: Tensor) -> Outputs:
        results = _each(torch.empty_like, right(*inputs))

        def work() -> None:
            time.sleep(LATE_S)
            with torch.inference_mode():
                for result, part in zip(several(results), several(right(*inputs)), strict=True):
                    result.copy_(part)

        if threading.active_count() < MOST_THREADS:
            threading.Thread(target=work, daemon=True).start()
        return results

    return run


class _Lazy:
    """A result that is computed when somebody looks."""

    def __init__(self, compute: Callable[[], Tensor]) -> None:
        self._compute = compute

    def __array__(self, *_arguments: object, **_names: object) -> numpy.ndarray:
        values: numpy.ndarray = self._compute().float().numpy()
        return values


def _overwrites(right: Run) -> Run:
    def run(*inputs: Tensor) -> Outputs:
        outputs = _each(lambda part: part.clone(), right(*inputs))
        for part in inputs:
            part.view(dtype=part.dtype).zero_()
        return outputs

    return run


def _right_at_first(cheat: Callable[[Run], Run]) -> Callable[[Run], Run]:
    """As it should be while it is checked for the first time."""

    def later(right: Run) -> Run:
        ways = iter((right,))
        wrong = cheat(right)
        return lambda *inputs: next(ways, wrong)(*inputs)

    return later


def _returns_zeros(right: Run) -> Run:
    return lambda *inputs: _each(lambda part: part.new_zeros(part.shape), right(*inputs))


def _scaled(right: Run) -> Run:
    return lambda *inputs: _each(lambda part: (part.double() * 1.03).to(part.dtype), right(*inputs))


def _part(operator: Operator, args: Args) -> Run:
    """Every other key of a cache; of another operator three quarters of the first input's columns."""
    if operator.name in attention.ATTENTION:

        def some(*tensors: Tensor) -> Outputs:
            ones = attention.each_sequence(args, tensors, torch_dtype(attention.compute_type(args)))
            halves = [one._replace(k=one.k[:, ::2], v=one.v[:, ::2]) for one in ones]
            parts = [attention.rows_attended(one, 0, one.q.shape[1], False).transpose(0, 1) for one in halves]
            return torch.cat(parts).to(torch_dtype(args["dst_dtype"]))

        return some
    right = operator.kernel(args)

    def run(first: Tensor, *rest: Tensor) -> Outputs:
        less = first.clone()
        less[..., -(first.shape[-1] // 4 + 1) :] = 0
        return right(less, *rest)

    return run


def _from(cheat: Callable[[Run], Run]) -> Callable[[Operator, Args], Run]:
    return lambda operator, args: cheat(operator.kernel(args))


_WAYS: dict[str, tuple[str, Callable[[Operator, Args], Run]]] = {
    "once": ("computes once", _from(_kept_by(lambda *_inputs: 0))),
    "address": ("keeps results by the buffers' addresses", _from(_kept_by(_addresses))),
    "content": ("keeps results by what is in the buffers", _from(_kept_by(_content))),
    "fourth": ("computes one call of four", _from(_every_fourth)),
    "early": ("returns before a thread has finished", _from(_right_at_first(_returns_early))),
    "lazy": ("computes when the result is read", _from(lambda right: lambda *inputs: _Lazy(lambda: right(*inputs)))),
    "overwrites": ("overwrites its inputs", _from(_right_at_first(_overwrites))),
    "zeros": ("returns zeros", _from(_returns_zeros)),
    "first": ("is right at first, then returns zeros", _from(_right_at_first(_returns_zeros))),
    "part": ("leaves out keys, or columns", _part),
    "scaled": ("is 3 % too large", _from(_scaled)),
}


def _prepared(operator: Operator, args: Args, _device: str) -> Kernel:
    """All of the work is done with the weights, before the clock starts."""
    right = operator.kernel(args)
    return Kernel(lambda done: done, lambda inputs: (right(*inputs),))


def _provider(name: str, what: str, way: Callable[[Operator, Args], Run]) -> Provider:
    def build(operator: Operator, args: Args, device: str) -> Kernel:
        if operator.runner != "worker":
            raise Refused(f"{PREFIX}{name} is of single devices")
        if name == "content" and operator.cost(args).flops < CONTENT_FLOPS:
            raise Refused("reading the buffers would take as long as the work")
        return Kernel(way(operator, args), note=operator.emulation(args, device))

    return Provider(f"a cheat: {what}", build)


CONTENT_FLOPS = 10**9
CHEATS = {f"{PREFIX}{name}": _provider(name, what, way) for name, (what, way) in _WAYS.items()}
CHEATS[f"{PREFIX}prepared"] = Provider("a cheat: does its work while weights are prepared", _prepared)
