"""Exact integer operations on long columns, with numpy where it helps and without it where not.

numpy is optional. Everything here is integer arithmetic without rounding, so that both ways give
the same result bit for bit; numpy is only taken for columns of at least `LARGE` values, where its
import pays.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import pairwise
from operator import mul
from typing import Any

from bytemlperf.statistics.selection import Runs, Selection, Spliced

LARGE = 100_000
ABSENT = -(1 << 63)
"""Marks a missing value inside a column; it never leaves this package."""

_TOP = (1 << 32) - 1
_SAFE = 1 << 60
_BLOCK = 1 << 14
_SPLIT_BITS = 24
_EXACT_FLOAT = 1 << 53
_WEIGHT_LIMIT = 1 << 16  # times 32 bits of a square times a block of them: under 2**62
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
    return None if numpy is None else _view(values)


def _numpy_type(values: array[int]) -> str:
    return f"{'u' if values.typecode == 'I' else 'i'}{values.itemsize}"


def _view(values: array[int]) -> Any:
    """`values` as a numpy array, whatever their number."""
    numpy = load_numpy()
    assert numpy is not None
    return numpy.frombuffer(values, dtype=_numpy_type(values))


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
    if view is None or max(int(view.max()), -int(view.min())) >= _SQUARE_LIMIT:
        return sum(value * value for value in values)
    total = 0
    for start in range(0, len(view), _BLOCK):
        block = abs(view[start : start + _BLOCK].astype("i8"))
        high, low = block >> _SPLIT_BITS, block & ((1 << _SPLIT_BITS) - 1)
        total += (int(high.dot(high)) << 2 * _SPLIT_BITS) + (int(high.dot(low)) << (_SPLIT_BITS + 1)) + int(low.dot(low))
    return total


def sums_between(values: Sequence[int], edges: Sequence[int]) -> list[int]:
    """Exact sums of the values from each edge to the next; edges ascend, and none is the same as the next."""
    view = _fast(values)
    if view is None or max(int(view.max()), -int(view.min())) > _SAFE // len(values):
        return [sum(values[a:b]) for a, b in pairwise(edges)]
    numpy = load_numpy()
    assert numpy is not None
    sums: list[int] = numpy.add.reduceat(view, edges[:-1], dtype="i8").tolist()
    return sums


def total_of(values: Sequence[int]) -> int:
    """Exact sum."""
    return sums_between(values, (0, len(values)))[0] if len(values) else 0


class ClusteredColumn:
    """Values that come in clusters (the intervals of one request), as runs: a value and how often it comes in a row.
    Four bytes a run, and four more for its count once some run is longer than one (eight, where one has 2**32 values).

    `rows` holds the row number of each cluster's request, ascending, `lengths` and `sums` how many values it
    has and their total. Empty clusters are not kept. A value outside 0 to 2**32 − 1 (a stall of 4.3 s and
    more) is kept aside exactly, and the nearest bound stands in its place.
    """

    __slots__ = ("_aside", "_counts", "_starts", "_values", "lengths", "rows", "sums")

    def __init__(self) -> None:
        self._values = array("I")
        self._counts: array[int] | None = None  # every run is one value
        self._aside: dict[int, int] = {}
        self.rows = array("q")
        self.lengths = array("q")
        self.sums = array("q")
        self._starts = array("q", [0])

    def add(self, row: int, values: Sequence[int], counts: Sequence[int] | None = None, total: int | None = None) -> None:
        """Append one cluster of integer nanoseconds, each value as often as `counts` say (once without); `total` is
        their sum where it is known."""
        if not values:
            return
        if counts is not None or self._counts is not None:
            column = self._counts_up_to(max(counts or (1,)))
            column.extend(array(column.typecode, counts or [1] * len(values)))
        try:
            self._values.extend(array("I", values))
        except OverflowError:
            begin = len(self._values)
            self._aside.update((begin + place, value) for place, value in enumerate(values) if not 0 <= value <= _TOP)
            self._values.extend(array("I", [min(max(value, 0), _TOP) for value in values]))
        self.rows.append(row)
        self.lengths.append(len(values) if counts is None else sum(counts))
        self.sums.append(total if total is not None else sum(values) if counts is None else sum(map(mul, values, counts)))
        self._starts.append(len(self._values))

    def add_many(self, rows: Any, values: Any, counts: Any | None, runs: Any, lengths: Any, sums: Any) -> None:
        """Append clusters that have a value each, as numpy arrays of int64: their rows, all their values one after
        the other with their counts, and how many runs, values and what total each cluster has."""
        begin = len(self._values)
        if counts is not None or self._counts is not None:
            each = values * 0 + 1 if counts is None else counts
            kept = self._counts_up_to(int(each.max(initial=1)))
            kept.frombytes(each.astype(_numpy_type(kept)).tobytes())
        outside = ((values < 0) | (values > _TOP)).nonzero()[0]
        if len(outside):
            self._aside.update(zip((outside + begin).tolist(), values[outside].tolist(), strict=True))
            values = values.clip(0, _TOP)
        self._values.frombytes(values.astype("u4").tobytes())
        for column, more in ((self.rows, rows), (self.lengths, lengths), (self.sums, sums), (self._starts, runs.cumsum() + begin)):
            column.frombytes(more.astype("i8").tobytes())

    def _counts_up_to(self, largest: int) -> array[int]:
        """The counts of the runs so far, as a column that holds `largest` too."""
        if self._counts is None:
            self._counts = array("I", [1]) * len(self._values)
        if largest > _TOP and self._counts.typecode == "I":
            self._counts = array("q", self._counts)
        return self._counts

    def __len__(self) -> int:
        """How many values, all runs counted out."""
        return len(self._values) if self._counts is None else sum(self.lengths)

    def runs(self, position: int) -> tuple[Sequence[int], Sequence[int]]:
        """Values and their counts of the cluster that was added as number `position`."""
        begin, end = self._starts[position], self._starts[position + 1]
        values: Sequence[int] = self._values[begin:end]
        if self._aside:
            values = [self._aside.get(begin + place, value) for place, value in enumerate(values)]
        return values, array("I", [1]) * (end - begin) if self._counts is None else self._counts[begin:end]

    def runs_of(self, row: int) -> tuple[Sequence[int], Sequence[int]]:
        """Values and counts of that row's cluster; none where it has none."""
        position = bisect_left(self.rows, row)
        return self.runs(position) if position < len(self.rows) and self.rows[position] == row else ((), ())

    def ordered(self) -> Sequence[int]:
        """All values as if sorted: indexable, not to be iterated."""
        view, counts = _fast(self._values), self._counts
        base: Sequence[int]
        if view is not None and (counts is None or len(self) < _EXACT_FLOAT):
            base = Selection(view, load_numpy(), None if counts is None else _view(counts))
        else:
            base = sorted(self._values) if counts is None else Runs(zip(self._values, counts, strict=True))
        aside = [(value, self._count_at(place)) for place, value in self._aside.items()]
        low, high = Runs(pair for pair in aside if pair[0] < 0), Runs(pair for pair in aside if pair[0] > _TOP)
        return Spliced(base, low, high) if aside else base

    def _count_at(self, place: int) -> int:
        return 1 if self._counts is None else self._counts[place]

    def sum_of_squares(self) -> int:
        """Exact sum of squares of all values."""
        aside = [(value, self._count_at(place)) for place, value in self._aside.items()]
        wide = sum(count * value * value for value, count in aside)
        stand_ins = sum(count * _TOP * _TOP for value, count in aside if value > _TOP)
        stored = sum_of_squares(self._values) if self._counts is None else _weighted_squares(self._values, self._counts)
        return stored + wide - stand_ins

    def counts_at_most(self, limit: int) -> Sequence[int]:
        """Per cluster, how many values are ≤ limit."""
        view = _fast(self._values)
        if view is None:
            return [
                sum(count for value, count in zip(*self.runs(position), strict=True) if value <= limit)
                for position in range(len(self.rows))
            ]
        counts = self._counts_of_stored(view, min(max(limit, -1), _TOP))
        for place, value in self._aside.items():
            stored = 0 if value < 0 else _TOP
            counts[bisect_right(self._starts, place) - 1] += ((value <= limit) - (stored <= limit)) * self._count_at(place)
        return counts

    def _counts_of_stored(self, view: Any, limit: int) -> array[int]:
        """`counts_at_most` with the stand-ins; a block of clusters at a time."""
        numpy = load_numpy()
        assert numpy is not None
        starts = numpy.frombuffer(self._starts, dtype="i8")
        weights = None if self._counts is None else _view(self._counts)
        counts = array("q")
        for first in range(0, len(self.rows), _BLOCK):
            edges = starts[first : first + _BLOCK + 1]
            inside = view[edges[0] : edges[-1]] <= limit
            if weights is not None:
                inside = inside * weights[edges[0] : edges[-1]]
            counts.frombytes(numpy.add.reduceat(inside, edges[:-1] - edges[0], dtype="i8").tobytes())
        return counts


def _weighted_squares(values: array[int], counts: array[int]) -> int:
    """Exact Σ count · value²; values are 32 bits wide."""
    view = _fast(values)
    weights = None if view is None else _view(counts)
    if view is None or weights is None or int(weights.max()) >= _WEIGHT_LIMIT:
        return sum(count * value * value for value, count in zip(values, counts, strict=True))
    total = 0
    for start in range(0, len(view), _BLOCK):
        squares = view[start : start + _BLOCK].astype("u8") ** 2
        weight = weights[start : start + _BLOCK].astype("i8")
        high, low = (squares >> 32).astype("i8"), (squares & _TOP).astype("i8")
        total += (int(high.dot(weight)) << 32) + int(low.dot(weight))
    return total
