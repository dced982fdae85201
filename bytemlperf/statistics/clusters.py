"""Values that come in clusters, very many of them: kept in four bytes each, and looked up in order without being sorted."""

from __future__ import annotations

from array import array
from collections.abc import Callable

from bytemlperf.lazy import numpy
from bytemlperf.statistics.columns import Column, column, dot, parts

_TOP = (1 << 32) - 1
_HALF_BITS = 16
_BINS = 1 << _HALF_BITS
_BLOCK = 1 << 18
_BLOCK_CLUSTERS = 1 << 10


class ClusteredColumn:
    """Values that come in clusters (the intervals of one request), as runs: a value and how often it comes in a row.
    Four bytes a run, and eight more for its count once some run is longer than one.

    `rows` holds the row number of each cluster's request, ascending, `lengths` and `sums` how many values it
    has and their total. A value outside 0 to 2**32 − 1 (a stall of 4.3 s and more) is kept aside exactly, and the nearest
    bound stands in its place.
    """

    def __init__(self) -> None:
        self._values = array("I")
        self._counts: array[int] | None = None  # every run is one value
        self._aside_at, self._aside = array("q"), array("q")
        self._rows, self._lengths, self._sums, self._starts = array("q"), array("q"), array("q"), array("q", [0])

    rows = property(lambda self: column(self._rows))
    lengths = property(lambda self: column(self._lengths))
    sums = property(lambda self: column(self._sums))

    def add(self, rows: Column, values: Column, counts: Column | None, runs: Column, lengths: Column, sums: Column) -> None:
        """Append clusters, none of them empty: their rows, all their runs' values one after the other with their counts
        (none: once each), and how many runs, values and what total each cluster has."""
        begin = len(self._values)
        if counts is not None and self._counts is None:
            self._counts = array("q", [1]) * begin
        if self._counts is not None:
            self._counts.frombytes((numpy.ones(len(values), "i8") if counts is None else counts).tobytes())
        outside = ((values < 0) | (values > _TOP)).nonzero()[0]
        self._aside_at.frombytes((outside + begin).astype("i8").tobytes())
        self._aside.frombytes(values[outside].tobytes())
        self._values.frombytes(values.clip(0, _TOP).astype("u4").tobytes())
        for kept, more in ((self._rows, rows), (self._lengths, lengths), (self._sums, sums), (self._starts, runs.cumsum() + begin)):
            kept.frombytes(more.astype("i8").tobytes())

    def __len__(self) -> int:
        """How many values, all runs counted out."""
        return len(self._values) if self._counts is None else sum(self._lengths)

    def runs(self, first: int, last: int) -> tuple[Column, Column]:
        """Values and their counts of the clusters from the one added as number `first` up to and without number `last`."""
        begin, end = self._starts[first], self._starts[last]
        values, places = numpy.asarray(self._values)[begin:end].astype("i8"), column(self._aside_at)
        aside = slice(*numpy.searchsorted(places, (begin, end)))
        values[places[aside] - begin] = column(self._aside)[aside]
        return values, self._counted(begin, end)

    def begins(self, first: int, last: int) -> Column:
        """Where in `runs` of the same clusters each one begins."""
        return column(self._starts)[first:last] - self._starts[first]

    def firsts(self, rank: Column) -> Column:
        """The first value of each cluster, in the order that `rank` gives their rows."""
        values, _ = self.runs(0, len(self._rows))
        return values[self.begins(0, len(self._rows))[numpy.argsort(rank[self.rows], kind="stable")]]

    def runs_of(self, row: int) -> tuple[Column, Column]:
        """Values and counts of that row's cluster; none where it has none."""
        return self.runs(*map(int, (numpy.searchsorted(self.rows, row, side) for side in ("left", "right"))))

    def _counted(self, begin: int, end: int) -> Column:
        return numpy.ones(end - begin, "i8") if self._counts is None else column(self._counts)[begin:end]

    def ordered(self) -> Selection:
        """All values as if sorted."""
        counts, at = None if self._counts is None else column(self._counts), column(self._aside_at)
        aside_counts = numpy.ones(len(at), "i8") if counts is None else counts[at]
        return Selection(numpy.asarray(self._values), counts, column(self._aside), aside_counts)

    def sum_of_squares(self) -> int:
        """Exact sum of squares of all values."""
        stored = numpy.asarray(self._values)
        squares = 0
        for begin in range(0, len(stored), _BLOCK):
            block = stored[begin : begin + _BLOCK]
            squares += dot(block.astype("u8") ** 2, self._counted(begin, begin + len(block)))
        aside = zip(self._aside, self._aside_at, strict=True)
        return squares + sum((value * value - int(stored[at]) ** 2) * int(self._counted(at, at + 1)[0]) for value, at in aside)

    def counts_at_most(self, limit: int) -> Column:
        """Per cluster, how many values are ≤ limit."""
        counts = []
        for first in range(0, len(self._rows), _BLOCK_CLUSTERS):  # of so many at a time: memory
            last = min(first + _BLOCK_CLUSTERS, len(self._rows))
            values, many = self.runs(first, last)
            counts.append(numpy.add.reduceat((values <= limit) * many, self.begins(first, last)))
        return numpy.concatenate(counts)


class Selection:
    """Looks like the sorted list of a column's values, exactly, in half a megabyte.

    Radix selection: one pass counts the values by their upper 16 bits; a rank asked for falls into one of these bins, and one
    more pass counts that bin's values by their lower 16 bits. A rank in a bin that was asked for before costs nothing.
    """

    def __init__(self, values: Column, counts: Column | None, aside: Column, aside_counts: Column) -> None:
        self._values, self._weights = values, counts
        self._upto = numpy.cumsum(self._counts(lambda block: block >> _HALF_BITS, None))
        self._low: dict[int, Column] = {}
        order = numpy.argsort(aside, kind="stable")
        self._aside, self._aside_upto = aside[order], numpy.cumsum(aside_counts[order])
        self._below, self._above = (int(aside_counts[side].sum()) for side in (aside < 0, aside >= 0))

    def __len__(self) -> int:
        return int(self._upto[-1])

    def __getitem__(self, place: int, /) -> int:
        rank = place + len(self) if place < 0 else place
        if not 0 <= rank < len(self):
            raise IndexError(place)
        above = rank - (len(self) - self._above)
        if rank < self._below or above >= 0:
            return int(self._aside[numpy.searchsorted(self._aside_upto, rank if above < 0 else self._below + above, "right")])
        high = int(numpy.searchsorted(self._upto, rank, "right"))
        if high not in self._low:
            self._low[high] = numpy.cumsum(self._counts(lambda block: block & (_BINS - 1), high))
        before = self._upto[high - 1] if high else 0
        return high << _HALF_BITS | int(numpy.searchsorted(self._low[high], rank - before, "right"))

    def _counts(self, key: Callable[[Column], Column], high: int | None) -> Column:
        """How many values have each 16-bit key, of all or of those with these upper bits."""
        total = numpy.zeros(_BINS, "i8")
        for start in range(0, len(self._values), _BLOCK):
            block = self._values[start : start + _BLOCK]
            weights = None if self._weights is None else self._weights[start : start + _BLOCK]
            if high is not None:
                kept = block >> _HALF_BITS == high
                block, weights = block[kept], None if weights is None else weights[kept]
            keys = key(block)
            if weights is None:
                total += numpy.bincount(keys, minlength=_BINS)
            else:  # float sums of numbers of 24 bits are exact
                for part, shift in parts(weights):
                    total += numpy.bincount(keys, part, _BINS).astype("i8") << shift
        return total
