"""Rows picked, placed and added by index; sorting; distinct values. No FLOPs but index_add's additions.

`src_batch_size` and `dst_batch_size` are rows, `dim_size` values in a row, as in ByteMLPerf's files. Indices
are i modulo the smaller side, shuffled: every row as often as any other. Bytes count a row once however
often it is read, which is what a perfect cache would move.
"""

from __future__ import annotations

from collections.abc import Callable

from bytemlperf.lazy import numpy, torch
from micro.operators.contract import Args, Argument, Maker, Operator, Outputs, Run, Tensor, Tensors, additions, dtype_argument
from micro.operators.norm import INDEX, ROWS, ROWS_ALIASES, X, at
from micro.operators.tensors import PLAIN_FLOATS, TensorSpec, integers_or_normal, moved, normal

_MOVED = (*PLAIN_FLOATS, "int8")
_TABLE = (
    Argument("src_batch_size", "int", "rows of the source"),
    Argument("dst_batch_size", "int", "rows of the result"),
    Argument("dim_size", "int", "values in a row"),
)


def _fewer(args: Args) -> int:
    return int(min(args["src_batch_size"], args["dst_batch_size"]))


_SOURCE = TensorSpec(("src_batch_size", "dim_size"), "dtype", integers_or_normal)
_TARGET = TensorSpec(("dst_batch_size", "dim_size"), "dtype", integers_or_normal)
_TOUCHED = TensorSpec((_fewer, "dim_size"), "dtype", integers_or_normal)
"""Rows of the larger side that are read or written."""
_SOURCE_INDEX, _TARGET_INDEX = normal("src_batch_size", dtype=INDEX), normal("dst_batch_size", dtype=INDEX)


def _gather_kernel(args: Args) -> Run:
    dim = args["dim_size"]
    return lambda source, index: source.gather(0, index[:, None].expand(-1, dim))


def _embedding_kernel(_args: Args) -> Run:
    embedding = torch.nn.functional.embedding
    return lambda source, index: embedding(index, source)


def _pick(name: str, what: str, kernel: Callable[[Args], Run], dtypes: tuple[str, ...] = _MOVED) -> Operator:
    return Operator(
        name=name,
        help=f"dst_batch_size rows of [src_batch_size, dim_size], {what}",
        arguments=(*_TABLE, dtype_argument(dtypes)),
        inputs=lambda args, make: (_SOURCE.draw(args, make), make.permutation(args["dst_batch_size"]) % args["src_batch_size"]),
        kernel=kernel,
        reference=lambda _args, inputs: inputs[0][inputs[1]],
        cost=moved((_TOUCHED, _TARGET_INDEX), (_TARGET,), held=(_SOURCE, _TARGET_INDEX, _TARGET)),
    )


def _scatter_check(args: Args) -> str:
    many, few = args["src_batch_size"], args["dst_batch_size"]
    return f"src_batch_size={many} rows would land on dst_batch_size={few}, some on the same in any order" if many > few else ""


def _scatter_inputs(args: Args, make: Maker) -> Tensors:
    target, places = _TARGET.draw(args, make), make.permutation(args["dst_batch_size"])
    return target, places[: args["src_batch_size"]].clone(), _SOURCE.draw(args, make)


def _scatter_kernel(args: Args) -> Run:
    dim = args["dim_size"]
    return lambda target, index, source: target.scatter_(0, index[:, None].expand(-1, dim), source)


def _scatter_reference(_args: Args, inputs: Tensors) -> Tensor:
    target, index, source = inputs
    result = target.clone()
    result[index] = source
    return result


def _index_add_inputs(args: Args, make: Maker) -> Tensors:
    target, places = _TARGET.draw(args, make), make.permutation(args["src_batch_size"]) % args["dst_batch_size"]
    return target, places, _SOURCE.draw(args, make)


def _sort_inputs(args: Args, make: Maker) -> Tensors:
    shape, dtype = (args["batch_size"], args["dim_size"]), args["dtype"]
    return (make.integers(-(1 << 30), 1 << 30, *shape, dtype=dtype) if dtype in ("int32", "int64") else X.draw(args, make),)


def _sort_reference(args: Args, inputs: Tensors) -> Tensors:
    values = inputs[0].sort(-1).values
    return values, values, torch.arange(args["dim_size"]).expand(args["batch_size"], -1)


def _sort_comparable(_args: Args, inputs: Tensors, outputs: Outputs) -> Tensors:
    values, indices = outputs
    return values, at(inputs[0], indices), indices.sort(-1).values


def _unique_inputs(args: Args, make: Maker) -> Tensors:
    low = -(args["distinct"] // 2)
    return (make.integers(low, low + args["distinct"], args["batch_size"], dtype=args["dtype"]),)


def _unique_reference(_args: Args, inputs: Tensors) -> Tensors:
    values, counts = numpy.unique(inputs[0].cpu().numpy(), return_counts=True)
    return torch.from_numpy(values), torch.from_numpy(counts)


def _most_distinct(args: Args) -> int:
    """Nearly all of them are there once batch_size is a few times as many."""
    return int(min(args["batch_size"], args["distinct"]))


SCATTER = Operator(
    name="scatter",
    writes=(0,),
    help="src_batch_size rows written to places of [dst_batch_size, dim_size], no place twice",
    arguments=(*_TABLE, dtype_argument(_MOVED)),
    inputs=_scatter_inputs,
    kernel=_scatter_kernel,
    reference=_scatter_reference,
    cost=moved((_SOURCE, _SOURCE_INDEX), (_SOURCE,), held=(_SOURCE, _SOURCE_INDEX, _TARGET)),
    check=_scatter_check,
)
INDEX_ADD = Operator(
    name="index_add",
    writes=(0,),
    help="src_batch_size rows added to places of [dst_batch_size, dim_size], in place",
    arguments=(*_TABLE, dtype_argument(PLAIN_FLOATS)),
    inputs=_index_add_inputs,
    kernel=lambda _args: lambda target, index, source: target.index_add_(0, index, source),
    reference=lambda _args, inputs: inputs[0].double().index_add(0, inputs[1], inputs[2].double()),
    cost=moved((_SOURCE, _SOURCE_INDEX, _TOUCHED), (_TOUCHED,), *_SOURCE.sizes, held=(_SOURCE, _SOURCE_INDEX, _TARGET)),
    tolerance=lambda args: additions(args["dtype"], -(-args["src_batch_size"] // args["dst_batch_size"]) + 1),  # of the fullest row
)
SORT = Operator(
    name="sort",
    help="each row of [batch_size, dim_size] in ascending order, and where its values were",
    arguments=(*ROWS, dtype_argument(("float32", "float16", "bfloat16", "int32", "int64"))),
    inputs=_sort_inputs,
    kernel=lambda _args: lambda x: tuple(x.sort(-1)),
    reference=_sort_reference,
    cost=moved((X,), (X, normal(*X.sizes, dtype=INDEX))),
    comparable=_sort_comparable,
    aliases=ROWS_ALIASES,
)
UNIQUE = Operator(
    name="unique",
    help="the different ones of batch_size integers in ascending order, and how often each is there",
    arguments=(
        Argument("batch_size", "int", "values"),
        Argument("distinct", "int", "number of values to draw from", 1024, high=1 << 31),
        dtype_argument(("int32", "int64"), default="int64"),
    ),
    inputs=_unique_inputs,
    kernel=lambda _args: lambda x: torch.unique(x, sorted=True, return_counts=True),
    reference=_unique_reference,
    cost=moved((normal("batch_size"),), (normal(_most_distinct), normal(_most_distinct, dtype=INDEX))),
)
INDEXING = (
    _pick("embedding", "as an embedding layer looks them up", _embedding_kernel, PLAIN_FLOATS),
    _pick("gather", "by torch.gather with the index repeated along a row", _gather_kernel),
    _pick("index_select", "whole rows by index", lambda _args: lambda source, index: source.index_select(0, index)),
    SCATTER,
    INDEX_ADD,
    SORT,
    UNIQUE,
)
