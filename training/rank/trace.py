"""Steps under torch.profiler: how long something computes, how long collectives are under way, and how long
of that nothing computes (exposed communication).

Operators without operators inside (leaves) are computing; collectives are the spans of gloo's or NCCL's
own work, from the call to its completion. Both are taken as unions of intervals, so that what runs at the
same time is counted once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch.profiler import ProfilerActivity, profile

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
    return [span for place, span in enumerate(ordered) if place + 1 == len(ordered) or ordered[place + 1][0] >= span[1]]


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
