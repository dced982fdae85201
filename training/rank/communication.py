"""What the ranks send each other in a step, counted as it happens.

`CommunicationMeter` is a dispatch mode: every collective passes through torch's dispatcher, those that
DDP's C++ code starts too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch.distributed import ProcessGroup
from torch.distributed.distributed_c10d import _resolve_process_group
from torch.utils._python_dispatch import TorchDispatchMode

from training.plan.traffic import transfer
from training.results.records import Transfer

MIN_BYTES = 1024
"""Smaller ones (a norm, a count) are book-keeping: they are left out on both sides."""


class Collective(NamedTuple):
    """What an operator of torch's namespaces `c10d` and `_c10d_functional` is, and which of its arguments holds the full tensor."""

    op: str
    full: int = 0


COLLECTIVES = {
    "allreduce_": Collective("all_reduce"),
    "allreduce_coalesced_": Collective("all_reduce"),
    "all_reduce": Collective("all_reduce"),
    "all_reduce_": Collective("all_reduce"),
    "_allgather_base_": Collective("all_gather"),
    "allgather_": Collective("all_gather"),
    "allgather_into_tensor_coalesced_": Collective("all_gather"),
    "all_gather_into_tensor": Collective("all_gather"),
    "_reduce_scatter_base_": Collective("reduce_scatter", 1),
    "reduce_scatter_": Collective("reduce_scatter", 1),
    "reduce_scatter_tensor_coalesced_": Collective("reduce_scatter", 1),
    "reduce_scatter_tensor": Collective("reduce_scatter"),
    "alltoall_base_": Collective("all_to_all", 1),
    "alltoall_": Collective("all_to_all", 1),
    "all_to_all_single": Collective("all_to_all"),
    "broadcast_": Collective("broadcast"),
    "broadcast": Collective("broadcast"),
    "send": Collective("p2p"),
}
"""Receiving is not counted again."""


class CommunicationMeter(TorchDispatchMode):  # type: ignore[misc]
    """A context that counts collectives; `transfers()` gives what was seen."""

    def __init__(self) -> None:
        super().__init__()
        self._calls: Counter[tuple[str, int]] = Counter()
        self._bytes: Counter[tuple[str, int]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        if func.namespace in ("c10d", "_c10d_functional"):
            self._count(func._schema.name.partition("::")[2], args)
        return func(*args, **(kwargs or {}))

    def _count(self, name: str, args: Sequence[Any]) -> None:
        ranks = next((size for size in map(_group_size, args[1:]) if size), 0)
        if name not in COLLECTIVES or ranks < 2:
            return
        op, full = COLLECTIVES[name]
        size = _bytes(args[full]) * (ranks if name == "all_gather_into_tensor" else 1)  # it is given a part
        if size >= MIN_BYTES:
            self._calls[op, ranks] += 1
            self._bytes[op, ranks] += size

    def transfers(self) -> list[Transfer]:
        """By kind of collective and size of group."""
        return [transfer(op, group, self._calls[op, group], self._bytes[op, group]) for op, group in sorted(self._calls)]


def _bytes(value: Any) -> int:
    """Of a tensor, or of all tensors in lists."""
    if isinstance(value, torch.Tensor):
        return int(value.numel() * value.element_size())
    return sum(map(_bytes, value)) if isinstance(value, (list, tuple)) else 0


def _group_size(argument: Any) -> int:
    """Ranks of a process group that an operator was given as an object or by name; 0 for anything else."""
    try:
        if isinstance(argument, torch.ScriptObject):
            return int(ProcessGroup.unbox(argument).size())
        return int(_resolve_process_group(argument).size()) if isinstance(argument, str) else 0
    except (RuntimeError, TypeError, LookupError, ValueError):
        return 0  # the reduce operation
