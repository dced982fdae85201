"""Exact integer operations on long columns, with numpy where it helps and without it where not.

numpy is optional. Everything here is integer arithmetic without rounding, so that both ways give
the same result bit for bit; numpy is only taken for columns of at least `LARGE` values, where its
import pays. Columns are `array('I')` while every value fits in 32 bits of nanoseconds (4.29 s),
and become `array('q')` at the first that doesn't: four bytes a token in nearly every run.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

LARGE = 100_000
_BLOCK = 1 << 14
_SPLIT_BITS = 24
_SQUARE_LIMIT = 1 << 48  # two halves of 24 bits: sums of a block of products stay under 2**62


@lru_cache(maxsize=1)
def load_numpy() -> Any | None:
    """The numpy module, or None where it isn't installed."""
    try:
        import numpy
    except ImportError:
        return None
    return numpy


def _fast(values: Sequence[int]) -> Any | None:
    """`values` as a numpy view when that pays, else None."""
    if len(values) < LARGE or not isinstance(values, array):
        return None
    numpy = load_numpy()
    return None if numpy is None else numpy.frombuffer(values, dtype=f"{'u' if values.typecode == 'I' else 'i'}{values.itemsize}")


def sort_values(values: Sequence[int]) -> Sequence[int]:
    """A sorted copy. Items may be numpy integers: take int() of what leaves."""
    view = _fast(values)
    if view is None:
        return sorted(values)
    ordered: Sequence[int] = view.copy()
    ordered.sort()  # type: ignore[attr-defined]
    return ordered


def sum_of_squares(values: Sequence[int]) -> int:
    """Exact sum of squares."""
    view = _fast(values)
    if view is None or int(view.max()) >= _SQUARE_LIMIT or int(view.min()) < 0:
        return sum(value * value for value in values)
    total = 0
    for start in range(0, len(view), _BLOCK):
        block = view[start : start + _BLOCK].astype("i8")
        high, low = block >> _SPLIT_BITS, block & ((1 << _SPLIT_BITS) - 1)
        total += (int(high.dot(high)) << 2 * _SPLIT_BITS) + (int(high.dot(low)) << (_SPLIT_BITS + 1)) + int(low.dot(low))
    return total


class ClusteredColumn:
    """Values that come in clusters (the intervals of one request), stored flat.

    `rows` holds the row number of each cluster's request, `lengths` and `sums` its size and total.
    Empty clusters are not kept.
    """

    __slots__ = ("_starts", "lengths", "rows", "sums", "values")

    def __init__(self) -> None:
        self.values = array("I")
        self.rows = array("q")
        self.lengths = array("q")
        self.sums = array("q")
        self._starts = array("q", [0])

    def add(self, row: int, values: Sequence[int]) -> None:
        """Append one cluster of integer nanoseconds."""
        if not values:
            return
        try:
            self.values.extend(array(self.values.typecode, values))
        except OverflowError:
            self.values = array("q", self.values)
            self.values.extend(array("q", values))
        self.rows.append(row)
        self.lengths.append(len(values))
        self.sums.append(sum(values))
        self._starts.append(len(self.values))

    def __len__(self) -> int:
        return len(self.values)

    def cluster(self, position: int) -> Sequence[int]:
        """The values of the cluster that was added as number `position`."""
        return self.values[self._starts[position] : self._starts[position + 1]]

    def clusters(self) -> Iterator[Sequence[int]]:
        """Every cluster, in the order of adding."""
        return (self.cluster(position) for position in range(len(self.rows)))

    def counts_at_most(self, limit: int) -> list[int]:
        """Per cluster, how many values are ≤ limit."""
        view = _fast(self.values)
        if view is None:
            return [sum(value <= limit for value in cluster) for cluster in self.clusters()]
        numpy = load_numpy()
        assert numpy is not None
        starts = numpy.frombuffer(self._starts, dtype="i8")[:-1]
        counts: list[int] = numpy.add.reduceat(view <= limit, starts, dtype="i8").tolist()
        return counts
