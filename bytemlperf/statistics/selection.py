"""Order statistics of very many 32-bit values without sorting or copying them.

Radix selection: one pass counts the values by their upper 16 bits; a rank asked for falls into one
of these bins, and one more pass counts that bin's values by their lower 16 bits. Everything is
exact, takes half a megabyte, and a rank in a bin that was asked for before costs nothing.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import Any, overload

_BLOCK = 1 << 18
_HALF_BITS = 16
_BINS = 1 << _HALF_BITS


class Selection(Sequence[int]):
    """Looks like the sorted list of the values of a numpy array of type uint32, each as often as its `counts`
    (int64) say, whose sum is below 2**53; once where there are none."""

    def __init__(self, values: Any, numpy: Any, counts: Any | None = None) -> None:
        self._values, self._numpy, self._weights = values, numpy, counts
        self._upto = list(accumulate(self._counts(lambda block: block >> _HALF_BITS, None)))
        self._low: dict[int, array[int]] = {}

    def __len__(self) -> int:
        return self._upto[-1]

    @overload
    def __getitem__(self, place: int) -> int: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[int]: ...
    def __getitem__(self, place: int | slice) -> int | Sequence[int]:
        if isinstance(place, slice):
            raise TypeError("a selection gives single values")
        rank = place + len(self) if place < 0 else place
        if not 0 <= rank < len(self):
            raise IndexError(place)
        high = bisect_right(self._upto, rank)
        if high not in self._low:
            self._low[high] = array("q", accumulate(self._counts(lambda block: block & (_BINS - 1), high)))
        before = self._upto[high - 1] if high else 0
        return high << _HALF_BITS | bisect_right(self._low[high], rank - before)

    def _counts(self, key: Callable[[Any], Any], high: int | None) -> list[int]:
        """How many values have each 16-bit key, of all or of those with these upper bits."""
        numpy = self._numpy
        total = numpy.zeros(_BINS, dtype="i8")
        for start in range(0, len(self._values), _BLOCK):
            block = self._values[start : start + _BLOCK]
            weights = None if self._weights is None else self._weights[start : start + _BLOCK]
            if high is not None:
                kept = block >> _HALF_BITS == high
                block, weights = block[kept], None if weights is None else weights[kept]
            total += numpy.bincount(key(block), weights, _BINS).astype("i8", copy=False)  # float sums of whole numbers are exact
        counts: list[int] = total.tolist()
        return counts


class Runs(Sequence[int]):
    """Looks like a sorted list in which each value stands as often as its count says."""

    def __init__(self, pairs: Iterable[tuple[int, int]]) -> None:
        ordered = sorted(pairs)
        self._values = [value for value, _ in ordered]
        self._upto = list(accumulate(count for _, count in ordered))

    def __len__(self) -> int:
        return self._upto[-1] if self._upto else 0

    @overload
    def __getitem__(self, place: int) -> int: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[int]: ...
    def __getitem__(self, place: int | slice) -> int | Sequence[int]:
        if isinstance(place, slice):
            raise TypeError("runs give single values")
        rank = place + len(self) if place < 0 else place
        if not 0 <= rank < len(self):
            raise IndexError(place)
        return self._values[bisect_right(self._upto, rank)]


class Spliced(Sequence[int]):
    """A sorted sequence whose lowest and highest places hold other values: those kept aside."""

    def __init__(self, ordered: Sequence[int], low: Sequence[int], high: Sequence[int]) -> None:
        self._ordered, self._low, self._high = ordered, low, high

    def __len__(self) -> int:
        return len(self._ordered)

    @overload
    def __getitem__(self, place: int) -> int: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[int]: ...
    def __getitem__(self, place: int | slice) -> int | Sequence[int]:
        if isinstance(place, slice):
            raise TypeError("a selection gives single values")
        rank = place + len(self) if place < 0 else place
        if rank < len(self._low):
            return self._low[rank]
        from_top = rank - (len(self) - len(self._high))
        return self._high[from_top] if from_top >= 0 else self._ordered[rank]
