"""Tensors of an operator, declared once: what they are filled with, and by that the bytes that a call moves.

An operator that reads each of its inputs once and writes each result once says so with `streamed`; one that touches
parts of them (an index, a cache, the experts that got a token) writes its own `inputs` or `cost`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from random import SystemRandom
from typing import NamedTuple, TypedDict

from bytemlperf.lazy import torch
from micro.operators.contract import DTYPES, Args, Cost, Maker, Tensor, Tensors, size_bytes

ACTIVATIONS = ("bfloat16", "float16", "float32")
"""What the operators of language models compute in."""

PLAIN_FLOATS = ("float32", "float16", "bfloat16", "float64")
"""`FLOATS` but for the one that exists in products alone."""

Size = int | str | Callable[[Args], int]
"""A number, an argument's name, or what follows from the arguments."""

REFERENCE_FLOPS = 2 * 10**9
"""A reference product larger than this takes evenly spread rows instead of all; float64, so about 0.1 s."""

REFERENCE_VALUES = 1 << 23
"""Where a row costs little but there are many, values that a reference holds: 64 MiB in float64."""


Format = str | Callable[[Args], str]
"""A number format, the argument that names it, or what follows from the arguments."""


class TensorSpec(NamedTuple):
    """`fill(make, *shape, dtype=…)` draws the values; `stored` is their number format in memory where it is another than that of
    `dtype`; only cases that are `present` have the tensor at all."""

    sizes: tuple[Size, ...]
    dtype: Format
    fill: Callable[..., Tensor]
    stored: str = ""
    present: Callable[[Args], bool] = lambda _args: True

    def draw(self, args: Args, make: Maker) -> Tensor:
        """Random values of the case's shape."""
        return self.fill(make, *(size_of(args, size) for size in self.sizes), dtype=format_of(args, self.dtype))

    def bytes(self, args: Args) -> int:
        """Memory that it takes."""
        return size_bytes(self.stored or format_of(args, self.dtype), count(args, *self.sizes)) if self.present(args) else 0


def format_of(args: Args, dtype: Format) -> str:
    """A number format of a case."""
    return dtype(args) if callable(dtype) else dtype if dtype in DTYPES else str(args[dtype])


def normal(*sizes: Size, dtype: Format = "dtype", scale: float = 1.0) -> TensorSpec:
    """Standard normal values times `scale`."""
    return TensorSpec(sizes, dtype, lambda make, *shape, dtype: make.normal(*shape, dtype=dtype, scale=scale))


def uniform(*sizes: Size, low: float = 0.5, high: float = 1.5, dtype: str = "dtype") -> TensorSpec:
    """Values in [low, high); without them factors around 1."""
    return TensorSpec(sizes, dtype, lambda make, *shape, dtype: make.uniform(low, high, *shape, dtype=dtype))


def integers_or_normal(make: Maker, *shape: int, dtype: str) -> Tensor:
    """A `fill` for what is only moved: int8 over its whole range, floats standard normal."""
    return make.integers(-127, 128, *shape, dtype=dtype) if dtype == "int8" else make.normal(*shape, dtype=dtype)


def size_of(args: Args, size: Size) -> int:
    """A size of a case."""
    return size(args) if callable(size) else int(args[size] if isinstance(size, str) else size)


def count(args: Args, *sizes: Size) -> int:
    """The product of some sizes."""
    return prod(size_of(args, size) for size in sizes)


def times(*sizes: Size) -> Callable[[Args], int]:
    """The product as a size."""
    return lambda args: count(args, *sizes)


def drawn(*specs: TensorSpec) -> Callable[[Args, Maker], Tensors]:
    """`Operator.inputs`: one random tensor after the other, of those that the case has."""
    return lambda args, make: tuple(spec.draw(args, make) for spec in specs if spec.present(args))


def moved(
    reads: Sequence[TensorSpec], writes: Sequence[TensorSpec], *flops: Size, flops_dtype: str = "dtype", held: Sequence[TensorSpec] = ()
) -> Callable[[Args], Cost]:
    """`Operator.cost` where each of these tensors is read or written once, and FLOPs are the product of some sizes (of none: 0).
    `held` are those that lie in memory, where that is more."""

    def cost(args: Args) -> Cost:
        read, written, footprint = (sum(spec.bytes(args) for spec in specs) for specs in (reads, writes, held))
        return Cost(count(args, *flops) if flops else 0, read, written, footprint, flops_dtype=args[flops_dtype])

    return cost


class Streamed(TypedDict):
    """Fields of `Operator`."""

    inputs: Callable[[Args, Maker], Tensors]
    cost: Callable[[Args], Cost]


def streamed(reads: Sequence[TensorSpec], writes: Sequence[TensorSpec], *flops: Size, flops_dtype: str = "dtype") -> Streamed:
    """Of an operator that draws what it reads, reads each of its inputs once and writes each result once: see `moved`."""
    return {"inputs": drawn(*reads), "cost": moved(reads, writes, *flops, flops_dtype=flops_dtype)}


def spread_rows(rows: int, flops_per_row: int, budget: int = REFERENCE_FLOPS) -> Tensor:
    """Indices of the rows of a reference, in ascending order: all of them where they fit the budget, else first, last and some
    between. No kernel can know which: they are others each time, whatever the seed."""
    kept = max(2, budget // max(1, flops_per_row))
    if kept >= rows:
        return torch.arange(rows)
    return torch.tensor([0, *sorted(SystemRandom().sample(range(1, rows - 1), kept - 2)), rows - 1])
