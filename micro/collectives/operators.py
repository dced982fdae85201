"""Collectives and links as operators of the table: what they move, and what every rank must hold afterwards.

The full tensor has batch_size · dim_size values; it is what each rank holds (all_reduce, broadcast,
all_to_all), gives (reduce_scatter) or gets (all_gather), as in nccl-tests and xpu-perf; moe_dispatch_tokens, an
all_to_all of uneven parts, is `dispatch`'s. Bus factors are
nccl-tests' (doc/PERFORMANCE.md): bytes on the busiest link over bytes of the full tensor, n ranks.

`inputs` are one rank's; `kernel` calls torch.distributed on the default group, whatever its backend;
`reference` takes an `AllInputs` and returns what this rank must hold.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bytemlperf.lazy import torch
from micro.collectives.contract import BACKEND, MAX_RANKS, AllInputs, world_size
from micro.collectives.dispatch import MOE_DISPATCH_TOKENS, received_bytes
from micro.operators.contract import (
    Args,
    Argument,
    Cost,
    Expected,
    Maker,
    Operator,
    Run,
    Tensor,
    Tensors,
    Tolerance,
    additions,
    dtype_argument,
)
from micro.operators.dtypes import DTYPES
from micro.operators.tensors import TensorSpec, drawn, times

SUMMED = ("float32", "float16", "bfloat16", "float64", "int32", "int64")
MOVED = (*SUMMED, "int8", "uint8")
LLM_NAMES = {"num_tokens": "batch_size", "hidden_size": "dim_size"}
NEEDS_DEVICE = ("host2device", "device2host", "device2device", "all_reduce_h2d")
"""Links between host and device memory: on a CPU there are no two memories, and a copy would be called a link."""

LINKS = ("host2device", "device2host", "device2device")
"""What one rank does by itself; several do it at the same time."""

SUMS_IN_PLACE = ("all_reduce", "all_reduce_h2d")
"""Each call's sum is the next call's input: values are restored before every sample."""

SMALL_AND_LARGE = [4, 64, 1024, 4096]
"""Rows of 1,024 values: 16 KiB to 16 MiB in float32."""

EXACT = Tolerance(0.0, 0.0)


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
    return WHOLE.bytes(args) * (2 if op == "all_reduce_h2d" else 1)


def _values(make: Maker, *shape: int, dtype: str) -> Tensor:
    """Random values of the dtype; integers small enough that sums of them fit."""
    return make.normal(*shape, dtype=dtype) if DTYPES[dtype].epsilon else make.integers(1, 100, *shape, dtype=dtype)


def _on_host(make: Maker, *shape: int, dtype: str) -> Tensor:
    return _values(make, *shape, dtype=dtype).cpu().pin_memory()


count = times("batch_size", "dim_size")
"""Values of the full tensor."""


def _part_size(args: Args) -> int:
    return count(args) // int(args["world_size"])


WHOLE, HOST = TensorSpec((count,), "dtype", _values), TensorSpec((count,), "dtype", _on_host)
PART = TensorSpec((_part_size,), "dtype", _values)


def _divisible(args: Args) -> str:
    if count(args) % args["world_size"]:
        return f"{count(args)} values can't be dealt to {args['world_size']} ranks; batch_size·dim_size must be a multiple of world_size"
    return ""


def _cost(op: str, read: Sequence[TensorSpec], written: Sequence[TensorSpec], adds: bool) -> Callable[[Args], Cost]:
    """Bytes that one rank reads and writes; the footprint is that of all ranks, which share this machine's memory
    on a CPU, and the restored copy of what is summed in place."""

    def cost(args: Args) -> Cost:
        ranks, reads, writes = int(args["world_size"]), *(sum(spec.bytes(args) for spec in specs) for specs in (read, written))
        kept = reads if op in SUMS_IN_PLACE else 0
        flops = count(args) * (ranks - 1) if adds and DTYPES[args["dtype"]].epsilon else 0
        return Cost(flops, reads, writes, footprint_bytes=ranks * (reads + writes + kept), flops_dtype=args["dtype"])

    return cost


def _sum_tolerance(args: Args) -> Tolerance:
    """One rounding for each addition; integers are exact."""
    return additions(args["dtype"], args["world_size"]) if DTYPES[args["dtype"]].epsilon else EXACT


# --- what a rank must hold ------------------------------------------------------------------------------------


def _sum_of(args: Args, every: AllInputs, part: slice) -> Tensor:
    """In float64 (integers: int64), one rank's values at a time."""
    wide = "double" if DTYPES[args["dtype"]].epsilon else "long"
    total = getattr(every[0][0][part], wide)()
    for rank in range(1, args["world_size"]):
        total.add_(getattr(every[rank][0][part], wide)())
    return total


def _own(args: Args, every: AllInputs) -> slice:
    return slice(every.rank * _part_size(args), (every.rank + 1) * _part_size(args))


def _joined(args: Args, every: AllInputs, part: slice) -> Tensor:
    return torch.cat([every[rank][0][part] for rank in range(args["world_size"])])


def _sent(args: Args, every: AllInputs) -> Tensor:
    return every[args["src_device"] if every.rank == args["dst_device"] else every.rank][0]


def _p2p_check(args: Args) -> str:
    source, target, ranks = args["src_device"], args["dst_device"], args["world_size"]
    if source == target:
        return f"rank {source} can't send to itself; src_device and dst_device must differ"
    return f"src_device and dst_device are ranks from 0 to {ranks - 1}" if max(source, target) >= ranks else ""


# --- kernels --------------------------------------------------------------------------------------------------


def _kernels() -> dict[str, Run]:
    """By operator, on the default group."""
    import torch.distributed as dist

    def all_reduce(x: Tensor) -> Tensor:
        dist.all_reduce(x)
        return x

    def broadcast(x: Tensor) -> Tensor:
        dist.broadcast(x, src=0)
        return x

    def reduce_scatter(source: Tensor, result: Tensor) -> Tensor:
        dist.reduce_scatter_tensor(result, source)
        return result

    def all_gather(source: Tensor, result: Tensor) -> Tensor:
        dist.all_gather_into_tensor(result, source)
        return result

    def all_to_all(source: Tensor, result: Tensor) -> Tensor:
        dist.all_to_all_single(result, source)
        return result

    def all_reduce_h2d(x: Tensor, source: Tensor, result: Tensor) -> Tensors:
        """The sum runs on the backend's own stream while host memory is copied on ours; a call ends with both."""
        work = dist.all_reduce(x, async_op=True)
        result.copy_(source, non_blocking=True)
        work.wait()
        return x, result

    return {kernel.__name__: kernel for kernel in (all_reduce, broadcast, reduce_scatter, all_gather, all_to_all, all_reduce_h2d)}


def _p2p_kernel(args: Args) -> Run:
    import torch.distributed as dist

    rank, source, target = dist.get_rank(), args["src_device"], args["dst_device"]

    def send(x: Tensor) -> Tensor:
        dist.send(x, target)
        return x

    def receive(x: Tensor) -> Tensor:
        dist.recv(x, source)
        return x

    return {source: send, target: receive}.get(rank, lambda x: x)


# --- the table ------------------------------------------------------------------------------------------------


def _collective(
    name: str,
    what: str,
    inputs: tuple[TensorSpec, ...],
    reference: Callable[[Args, AllInputs], Expected],
    *,
    writes: tuple[int, ...],
    dtypes: tuple[str, ...] = MOVED,
    basic_dtypes: tuple[str, ...] = ("float32",),
    kernel: Callable[[Args], Run] | None = None,
    more: tuple[Argument, ...] = (),
    read: Sequence[TensorSpec] = (WHOLE,),
    written: Sequence[TensorSpec] = (WHOLE,),
    tolerance: Callable[[Args], Tolerance | tuple[Tolerance, ...]] = lambda _args: EXACT,
    check: Callable[[Args], str] = lambda _args: "",
) -> Operator:
    """The buffer for a result has random values too, so that doing nothing is found out."""
    ranks = 1 if name in LINKS else 2
    return Operator(
        name=name,
        help=what,
        arguments=(
            world_size(ranks, ranks),
            Argument("batch_size", "int", "rows of the full tensor", 1024),
            Argument("dim_size", "int", "values in a row", 1024),
            dtype_argument(dtypes),
            BACKEND,
            *more,
        ),
        inputs=drawn(*inputs),
        kernel=kernel or (lambda _args: _kernels()[name]),
        reference=reference,
        cost=_cost(name, read, written, adds=dtypes == SUMMED),
        tolerance=tolerance,
        check=check,
        writes=writes,
        basic=({"world_size": ranks, "dtype": list(basic_dtypes), "batch_size": SMALL_AND_LARGE, "dim_size": 1024},),
        runner="ranks",
        aliases=LLM_NAMES,
    )


def _link(name: str, what: str, source: TensorSpec, target: TensorSpec) -> Operator:
    """A copy, of each rank by itself."""
    return _collective(
        name,
        f"{what}, each rank by itself",
        (source, target),
        lambda _args, every: every[every.rank][0],
        writes=(1,),
        kernel=lambda _args: lambda source, result: result.copy_(source, non_blocking=True),
    )


_TABLE = (
    _collective(
        "all_reduce",
        "every rank's tensor becomes the sum of all, in place",
        (WHOLE,),
        lambda args, every: _sum_of(args, every, slice(None)),
        writes=(0,),
        dtypes=SUMMED,
        basic_dtypes=("float32", "bfloat16"),
        tolerance=_sum_tolerance,
    ),
    _collective(
        "reduce_scatter",
        "each rank gets its part of the sum of all tensors",
        (WHOLE, PART),
        lambda args, every: _sum_of(args, every, _own(args, every)),
        writes=(1,),
        dtypes=SUMMED,
        written=(PART,),
        tolerance=_sum_tolerance,
        check=_divisible,
    ),
    _collective(
        "all_gather",
        "each rank gives a part, all get the whole tensor",
        (PART, WHOLE),
        lambda args, every: _joined(args, every, slice(None)),
        writes=(1,),
        read=(PART,),
        check=_divisible,
    ),
    _collective(
        "all_to_all",
        "each rank gives every other one a part of its tensor",
        (WHOLE, WHOLE),
        lambda args, every: _joined(args, every, _own(args, every)),
        writes=(1,),
        check=_divisible,
    ),
    MOE_DISPATCH_TOKENS,
    _collective("broadcast", "rank 0's tensor, to all", (WHOLE,), lambda _args, every: every[0][0], writes=(0,)),
    _collective(
        "p2p",
        "one rank sends, another receives; others stand by",
        (WHOLE,),
        _sent,
        writes=(0,),
        kernel=_p2p_kernel,
        more=(
            Argument("src_device", "int", "rank that sends", 0, low=0, high=MAX_RANKS),
            Argument("dst_device", "int", "rank that receives", 1, low=0, high=MAX_RANKS),
        ),
        check=_p2p_check,
    ),
    _link("host2device", "page-locked host memory to the device", HOST, WHOLE),
    _link("device2host", "the device's memory to page-locked host memory", WHOLE, HOST),
    _link("device2device", "within the device's memory", WHOLE, WHOLE),
    _collective(
        "all_reduce_h2d",
        "all_reduce while as much host memory is copied to the device",
        (WHOLE, HOST, WHOLE),
        lambda args, every: (_sum_of(args, every, slice(None)), every[every.rank][1]),
        writes=(0, 2),
        dtypes=SUMMED,
        read=(WHOLE, WHOLE),
        written=(WHOLE, WHOLE),
        tolerance=lambda args: (_sum_tolerance(args), EXACT),
    ),
)
COLLECTIVES: dict[str, Operator] = {operator.name: operator for operator in _TABLE}
