"""Rows picked, placed and added by index; sorting; distinct values. No FLOPs but index_add's additions.

`src_batch_size` and `dst_batch_size` are rows, `dim_size` values in a row, as in ByteMLPerf's files. Indices
are i modulo the smaller side, shuffled: every row as often as any other. Bytes count a row once however
often it is read, which is what a perfect cache would move.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from micro.operators.contract import Args, Argument, Cost, Maker, Operator, Tensors, Tolerance, additions, dtype_argument
from micro.operators.dtypes import size_bytes
from micro.operators.norm import ROWS, ROWS_ALIASES
from micro.operators.reduction import at

INDEX = "int64"
_MOVED = ("float32", "float16", "bfloat16", "float64", "int8")
_TABLE = (
    Argument("src_batch_size", "int", "rows of the source"),
    Argument("dst_batch_size", "int", "rows of the result"),
    Argument("dim_size", "int", "values in a row"),
)
_BASIC = (
    {
        "dtype": ["float32", "bfloat16"],
        "src_batch_size.dst_batch_size.dim_size": [[1024, 1024, 1024], [16384, 4096, 1024]],
    },
)
_EXACT = Tolerance(0, 0)


def _rows(args: Args, make: Maker, count: int) -> Any:
    shape = (count, args["dim_size"])
    return make.integers(-127, 128, *shape, dtype="int8") if args["dtype"] == "int8" else make.normal(*shape, dtype=args["dtype"])


def _pick_inputs(args: Args, make: Maker) -> Tensors:
    source, picks = args["src_batch_size"], args["dst_batch_size"]
    return _rows(args, make, source), make.permutation(picks) % source


def _pick_cost(args: Args) -> Cost:
    dtype, dim, source, picks = args["dtype"], args["dim_size"], args["src_batch_size"], args["dst_batch_size"]
    index = size_bytes(INDEX, picks)
    written = size_bytes(dtype, picks * dim)
    return Cost(
        0,
        size_bytes(dtype, min(source, picks) * dim) + index,
        written,
        size_bytes(dtype, source * dim) + index + written,
        flops_dtype=dtype,
    )


def _index_select_kernel(_args: Args) -> Callable[..., Any]:
    import torch

    def index_select(source: Any, index: Any) -> Any:
        return torch.index_select(source, 0, index)

    return index_select


def _gather_kernel(args: Args) -> Callable[..., Any]:
    import torch

    dim = args["dim_size"]

    def gather(source: Any, index: Any) -> Any:
        return torch.gather(source, 0, index[:, None].expand(-1, dim))

    return gather


def _embedding_kernel(_args: Args) -> Callable[..., Any]:
    from torch.nn.functional import embedding

    def embed(source: Any, index: Any) -> Any:
        return embedding(index, source)

    return embed


def _pick(name: str, what: str, kernel: Callable[[Args], Callable[..., Any]], dtypes: tuple[str, ...] = _MOVED) -> Operator:
    return Operator(
        name=name,
        family="index",
        help=f"dst_batch_size rows of [src_batch_size, dim_size], {what}",
        arguments=(*_TABLE, dtype_argument(dtypes)),
        inputs=_pick_inputs,
        kernel=kernel,
        reference=lambda _args, inputs: inputs[0][inputs[1]],
        cost=_pick_cost,
        tolerance=lambda _args: _EXACT,
        basic=_BASIC,
    )


def _scatter_check(args: Args) -> str:
    many, few = args["src_batch_size"], args["dst_batch_size"]
    return f"src_batch_size={many} rows would land on dst_batch_size={few}, some on the same in any order" if many > few else ""


def _scatter_inputs(args: Args, make: Maker) -> Tensors:
    source, target = args["src_batch_size"], args["dst_batch_size"]
    return _rows(args, make, target), make.permutation(target)[:source].clone(), _rows(args, make, source)


def _scatter_kernel(args: Args) -> Callable[..., Any]:
    dim = args["dim_size"]

    def scatter(target: Any, index: Any, source: Any) -> Any:
        return target.scatter_(0, index[:, None].expand(-1, dim), source)

    return scatter


def _scatter_reference(_args: Args, inputs: Tensors) -> Any:
    target, index, source = inputs
    result = target.clone()
    result[index] = source
    return result


def _scatter_cost(args: Args) -> Cost:
    dtype, dim, source, target = args["dtype"], args["dim_size"], args["src_batch_size"], args["dst_batch_size"]
    moved, index = size_bytes(dtype, source * dim), size_bytes(INDEX, source)
    return Cost(0, moved + index, moved, moved + index + size_bytes(dtype, target * dim), flops_dtype=dtype)


def _index_add_inputs(args: Args, make: Maker) -> Tensors:
    source, target = args["src_batch_size"], args["dst_batch_size"]
    return _rows(args, make, target), make.permutation(source) % target, _rows(args, make, source)


def _index_add_kernel(_args: Args) -> Callable[..., Any]:
    def index_add(target: Any, index: Any, source: Any) -> Any:
        return target.index_add_(0, index, source)

    return index_add


def _index_add_reference(_args: Args, inputs: Tensors) -> Any:
    target, index, source = inputs
    return target.double().index_add(0, index, source.double())


def _index_add_cost(args: Args) -> Cost:
    dtype, dim, source, target = args["dtype"], args["dim_size"], args["src_batch_size"], args["dst_batch_size"]
    touched, added, index = size_bytes(dtype, min(source, target) * dim), size_bytes(dtype, source * dim), size_bytes(INDEX, source)
    return Cost(source * dim, added + index + touched, touched, added + index + size_bytes(dtype, target * dim), flops_dtype=dtype)


def _index_add_tolerance(args: Args) -> Tolerance:
    """Of the row that takes most."""
    return additions(args["dtype"], -(-args["src_batch_size"] // args["dst_batch_size"]) + 1)


def _sort_inputs(args: Args, make: Maker) -> Tensors:
    shape, dtype = (args["batch_size"], args["dim_size"]), args["dtype"]
    return (make.integers(-(1 << 30), 1 << 30, *shape, dtype=dtype) if dtype in ("int32", "int64") else make.normal(*shape, dtype=dtype),)


def _sort_kernel(_args: Args) -> Callable[..., Any]:
    def sort(x: Any) -> Any:
        values, indices = x.sort(-1)
        return values, indices

    return sort


def _sort_reference(args: Args, inputs: Tensors) -> Any:
    import torch

    values = inputs[0].sort(-1).values
    return values, values, torch.arange(args["dim_size"]).expand(args["batch_size"], -1)


def _sort_comparable(_args: Args, inputs: Tensors, outputs: Any) -> Any:
    values, indices = outputs
    return values, at(inputs[0], indices), indices.sort(-1).values


def _sort_cost(args: Args) -> Cost:
    count, dtype = args["batch_size"] * args["dim_size"], args["dtype"]
    return Cost(0, size_bytes(dtype, count), size_bytes(dtype, count) + size_bytes(INDEX, count), flops_dtype=dtype)


def _unique_inputs(args: Args, make: Maker) -> Tensors:
    low = -(args["distinct"] // 2)
    return (make.integers(low, low + args["distinct"], args["batch_size"], dtype=args["dtype"]),)


def _unique_kernel(_args: Args) -> Callable[..., Any]:
    import torch

    def unique(x: Any) -> Any:
        values, counts = torch.unique(x, sorted=True, return_counts=True)
        return values, counts

    return unique


def _unique_reference(_args: Args, inputs: Tensors) -> Any:
    import numpy
    import torch

    values, counts = numpy.unique(inputs[0].cpu().numpy(), return_counts=True)
    return torch.from_numpy(values), torch.from_numpy(counts)


def _unique_cost(args: Args) -> Cost:
    count, dtype = args["batch_size"], args["dtype"]
    most = min(count, args["distinct"])  # nearly all of them are there once count is a few times as many
    return Cost(0, size_bytes(dtype, count), size_bytes(dtype, most) + size_bytes(INDEX, most), flops_dtype=dtype)


SCATTER = Operator(
    name="scatter",
    writes=(0,),
    family="index",
    help="src_batch_size rows written to places of [dst_batch_size, dim_size], no place twice",
    arguments=(*_TABLE, dtype_argument(_MOVED)),
    inputs=_scatter_inputs,
    kernel=_scatter_kernel,
    reference=_scatter_reference,
    cost=_scatter_cost,
    tolerance=lambda _args: _EXACT,
    check=_scatter_check,
    basic=({"dtype": ["float32", "bfloat16"], "src_batch_size.dst_batch_size.dim_size": [[1024, 1024, 1024], [4096, 16384, 1024]]},),
)
INDEX_ADD = Operator(
    name="index_add",
    writes=(0,),
    family="index",
    help="src_batch_size rows added to places of [dst_batch_size, dim_size], in place",
    arguments=(*_TABLE, dtype_argument(("float32", "float16", "bfloat16", "float64"))),
    inputs=_index_add_inputs,
    kernel=_index_add_kernel,
    reference=_index_add_reference,
    cost=_index_add_cost,
    tolerance=_index_add_tolerance,
    basic=({"dtype": ["float32", "bfloat16"], "src_batch_size.dst_batch_size.dim_size": [[1024, 1024, 1024], [4096, 1024, 1024]]},),
)
SORT = Operator(
    name="sort",
    family="index",
    help="each row of [batch_size, dim_size] in ascending order, and where its values were",
    arguments=(*ROWS[:2], dtype_argument(("float32", "float16", "bfloat16", "int32", "int64"))),
    inputs=_sort_inputs,
    kernel=_sort_kernel,
    reference=_sort_reference,
    cost=_sort_cost,
    tolerance=lambda _args: _EXACT,
    comparable=_sort_comparable,
    basic=({"dtype": ["float32", "int32"], "batch_size": 64, "dim_size": [4096]},),
    aliases=ROWS_ALIASES,
)
UNIQUE = Operator(
    name="unique",
    family="index",
    help="the different ones of batch_size integers in ascending order, and how often each is there",
    arguments=(
        Argument("batch_size", "int", "values"),
        Argument("distinct", "int", "values are drawn from so many", 1024, high=1 << 31),
        dtype_argument(("int32", "int64"), default="int64"),
    ),
    inputs=_unique_inputs,
    kernel=_unique_kernel,
    reference=_unique_reference,
    cost=_unique_cost,
    tolerance=lambda _args: _EXACT,
    basic=({"dtype": ["int32", "int64"], "batch_size": [65536]},),
)
INDEXING = {
    "embedding": _pick("embedding", "as an embedding layer looks them up", _embedding_kernel, _MOVED[:-1]),
    "gather": _pick("gather", "by torch.gather with the index repeated along a row", _gather_kernel),
    "index_select": _pick("index_select", "whole rows by index", _index_select_kernel),
    "scatter": SCATTER,
    "index_add": INDEX_ADD,
    "sort": SORT,
    "unique": UNIQUE,
}
