"""Exact integer arithmetic on columns: numpy arrays of int64 (nanoseconds, tokens, places of rows).

Sums and products of long columns leave 64 bits. They are taken of parts of 24 bits, whose sums over a block don't, and put
together as Python's integers: exact for every int64, and the same on every machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import mul
from typing import TYPE_CHECKING, Protocol, TypeAlias

from bytemlperf.lazy import numpy

if TYPE_CHECKING:
    from numpy import bool_, float64, int64
    from numpy.typing import NDArray

Column: TypeAlias = "NDArray[int64]"
Floats: TypeAlias = "NDArray[float64]"
Mask: TypeAlias = "NDArray[bool_]"
Values: TypeAlias = "Sequence[int] | NDArray[int64]"

ABSENT = -(1 << 63)
"""Marks a missing value inside a column; it never leaves the statistics."""

_PART_BITS = 24
_PART = (1 << _PART_BITS) - 1
_BLOCK = 1 << 14


class Ordered(Protocol):
    """Integers in ascending order: a sorted list or column, or what looks like one."""

    def __len__(self) -> int: ...

    def __getitem__(self, place: int, /) -> int: ...


def column(values: Values) -> Column:
    """The integers as a column; no copy of what is one."""
    return numpy.asarray(values, "i8")


def present(values: Column) -> Column:
    """Those that aren't ABSENT, in order."""
    return values[values != ABSENT]


def either(values: Column, other: Column) -> Column:
    """`values` with the value of `other` where it has none."""
    return numpy.where(values == ABSENT, other, values)


def parts(values: Column) -> Iterable[tuple[Column, int]]:
    """Columns and shifts whose shifted sum is `values` (of any integer type); all but the highest are of 24 bits without a sign."""
    whole = ((values & _PART, 0), (values >> _PART_BITS & _PART, _PART_BITS), (values >> 2 * _PART_BITS, 2 * _PART_BITS))
    return [(part.astype("i8"), shift) for part, shift in whole if part.any()]


def dot(left: Column | list[int], right: Column | list[int]) -> int:
    """Σ left · right; of lists, integers of any size."""
    if isinstance(left, list):
        return sum(map(mul, left, right))
    blocks = [(left[start : start + _BLOCK], right[start : start + _BLOCK]) for start in range(0, len(left), _BLOCK)]
    return sum(int(a.dot(b)) << (x + y) for one, other in blocks for a, x in parts(one) for b, y in parts(other))


def sums_between(values: Column, edges: Sequence[int]) -> list[int]:
    """Sums of the values from each edge to the next; edges ascend from 0 to the end, and none is the same as the next."""
    sums = [0] * (len(edges) - 1)
    for part, shift in parts(values):
        sums = [total + (more << shift) for total, more in zip(sums, numpy.add.reduceat(part, edges[:-1]).tolist(), strict=True)]
    return sums


def total_of(values: Column | list[int]) -> int:
    """Σ values."""
    return sum(values) if isinstance(values, list) else sum(int(part.sum()) << shift for part, shift in parts(values))
