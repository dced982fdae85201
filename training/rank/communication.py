"""What the ranks send each other in a step: counted as it happens, and worked out on paper.

`CommunicationMeter` is a dispatch mode: every collective passes through torch's dispatcher, those that
DDP's C++ code starts too. Bus factors are those of nccl-tests (PERFORMANCE.md): the bytes that a link
carries whatever the algorithm, n ranks: all_reduce 2(n−1)/n, reduce_scatter, all_gather and all_to_all
(n−1)/n of the full tensor, broadcast and point-to-point 1.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from training.plan.plan import Plan
from training.results.records import Transfer
from training.workload.flops import layer_parameters, outer_parameters

Key = tuple[str, int]
MIN_BYTES = 1024
"""Smaller ones (a norm, a count) are book-keeping: they are left out on both sides."""

NAMES = {
    "allreduce_": "all_reduce",
    "allreduce_coalesced_": "all_reduce",
    "all_reduce": "all_reduce",
    "all_reduce_": "all_reduce",
    "_allgather_base_": "all_gather",
    "allgather_": "all_gather",
    "allgather_into_tensor_coalesced_": "all_gather",
    "all_gather_into_tensor": "all_gather",
    "_reduce_scatter_base_": "reduce_scatter",
    "reduce_scatter_": "reduce_scatter",
    "reduce_scatter_tensor_coalesced_": "reduce_scatter",
    "reduce_scatter_tensor": "reduce_scatter",
    "alltoall_base_": "all_to_all",
    "alltoall_": "all_to_all",
    "all_to_all_single": "all_to_all",
    "broadcast_": "broadcast",
    "broadcast": "broadcast",
    "send": "p2p",
}
"""Operators of torch's namespaces `c10d` and `_c10d_functional`, and what they are. Receiving is not counted again."""

FULL_IS_OUTPUT = ("_allgather_base_", "allgather_", "allgather_into_tensor_coalesced_")


def bus_factor(op: str, ranks: int) -> float:
    """Bytes on the busiest link over bytes of the full tensor."""
    if op == "all_reduce":
        return 2 * (ranks - 1) / ranks
    return (ranks - 1) / ranks if op in ("reduce_scatter", "all_gather", "all_to_all") else 1.0


def meter() -> Any:
    """A context manager that counts collectives; `transfers()` gives what was seen."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    class CommunicationMeter(TorchDispatchMode):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.calls: Counter[Key] = Counter()
            self.bytes: Counter[Key] = Counter()
            self.largest: dict[Key, int] = {}

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func.namespace in ("c10d", "_c10d_functional"):
                self._count(func._schema.name.partition("::")[2], args)
            return func(*args, **(kwargs or {}))

        def _count(self, name: str, args: Any) -> None:
            ranks = next((size for size in map(_group_size, args[1:]) if size), 0)
            if name not in NAMES or ranks < 2:
                return
            size = _bytes(args[0] if name in FULL_IS_OUTPUT or name in _IN_PLACE else _input(name, args), torch)
            if name == "all_gather_into_tensor":
                size *= ranks
            if size < MIN_BYTES:
                return
            key = NAMES[name], ranks
            self.calls[key] += 1
            self.bytes[key] += size
            self.largest[key] = max(size, self.largest.get(key, 0))

        def transfers(self) -> list[Transfer]:
            return [transfer(op, group, self.calls[op, group], self.bytes[op, group]) for op, group in sorted(self.calls)]

    return CommunicationMeter()


_IN_PLACE = ("allreduce_", "allreduce_coalesced_", "broadcast_", "send")


def _input(name: str, args: Any) -> Any:
    second = ("_reduce_scatter_base_", "reduce_scatter_", "reduce_scatter_tensor_coalesced_", "alltoall_base_", "alltoall_")
    return args[1] if name in second else args[0]


def _bytes(value: Any, torch: Any) -> int:
    if isinstance(value, torch.Tensor):
        return int(value.numel() * value.element_size())
    return sum(_bytes(each, torch) for each in value) if isinstance(value, (list, tuple)) else 0


def _group_size(argument: Any) -> int:
    """Ranks of a process group that an operator was given as an object or by name; 0 for anything else."""
    import torch
    import torch.distributed as dist

    if isinstance(argument, torch.ScriptObject):
        try:
            return int(dist.ProcessGroup.unbox(argument).size())
        except (RuntimeError, TypeError):
            return 0  # the reduce operation
    if isinstance(argument, str):
        try:
            return int(torch.distributed.distributed_c10d._resolve_process_group(argument).size())
        except (RuntimeError, KeyError, ValueError, LookupError):
            return 0
    return 0


def transfer(op: str, group: int, calls: int, size: int) -> Transfer:
    """A `Transfer` with its bus bytes."""
    return Transfer(op=op, group=group, calls=calls, bytes=size, bus_bytes=round(size * bus_factor(op, group)))


def analytic(plan: Plan) -> list[Transfer]:
    """The volume of a step on rank 0 by the textbook (Rajbhandari et al., ZeRO, 2020; Shoeybi et al.,
    Megatron-LM, 2019). Empty for a ResNet, whose parameters only the model itself knows."""
    workload, layout = plan.read_workload(), plan.layout
    if workload.family == "resnet" or layout.world == 1:
        return []
    size, recipe = workload.model, workload.training
    micro_batches = recipe.global_batch // (recipe.micro_batch * layout.dp)
    layers = size.layers // layout.pp
    element = 2 if recipe.precision == "bf16" else 4
    activation = recipe.micro_batch * size.seq_len * size.hidden * element
    found: Counter[Key] = Counter()
    if layout.tp > 1:  # two sums of activations a layer forward, two backward; Megatron splits the vocabulary too
        sums = 4 * layers + (2 if recipe.recompute == "full" else 0) * layers
        if plan.trainer == "megatron":
            sums += (1 if layout.pp == 1 else 0) + 1
        found["all_reduce", layout.tp] += sums * micro_batches * activation
    if layout.pp > 1:  # the first stage sends every micro-batch's activations on
        found["p2p", layout.pp] += micro_batches * activation
        if workload.family == "gpt":  # first and last stage share the embedding's gradient
            found["all_reduce", 2] += plan.vocabulary // layout.tp * size.hidden * 4
    if layout.ep > 1:  # every rank of the group gets all its tokens, with their routing; backward the other way
        places = layout.ep * recipe.micro_batch * size.seq_len
        tokens = layers * micro_batches * 2 * places * size.hidden * element
        routing = layers * micro_batches * places * (size.experts or 0) * 4
        found["all_gather", layout.ep] += tokens + routing + routing // 4
        found["reduce_scatter", layout.ep] += tokens + routing
    weights = _own_parameters(plan)
    if layout.dp > 1 and plan.sharding == "fsdp":
        layer_weights = layers * layer_parameters(workload) // layout.tp
        gathered = micro_batches * (2 * layer_weights + (weights - layer_weights))
        found["all_gather", layout.dp] += gathered * element
        found["reduce_scatter", layout.dp] += weights * 4
    elif layout.dp > 1 and plan.sharding == "zero1":
        found["all_gather", layout.dp] += weights * element
        found["reduce_scatter", layout.dp] += weights * 4
    elif layout.dp > 1:
        found["all_reduce", layout.dp] += weights * 4
    return [transfer(op, group, 0, amount) for (op, group), amount in sorted(found.items())]


def _own_parameters(plan: Plan) -> int:
    """Parameters whose gradients rank 0 shares with its data parallel group."""
    workload, layout = plan.read_workload(), plan.layout
    layer = layer_parameters(workload)
    if workload.model.experts and layout.ep > 1:
        experts = workload.model.experts * 3 * workload.model.hidden * workload.model.ffn_size
        layer -= experts
    inside = workload.model.layers // layout.pp * layer // layout.tp
    outer = outer_parameters(workload, plan.vocabulary)
    if layout.pp > 1:
        outer //= 2
    return inside + (outer // layout.tp if plan.trainer == "megatron" else outer)
