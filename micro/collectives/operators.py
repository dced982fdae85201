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

from bytemlperf.child.ranks import bus_factor as ranks_bus_factor
from bytemlperf.lazy import torch
from micro.collectives.contract import BACKEND, MAX_RANKS, AllInputs, world_size
from micro.collectives.dispatch import MOE_DISPATCH_TOKENS, received_bytes
from micro.operators.contract import (
    DTYPES,
    EXACT,
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


def bus_factor(op: str, ranks: int) -> float:
    """Bytes on the busiest link over bytes of the full tensor."""
    if op == "all_reduce_h2d":  # of both tensors together, which are equally large
        return (ranks_bus_factor("all_reduce", ranks) + 1) / 2
    return ranks_bus_factor("all_to_all" if op == "moe_dispatch_tokens" else op, ranks)


def link_bytes(op: str, args: Args) -> int:
    """Bytes of the full tensor (of both, where a host transfer runs beside the sum; what comes to a rank where parts
    are uneven)."""
    if op == "moe_dispatch_tokens":
        return received_bytes(args)
    return WHOLE.bytes(args) * (2 if op == "all_reduce_h2d" else 1)


def _values(make: Maker, *shape: int, dtype: str) -> Tensor:
    """Random values of the dtype; integers small enough that sums of them fit."""
    return make.normal(*shape, dtype=dtype) if DTYPES[dtype].epsilon else make.integers(1, 100, *shape, dtype=dtype)


count = times("batch_size", "dim_size")
"""Values of the full tensor."""


def _part_size(args: Args) -> int:
    return count(args) // int(args["world_size"])


WHOLE = TensorSpec((count,), "dtype", _values)
HOST = TensorSpec((count,), "dtype", lambda make, *shape, dtype: _values(make, *shape, dtype=dtype).cpu().pin_memory())
PART = TensorSpec((_part_size,), "dtype", _values)


def _divisible(args: Args) -> str:
    if count(args) % args["world_size"]:
        return f"{count(args)} values can't be dealt to {args['world_size']} ranks; batch_size·dim_size must be a multiple of world_size"
    return ""


def _cost(op: str, inputs: Sequence[TensorSpec], writes: Sequence[int], adds: bool) -> Callable[[Args], Cost]:
    """Bytes that one rank reads and writes; the footprint is that of all ranks, which share this machine's memory
    on a CPU, and the restored copy of what is summed in place. The first input is always read, others where they are no buffer
    for a result."""
    read = [spec for index, spec in enumerate(inputs) if not index or index not in writes]
    written = [inputs[index] for index in writes]

    def cost(args: Args) -> Cost:
        ranks, reads, writes = int(args["world_size"]), *(sum(spec.bytes(args) for spec in specs) for specs in (read, written))
        kept = reads if op in SUMS_IN_PLACE else 0
        flops = count(args) * (ranks - 1) if adds and DTYPES[args["dtype"]].epsilon else 0
        return Cost(flops, reads, writes, footprint_bytes=ranks * (reads + writes + kept), flops_dtype=args["dtype"])

    return cost


def _tolerances(adds: bool, results: int) -> Callable[[Args], tuple[Tolerance, ...]]:
    """Of the first result, where it is a sum, one rounding for each addition; integers and others are exact."""

    def tolerances(args: Args) -> tuple[Tolerance, ...]:
        rounds = adds and DTYPES[args["dtype"]].epsilon
        return (additions(args["dtype"], args["world_size"]) if rounds else EXACT, *[EXACT] * (results - 1))

    return tolerances


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


def _p2p_check(args: Args) -> str:
    source, target, ranks = args["src_device"], args["dst_device"], args["world_size"]
    if source == target:
        return f"rank {source} can't send to itself; src_device and dst_device must differ"
    return f"src_device and dst_device are ranks from 0 to {ranks - 1}" if max(source, target) >= ranks else ""


# --- kernels --------------------------------------------------------------------------------------------------


def _calling(name: str, *more: int) -> Callable[[Args], Run]:
    """torch.distributed's function of that name on the default group, in place or with a buffer for its result."""

    def kernel(_args: Args) -> Run:
        call = getattr(torch.distributed, name)

        def run(source: Tensor, *buffer: Tensor) -> Tensor:
            call(*buffer, source, *more)
            return buffer[0] if buffer else source

        return run

    return kernel


def _overlapped_kernel(_args: Args) -> Run:
    """The sum runs on the backend's own stream while host memory is copied on ours; a call ends with both."""

    def all_reduce_h2d(x: Tensor, source: Tensor, result: Tensor) -> Tensors:
        work = torch.distributed.all_reduce(x, async_op=True)
        result.copy_(source, non_blocking=True)
        work.wait()
        return x, result

    return all_reduce_h2d


def _p2p_kernel(args: Args) -> Run:
    rank, source, target = torch.distributed.get_rank(), args["src_device"], args["dst_device"]

    def send(x: Tensor) -> Tensor:
        torch.distributed.send(x, target)
        return x

    def receive(x: Tensor) -> Tensor:
        torch.distributed.recv(x, source)
        return x

    return {source: send, target: receive}.get(rank, lambda x: x)


# --- the table ------------------------------------------------------------------------------------------------


def _collective(
    name: str,
    what: str,
    inputs: tuple[TensorSpec, ...],
    kernel: Callable[[Args], Run],
    reference: Callable[[Args, AllInputs], Expected],
    *,
    writes: tuple[int, ...],
    adds: bool = False,
    more: tuple[Argument, ...] = (),
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
            dtype_argument(SUMMED if adds else MOVED),
            BACKEND,
            *more,
        ),
        inputs=drawn(*inputs),
        kernel=kernel,
        reference=reference,
        cost=_cost(name, inputs, writes, adds),
        tolerance=_tolerances(adds, len(writes)),
        check=check,
        writes=writes,
        runner="ranks",
        aliases=LLM_NAMES,
    )


def _link(name: str, what: str, source: TensorSpec, target: TensorSpec) -> Operator:
    """A copy, of each rank by itself."""
    return _collective(
        name,
        f"{what}, each rank by itself",
        (source, target),
        lambda _args: lambda source, result: result.copy_(source, non_blocking=True),
        lambda _args, every: every[every.rank][0],
        writes=(1,),
    )


_TABLE = (
    _collective(
        "all_reduce",
        "every rank's tensor becomes the sum of all, in place",
        (WHOLE,),
        _calling("all_reduce"),
        lambda args, every: _sum_of(args, every, slice(None)),
        writes=(0,),
        adds=True,
    ),
    _collective(
        "reduce_scatter",
        "each rank gets its part of the sum of all tensors",
        (WHOLE, PART),
        _calling("reduce_scatter_tensor"),
        lambda args, every: _sum_of(args, every, _own(args, every)),
        writes=(1,),
        adds=True,
        check=_divisible,
    ),
    _collective(
        "all_gather",
        "each rank gives a part, all get the whole tensor",
        (PART, WHOLE),
        _calling("all_gather_into_tensor"),
        lambda args, every: _joined(args, every, slice(None)),
        writes=(1,),
        check=_divisible,
    ),
    _collective(
        "all_to_all",
        "each rank gives every other one a part of its tensor",
        (WHOLE, WHOLE),
        _calling("all_to_all_single"),
        lambda args, every: _joined(args, every, _own(args, every)),
        writes=(1,),
        check=_divisible,
    ),
    MOE_DISPATCH_TOKENS,
    _collective("broadcast", "rank 0's tensor, to all", (WHOLE,), _calling("broadcast", 0), lambda _args, every: every[0][0], writes=(0,)),
    _collective(
        "p2p",
        "one rank sends, another receives; others stand by",
        (WHOLE,),
        _p2p_kernel,
        lambda args, every: every[args["src_device"] if every.rank == args["dst_device"] else every.rank][0],
        writes=(0,),
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
        _overlapped_kernel,
        lambda args, every: (_sum_of(args, every, slice(None)), every[every.rank][1]),
        writes=(0, 2),
        adds=True,
    ),
)
COLLECTIVES: dict[str, Operator] = {operator.name: operator for operator in _TABLE}
