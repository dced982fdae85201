"""Exact integer operations on long columns, with numpy where it helps and without it where not.

numpy is optional. Everything here is integer arithmetic without rounding, so that both ways give
the same result bit for bit; numpy is only taken for columns of at least `LARGE` values, where its
import pays.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any

from bytemlperf_llm.metrics.selection import Selection, Spliced

LARGE = 100_000
ABSENT = -(1 << 63)
"""Marks a missing value inside a column; it never leaves this package."""

_TOP = (1 << 32) - 1
_SAFE = 1 << 60
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


def ascending(values: Iterable[int]) -> array[int]:
    """The values in order, as a column."""
    column = array("q", values)
    ordered = sort_values(column)
    return array("q", ordered) if isinstance(ordered, list) else column_of(ordered)


def fast_columns(*columns: array[int]) -> list[Any] | None:
    """int64 numpy views of columns, None where they are short, numpy is missing, or a value is so
    large that a sum or a double of two of them could leave 64 bits (`ABSENT` apart)."""
    views = [_fast(column) for column in columns]
    if any(view is None for view in views):
        return None
    present = (view[view != ABSENT] for view in views if view is not None)
    return None if any(len(part) and (part.max() > _SAFE or part.min() < -_SAFE) for part in present) else views


def order_of(*keys: array[int]) -> array[int]:
    """Places in the order of their values: by the first key, equal ones by the next, then by place."""
    views = fast_columns(*keys)
    numpy = load_numpy() if views is not None else None
    if views is None or numpy is None:
        combined = sorted((*values, place) for place, values in enumerate(zip(*keys, strict=True)))
        return array("q", (values[-1] for values in combined))
    return column_of(numpy.lexsort(tuple(reversed(views))))


def column_of(values: Any) -> array[int]:
    """A numpy array's int64 values as an array."""
    column = array("q")
    column.frombytes(values.astype("i8").tobytes())
    return column


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
    """Values that come in clusters (the intervals of one request), stored flat, four bytes each.

    `rows` holds the row number of each cluster's request, ascending, `lengths` and `sums` its size
    and total. Empty clusters are not kept. A value outside 0 to 2**32 − 1 (a stall of 4.3 s and
    more) is kept aside exactly, and the nearest bound stands in its place.
    """

    __slots__ = ("_aside", "_starts", "_values", "lengths", "rows", "sums")

    def __init__(self) -> None:
        self._values = array("I")
        self._aside: dict[int, int] = {}
        self.rows = array("q")
        self.lengths = array("q")
        self.sums = array("q")
        self._starts = array("q", [0])

    def add(self, row: int, values: Sequence[int], total: int | None = None) -> None:
        """Append one cluster of integer nanoseconds; `total` is their sum where it is known."""
        if not values:
            return
        try:
            self._values.extend(array("I", values))
        except OverflowError:
            begin = len(self._values)
            self._aside.update((begin + place, value) for place, value in enumerate(values) if not 0 <= value <= _TOP)
            self._values.extend(array("I", [min(max(value, 0), _TOP) for value in values]))
        self.rows.append(row)
        self.lengths.append(len(values))
        self.sums.append(sum(values) if total is None else total)
        self._starts.append(len(self._values))

    def add_many(self, rows: Any, values: Any, lengths: Any, sums: Any) -> None:
        """Append clusters that have a value each, as numpy arrays of int64: their rows, lengths and
        totals, and all their values one after the other."""
        begin = len(self._values)
        outside = ((values < 0) | (values > _TOP)).nonzero()[0]
        if len(outside):
            self._aside.update(zip((outside + begin).tolist(), values[outside].tolist(), strict=True))
            values = values.clip(0, _TOP)
        self._values.frombytes(values.astype("u4").tobytes())
        for column, more in ((self.rows, rows), (self.lengths, lengths), (self.sums, sums), (self._starts, lengths.cumsum() + begin)):
            column.frombytes(more.astype("i8").tobytes())

    def __len__(self) -> int:
        return len(self._values)

    def cluster(self, position: int) -> Sequence[int]:
        """The values of the cluster that was added as number `position`."""
        begin, end = self._starts[position], self._starts[position + 1]
        values = self._values[begin:end]
        if not self._aside:
            return values
        return [self._aside.get(begin + place, value) for place, value in enumerate(values)]

    def cluster_of(self, row: int) -> Sequence[int]:
        """The values of that row's cluster; none where it has none."""
        position = bisect_left(self.rows, row)
        return self.cluster(position) if position < len(self.rows) and self.rows[position] == row else ()

    def clusters(self) -> Iterator[Sequence[int]]:
        """Every cluster, in the order of adding."""
        return (self.cluster(position) for position in range(len(self.rows)))

    def ordered(self) -> Sequence[int]:
        """All values as if sorted: indexable, not to be iterated."""
        view = _fast(self._values)
        base = sorted(self._values) if view is None else Selection(view, load_numpy())
        low = sorted(value for value in self._aside.values() if value < 0)
        high = sorted(value for value in self._aside.values() if value > _TOP)
        return Spliced(base, low, high) if self._aside else base

    def sum_of_squares(self) -> int:
        """Exact sum of squares of all values."""
        wide = sum(value * value for value in self._aside.values())
        stand_ins = sum(_TOP * _TOP for value in self._aside.values() if value > _TOP)
        return sum_of_squares(self._values) + wide - stand_ins

    def counts_at_most(self, limit: int) -> Sequence[int]:
        """Per cluster, how many values are ≤ limit."""
        view = _fast(self._values)
        if view is None:
            return [sum(value <= limit for value in cluster) for cluster in self.clusters()]
        counts = self._counts_of_stored(view, min(max(limit, -1), _TOP))
        for place, value in self._aside.items():
            stored = 0 if value < 0 else _TOP
            counts[bisect_right(self._starts, place) - 1] += (value <= limit) - (stored <= limit)
        return counts

    def _counts_of_stored(self, view: Any, limit: int) -> array[int]:
        """`counts_at_most` with the stand-ins; a block of clusters at a time."""
        numpy = load_numpy()
        assert numpy is not None
        starts = numpy.frombuffer(self._starts, dtype="i8")
        counts = array("q")
        for first in range(0, len(self.rows), _BLOCK):
            edges = starts[first : first + _BLOCK + 1]
            inside = view[edges[0] : edges[-1]] <= limit
            counts.frombytes(numpy.add.reduceat(inside, edges[:-1] - edges[0], dtype="i8").tobytes())
        return counts
