"""What the ranks do in a step, and when: steps under torch.profiler, and what they send each other, counted as it happens.

`traced` says how long something computes, how long collectives are under way, and how long of that nothing computes (exposed
communication). Operators without operators inside (leaves) are computing; collectives are the spans of gloo's or NCCL's
own work, from the call to its completion. Both are taken as unions of intervals, so that what runs at the
same time is counted once. `CommunicationMeter` is a dispatch mode: every collective passes through torch's dispatcher, those
that DDP's C++ code starts too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch.distributed import ProcessGroup
from torch.distributed.distributed_c10d import _resolve_process_group
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from training.plan.traffic import transfer
from training.results.records import Transfer

Span = tuple[int, int]
COMMUNICATION = ("gloo:", "nccl:", "ncclDevKernel", "ncclKernel", "mpi:", "ucc:")
NO_WORK = ("aten::empty", "aten::view", "aten::detach", "aten::as_strided", "aten::transpose", "aten::t", "aten::item", "aten::alias")


class Traced:
    """What a traced block gave, in ns."""

    busy_ns = communication_ns = exposed_ns = 0


@contextmanager
def traced(device: str) -> Iterator[Traced]:
    """Profile the block; the result is filled in when it has ended."""
    times = Traced()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]
    with profile(activities=activities) as profiler:
        yield times
    computing, sending = spans(profiler.profiler.kineto_results.events(), device)
    times.busy_ns = length(computing)
    times.communication_ns = length(sending)
    times.exposed_ns = exposed(sending, computing)


def spans(events: Iterable[Any], device: str) -> tuple[list[Span], list[Span]]:
    """Unions of the computing and of the communicating intervals of kineto's events."""
    computing: dict[int, list[Span]] = {}
    sending: list[Span] = []
    for event in events:
        name, start = event.name(), event.start_ns()
        span = start, start + event.duration_ns()
        if name.startswith(COMMUNICATION):
            sending.append(span)
        elif device == "cuda":
            if "CUDA" in str(event.device_type()):
                computing.setdefault(0, []).append(span)
        elif name.startswith("aten::") and name not in NO_WORK:
            computing.setdefault(event.start_thread_id(), []).append(span)
    leaves = [leaf for thread in computing.values() for leaf in _leaves(thread)]
    return union(leaves), union(sending)


def _leaves(of_a_thread: list[Span]) -> list[Span]:
    """Those that hold no other one."""
    ordered = sorted(of_a_thread, key=lambda span: (span[0], -span[1]))
    return [span for index, span in enumerate(ordered) if index + 1 == len(ordered) or ordered[index + 1][0] >= span[1]]


def union(of: Iterable[Span]) -> list[Span]:
    """Intervals that don't touch, in order, covering the same."""
    merged: list[Span] = []
    for start, end in sorted(of):
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return merged


def exposed(sending: list[Span], computing: list[Span]) -> int:
    """How long something is sent and nothing computes."""
    return length(union([*sending, *computing])) - length(computing)


def length(of: Iterable[Span]) -> int:
    """Sum of the intervals' lengths."""
    return sum(end - start for start, end in of)


MIN_BYTES = 1024
"""Smaller ones (a norm, a count) are book-keeping: they are left out on both sides."""


class Collective(NamedTuple):
    """What an operator of torch's namespaces `c10d` and `_c10d_functional` is, and which of its arguments holds the full tensor."""

    op: str
    full: int = 0


COLLECTIVES = {
    **dict.fromkeys(("allreduce_", "allreduce_coalesced_", "all_reduce", "all_reduce_"), Collective("all_reduce")),
    **dict.fromkeys(
        ("_allgather_base_", "allgather_", "allgather_into_tensor_coalesced_", "all_gather_into_tensor"), Collective("all_gather")
    ),
    **dict.fromkeys(("_reduce_scatter_base_", "reduce_scatter_", "reduce_scatter_tensor_coalesced_"), Collective("reduce_scatter", 1)),
    "reduce_scatter_tensor": Collective("reduce_scatter"),
    **dict.fromkeys(("alltoall_base_", "alltoall_"), Collective("all_to_all", 1)),
    "all_to_all_single": Collective("all_to_all"),
    **dict.fromkeys(("broadcast_", "broadcast"), Collective("broadcast")),
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
