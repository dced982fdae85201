"""Counting a call of torch: operators and FLOPs, as they pass torch's dispatcher."""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple


class Counted(NamedTuple):
    """Operators of a call, by name, and its FLOPs (2 per multiply-add; torch's own formulas)."""

    names: Counter[str]
    flops: int

    @property
    def operators(self) -> int:
        return sum(self.names.values())


def count_call(call: Any, tensors: tuple[Any, ...]) -> Counted:
    """Run `call` once and count. Views and other operators without arithmetic count as operators too."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import FlopCounterMode

    names: Counter[str] = Counter()

    class CountMode(TorchDispatchMode):  # type: ignore[misc]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            names[func._schema.name] += 1
            return func(*args, **(kwargs or {}))

    with torch.no_grad(), FlopCounterMode(display=False) as flops, CountMode():
        call(*tensors)
    return Counted(names, int(flops.get_total_flops()))
