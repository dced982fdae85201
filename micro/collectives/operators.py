"""Collectives and links as operators of the table: what they move, and what every rank must hold afterwards.

The full tensor has batch_size · dim_size values; it is what each rank holds (all_reduce, broadcast,
all_to_all), gives (reduce_scatter) or gets (all_gather), as in nccl-tests and xpu-perf; moe_dispatch_tokens, an
all_to_all of uneven parts, is `dispatch`'s. Bus factors are
nccl-tests' (doc/PERFORMANCE.md): bytes on the busiest link over bytes of the full tensor, n ranks.

`inputs` are one rank's; `kernel` calls torch.distributed on the default group, whatever its backend;
`reference` takes an `AllInputs` and returns what this rank must hold.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from micro.collectives.arguments import BACKEND, MAX_RANKS, world_size
from micro.collectives.dispatch import MOE_DISPATCH_TOKENS, received_bytes
from micro.collectives.inputs import AllInputs
from micro.operators.contract import Args, Argument, Cost, Maker, Operator, Tensors, Tolerance, additions, dtype_argument
from micro.operators.dtypes import DTYPES, size_bytes

SUMMED = ("float32", "float16", "bfloat16", "float64", "int32", "int64")
MOVED = (*SUMMED, "int8", "uint8")
LLM_NAMES = {"num_tokens": "batch_size", "hidden_size": "dim_size"}
NEEDS_DEVICE = ("host2device", "device2host", "device2device", "all_reduce_h2d")
"""Links between host and device memory: on a CPU there are no two memories, and a copy would be called a link."""

LINKS = ("host2device", "device2host", "device2device")
"""What one rank does by itself; several do it at the same time."""

SUMS_IN_PLACE = ("all_reduce", "all_reduce_h2d")
"""Each call's sum is the next call's input: values are restored before every sample."""


def bus_factor(op: str, ranks: int) -> float:
    """Bytes on the busiest link over bytes of the full tensor."""
    if op == "all_reduce":
        return 2 * (ranks - 1) / ranks
    if op == "all_reduce_h2d":  # of both tensors together, which are equally large
        return (2 * (ranks - 1) / ranks + 1) / 2
    return (ranks - 1) / ranks if op in ("reduce_scatter", "all_gather", "all_to_all", "moe_dispatch_tokens") else 1.0


def link_bytes(op: str, args: Args) -> int:
    """Bytes of the full tensor (of both, where a host transfer runs beside the sum; what comes to a rank where parts
    are uneven)."""
    if op == "moe_dispatch_tokens":
        return received_bytes(args)
    return full_bytes(args) * (2 if op == "all_reduce_h2d" else 1)


def full_bytes(args: Args) -> int:
    """Bytes of batch_size · dim_size values."""
    return size_bytes(args["dtype"], count(args))


def count(args: Args) -> int:
    """Values of the full tensor."""
    return int(args["batch_size"] * args["dim_size"])


def _arguments(dtypes: tuple[str, ...], *more: Argument, ranks: Any = 2, fewest: int = 2) -> tuple[Argument, ...]:
    return (
        world_size(ranks, fewest),
        Argument("batch_size", "int", "rows of the full tensor", 1024),
        Argument("dim_size", "int", "values in a row", 1024),
        dtype_argument(dtypes),
        BACKEND,
        *more,
    )


def _divisible(args: Args) -> str:
    if count(args) % args["world_size"]:
        return f"{count(args)} values can't be dealt to {args['world_size']} ranks; batch_size·dim_size must be a multiple of world_size"
    return ""


def _values(args: Args, make: Maker, amount: int) -> Any:
    """Random values of the dtype; integers small enough that sums of them fit."""
    if DTYPES[args["dtype"]].epsilon:
        return make.normal(amount, dtype=args["dtype"])
    return make.integers(1, 100, amount, dtype=args["dtype"])


def _whole(args: Args, make: Maker) -> Tensors:
    return (_values(args, make, count(args)),)


def _with_output(given: Callable[[Args], int], got: Callable[[Args], int]) -> Callable[[Args, Maker], Tensors]:
    """A source, and a buffer for the result whose values are random too, so that doing nothing is found out."""

    def inputs(args: Args, make: Maker) -> Tensors:
        source = _values(args, make, given(args))
        return source, _values(args, make, got(args))

    return inputs


def _part(args: Args) -> int:
    return count(args) // int(args["world_size"])


def _cost(op: str, read: Callable[[Args], int], write: Callable[[Args], int], adds: bool = False) -> Callable[[Args], Cost]:
    """Bytes that one rank reads and writes; the footprint is that of all ranks, which share this machine's memory
    on a CPU, and the restored copy of what is summed in place."""

    def cost(args: Args) -> Cost:
        dtype, ranks = args["dtype"], int(args["world_size"])
        reads, writes = size_bytes(dtype, read(args)), size_bytes(dtype, write(args))
        kept = reads if op in SUMS_IN_PLACE else 0
        flops = count(args) * (ranks - 1) if adds and DTYPES[dtype].epsilon else 0
        return Cost(flops, reads, writes, footprint_bytes=ranks * (reads + writes + kept), flops_dtype=dtype)

    return cost


def _exact(_args: Args) -> Tolerance:
    return Tolerance(0.0, 0.0)


def _sum_tolerance(args: Args) -> Tolerance:
    """One rounding for each addition; integers are exact."""
    if not DTYPES[args["dtype"]].epsilon:
        return Tolerance(0.0, 0.0)
    return additions(args["dtype"], args["world_size"])


def _sum_of(args: Args, every: AllInputs, place: slice) -> Any:
    """In float64 (integers: int64), one rank's values at a time."""
    wide = "float64" if DTYPES[args["dtype"]].epsilon else "int64"
    total: Any = None
    for rank in range(args["world_size"]):
        part = getattr(every[rank][0][place], {"float64": "double", "int64": "long"}[wide])()
        total = part if total is None else total.add_(part)
    return total


def _own(args: Args, every: AllInputs) -> slice:
    size = _part(args)
    return slice(every.rank * size, (every.rank + 1) * size)


def _all_reduce_kernel(_args: Args) -> Callable[..., Any]:
    import torch.distributed as dist

    def all_reduce(x: Any) -> Any:
        dist.all_reduce(x)
        return x

    return all_reduce


def _reduce_scatter_kernel(_args: Args) -> Callable[..., Any]:
    import torch.distributed as dist

    def reduce_scatter(source: Any, result: Any) -> Any:
        dist.reduce_scatter_tensor(result, source)
        return result

    return reduce_scatter


def _all_gather_kernel(_args: Args) -> Callable[..., Any]:
    import torch.distributed as dist

    def all_gather(source: Any, result: Any) -> Any:
        dist.all_gather_into_tensor(result, source)
        return result

    return all_gather


def _all_to_all_kernel(_args: Args) -> Callable[..., Any]:
    import torch.distributed as dist

    def all_to_all(source: Any, result: Any) -> Any:
        dist.all_to_all_single(result, source)
        return result

    return all_to_all


def _broadcast_kernel(_args: Args) -> Callable[..., Any]:
    import torch.distributed as dist

    def broadcast(x: Any) -> Any:
        dist.broadcast(x, src=0)
        return x

    return broadcast


def _p2p_kernel(args: Args) -> Callable[..., Any]:
    import torch.distributed as dist

    rank, source, target = dist.get_rank(), args["src_device"], args["dst_device"]

    def send(x: Any) -> Any:
        dist.send(x, target)
        return x

    def receive(x: Any) -> Any:
        dist.recv(x, source)
        return x

    def stand_by(x: Any) -> Any:
        return x

    return {source: send, target: receive}.get(rank, stand_by)


def _copy_kernel(_args: Args) -> Callable[..., Any]:
    def copy(source: Any, result: Any) -> Any:
        return result.copy_(source, non_blocking=True)

    return copy


def _overlapped_kernel(_args: Args) -> Callable[..., Any]:
    """The sum runs on the backend's own stream while host memory is copied on ours; a call ends with both."""
    import torch.distributed as dist

    def overlapped(x: Any, source: Any, result: Any) -> Any:
        work = dist.all_reduce(x, async_op=True)
        result.copy_(source, non_blocking=True)
        work.wait()
        return x, result

    return overlapped


def _host_to_device(args: Args, make: Maker) -> Tensors:
    values = _values(args, make, count(args))
    return values.cpu().pin_memory(), _values(args, make, count(args))


def _device_to_host(args: Args, make: Maker) -> Tensors:
    values = _values(args, make, count(args))
    return values, _values(args, make, count(args)).cpu().pin_memory()


def _overlapped_inputs(args: Args, make: Maker) -> Tensors:
    return (_values(args, make, count(args)), *_host_to_device(args, make))


def _expected_all_to_all(args: Args, every: AllInputs) -> Any:
    import torch

    return torch.cat([every[rank][0][_own(args, every)] for rank in range(args["world_size"])])


def _expected_all_gather(args: Args, every: AllInputs) -> Any:
    import torch

    return torch.cat([every[rank][0] for rank in range(args["world_size"])])


def _expected_p2p(args: Args, every: AllInputs) -> Any:
    return every[args["src_device"] if every.rank == args["dst_device"] else every.rank][0]


def _p2p_check(args: Args) -> str:
    source, target, ranks = args["src_device"], args["dst_device"], args["world_size"]
    if source == target:
        return f"rank {source} can't send to itself; src_device and dst_device must differ"
    return f"src_device and dst_device are ranks from 0 to {ranks - 1}" if max(source, target) >= ranks else ""


SMALL_AND_LARGE = [4, 64, 1024, 4096]
"""Rows of 1,024 values: 16 KiB to 16 MiB in float32."""


def _basic(*dtypes: str, ranks: int = 2) -> tuple[dict[str, Any], ...]:
    return ({"world_size": ranks, "dtype": list(dtypes), "batch_size": SMALL_AND_LARGE, "dim_size": 1024},)


def _collective(name: str, what: str, **parts: Any) -> Operator:
    basic = parts.pop("basic", _basic("float32", ranks=1 if name in LINKS else 2))
    return Operator(name=name, family="collective", help=what, runner="ranks", aliases=LLM_NAMES, basic=basic, **parts)


COLLECTIVES: dict[str, Operator] = {
    "all_reduce": _collective(
        "all_reduce",
        "every rank's tensor becomes the sum of all, in place",
        writes=(0,),
        arguments=_arguments(SUMMED),
        inputs=_whole,
        kernel=_all_reduce_kernel,
        reference=lambda args, every: _sum_of(args, every, slice(None)),
        cost=_cost("all_reduce", count, count, adds=True),
        tolerance=_sum_tolerance,
        basic=_basic("float32", "bfloat16"),
    ),
    "reduce_scatter": _collective(
        "reduce_scatter",
        "each rank gets its part of the sum of all tensors",
        writes=(1,),
        arguments=_arguments(SUMMED),
        inputs=_with_output(count, _part),
        kernel=_reduce_scatter_kernel,
        reference=lambda args, every: _sum_of(args, every, _own(args, every)),
        cost=_cost("reduce_scatter", count, _part, adds=True),
        tolerance=_sum_tolerance,
        check=_divisible,
    ),
    "all_gather": _collective(
        "all_gather",
        "each rank gives a part, all get the whole tensor",
        writes=(1,),
        arguments=_arguments(MOVED),
        inputs=_with_output(_part, count),
        kernel=_all_gather_kernel,
        reference=_expected_all_gather,
        cost=_cost("all_gather", _part, count),
        tolerance=_exact,
        check=_divisible,
    ),
    "all_to_all": _collective(
        "all_to_all",
        "each rank gives every other one a part of its tensor",
        writes=(1,),
        arguments=_arguments(MOVED),
        inputs=_with_output(count, count),
        kernel=_all_to_all_kernel,
        reference=_expected_all_to_all,
        cost=_cost("all_to_all", count, count),
        tolerance=_exact,
        check=_divisible,
    ),
    "moe_dispatch_tokens": MOE_DISPATCH_TOKENS,
    "broadcast": _collective(
        "broadcast",
        "rank 0's tensor, to all",
        writes=(0,),
        arguments=_arguments(MOVED),
        inputs=_whole,
        kernel=_broadcast_kernel,
        reference=lambda _args, every: every[0][0],
        cost=_cost("broadcast", count, count),
        tolerance=_exact,
    ),
    "p2p": _collective(
        "p2p",
        "one rank sends, another receives; others stand by",
        writes=(0,),
        arguments=_arguments(
            MOVED,
            Argument("src_device", "int", "rank that sends", 0, low=0, high=MAX_RANKS),
            Argument("dst_device", "int", "rank that receives", 1, low=0, high=MAX_RANKS),
        ),
        inputs=_whole,
        kernel=_p2p_kernel,
        reference=_expected_p2p,
        cost=_cost("p2p", count, count),
        tolerance=_exact,
        check=_p2p_check,
    ),
    "host2device": _collective(
        "host2device",
        "page-locked host memory to the device, each rank by itself",
        writes=(1,),
        arguments=_arguments(MOVED, ranks=1, fewest=1),
        inputs=_host_to_device,
        kernel=_copy_kernel,
        reference=lambda _args, every: every[every.rank][0],
        cost=_cost("host2device", count, count),
        tolerance=_exact,
    ),
    "device2host": _collective(
        "device2host",
        "the device's memory to page-locked host memory, each rank by itself",
        writes=(1,),
        arguments=_arguments(MOVED, ranks=1, fewest=1),
        inputs=_device_to_host,
        kernel=_copy_kernel,
        reference=lambda _args, every: every[every.rank][0],
        cost=_cost("device2host", count, count),
        tolerance=_exact,
    ),
    "device2device": _collective(
        "device2device",
        "within the device's memory, each rank by itself",
        writes=(1,),
        arguments=_arguments(MOVED, ranks=1, fewest=1),
        inputs=_with_output(count, count),
        kernel=_copy_kernel,
        reference=lambda _args, every: every[every.rank][0],
        cost=_cost("device2device", count, count),
        tolerance=_exact,
    ),
    "all_reduce_h2d": _collective(
        "all_reduce_h2d",
        "all_reduce while as much host memory is copied to the device",
        writes=(0, 2),
        arguments=_arguments(SUMMED),
        inputs=_overlapped_inputs,
        kernel=_overlapped_kernel,
        reference=lambda args, every: (_sum_of(args, every, slice(None)), every[every.rank][1]),
        cost=_cost("all_reduce_h2d", lambda args: 2 * count(args), lambda args: 2 * count(args), adds=True),
        tolerance=lambda args: (_sum_tolerance(args), Tolerance(0.0, 0.0)),
    ),
}
