"""Order statistics of very many 32-bit values without sorting or copying them.

Radix selection: one pass counts the values by their upper 16 bits; a rank asked for falls into one
of these bins, and one more pass counts that bin's values by their lower 16 bits. Everything is
exact, takes half a megabyte, and a rank in a bin that was asked for before costs nothing.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, overload

_BLOCK = 1 << 18
_HALF_BITS = 16
_BINS = 1 << _HALF_BITS


class Selection(Sequence[int]):
    """Looks like the sorted list of the values of a numpy array of type uint32."""

    def __init__(self, values: Any, numpy: Any) -> None:
        self._values, self._numpy = values, numpy
        self._upto = list(accumulate(self._counts(lambda block: block >> _HALF_BITS)))
        self._low: dict[int, array[int]] = {}

    def __len__(self) -> int:
        return len(self._values)

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
            self._low[high] = array("q", accumulate(self._counts(lambda block: block[block >> _HALF_BITS == high] & (_BINS - 1))))
        before = self._upto[high - 1] if high else 0
        return high << _HALF_BITS | bisect_right(self._low[high], rank - before)

    def _counts(self, key: Any) -> list[int]:
        """How many values have each 16-bit key."""
        numpy = self._numpy
        total = numpy.zeros(_BINS, dtype="i8")
        for start in range(0, len(self._values), _BLOCK):
            total += numpy.bincount(key(self._values[start : start + _BLOCK]), minlength=_BINS)
        counts: list[int] = total.tolist()
        return counts


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
