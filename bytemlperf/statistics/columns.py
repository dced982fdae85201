"""Whole-column steps with numpy where that pays, and value by value where not: the same integers.

Columns are `array("q")` with `ABSENT` for a missing value; `rows` are places in them.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from operator import sub
from typing import Any

from bytemlperf.statistics.arrays import ABSENT, _fast, column_of, fast_columns, load_numpy

LARGEST = (1 << 63) - 1
_PRODUCT_LIMIT = 1 << 62
_HALF_BITS = 24
_BLOCK = 1 << 14


def _views(*columns: Sequence[int]) -> tuple[Any, ...] | None:
    views = tuple(_fast(column) for column in columns)
    return None if any(view is None for view in views) else views


def take(column: Sequence[int], rows: Sequence[int]) -> array[int]:
    """The values at these rows, in their order."""
    views = _views(column, rows)
    return array("q", (column[row] for row in rows)) if views is None else column_of(views[0][views[1]])


def present(column: Sequence[int]) -> array[int]:
    """The values that aren't ABSENT, in order."""
    view = _fast(column)
    return array("q", (value for value in column if value != ABSENT)) if view is None else column_of(view[view != ABSENT])


def either(column: Sequence[int], other: Sequence[int]) -> array[int]:
    """`column` with the value of `other` where it has none."""
    views, numpy = _views(column, other), load_numpy()
    if views is None or numpy is None:
        return array("q", (b if a == ABSENT else a for a, b in zip(column, other, strict=True)))
    return column_of(numpy.where(views[0] == ABSENT, views[1], views[0]))


def rows_with(rows: Sequence[int], column: Sequence[int], value: int) -> array[int]:
    """Those of the rows where the column has that value."""
    views = _views(rows, column)
    if views is None:
        return array("q", (row for row in rows if column[row] == value))
    return column_of(views[0][views[1][views[0]] == value])


def rows_without(rows: Sequence[int], column: Sequence[int], value: int) -> array[int]:
    """Those of the rows where the column has another value."""
    views = _views(rows, column)
    if views is None:
        return array("q", (row for row in rows if column[row] != value))
    return column_of(views[0][views[1][views[0]] != value])


def rows_within(rows: Sequence[int], column: Sequence[int], above: int, upto: int) -> array[int]:
    """Those of the rows where above < value ≤ upto."""
    views = _views(rows, column)
    if views is None:
        return array("q", (row for row in rows if above < column[row] <= upto))
    values = views[1][views[0]]
    return column_of(views[0][(values > above) & (values <= upto)])


def rows_at_most(rows: Sequence[int], values: Sequence[int], limit: int) -> array[int]:
    """Those of the rows whose value is ≤ limit or ABSENT; `values` has one for each row."""
    views = _views(rows, values)
    if views is None:
        return array("q", (row for row, value in zip(rows, values, strict=True) if value <= limit))
    return column_of(views[0][views[1] <= limit])


def places_of(rows: Sequence[int]) -> array[int]:
    """Each row's place among all the rows, which are 0 to n − 1 in some order."""
    view, numpy = _fast(rows), load_numpy()
    places = array("q", bytes(8 * len(rows)))
    if view is None or numpy is None:
        for place, row in enumerate(rows):
            places[row] = place
    else:
        numpy.frombuffer(places, "i8")[view] = numpy.arange(len(rows))
    return places


def gaps_of(times: Sequence[int]) -> array[int]:
    """Differences of consecutive values."""
    views, numpy = fast_columns(times) if isinstance(times, array) else None, load_numpy()
    return array("q", map(sub, times[1:], times)) if views is None or numpy is None else column_of(numpy.diff(views[0]))


def ones_at_most(values: Sequence[int], limit: int) -> Sequence[int]:
    """1 for each value ≤ limit, 0 for the others."""
    view = _fast(values)
    return [int(value <= limit) for value in values] if view is None else column_of(view <= limit)


def delays_from(starts: array[int], planned: array[int], free: array[int], sent: array[int]) -> tuple[array[int], int]:
    """start − the later of planned and free, not below 0, where sent and one of the two is known;
    and how many of them were free after they were planned."""
    views, numpy = fast_columns(starts, planned, free, sent), load_numpy()
    if views is not None and numpy is not None:
        due = numpy.maximum(views[1], views[2])
        kept = (due != ABSENT) & (views[3] != ABSENT)
        waited = kept & (views[1] != ABSENT) & (views[1] < views[2])
        return column_of(numpy.maximum(views[0][kept] - due[kept], 0)), int(waited.sum())
    delays, capped = array("q"), 0
    for start, plan, slot, leave in zip(starts, planned, free, sent, strict=True):
        if max(plan, slot) != ABSENT and leave != ABSENT:
            capped += ABSENT != plan < slot
            delays.append(max(0, start - max(plan, slot)))
    return delays, capped


def dot(left: Sequence[int], right: Sequence[int]) -> int:
    """Exact Σ left · right. Fast for `right` from 0 to 2**24 and `left` from 0 to 2**48."""
    views = _views(left, right)
    if views is None or not len(left) or min(v.min() for v in views) < 0 or views[0].max() >= 1 << 48 or views[1].max() >= 1 << _HALF_BITS:
        return sum(a * b for a, b in zip(left, right, strict=True))
    total = 0
    for start in range(0, len(left), _BLOCK):
        a, b = (view[start : start + _BLOCK].astype("i8") for view in views)
        high, low = a >> _HALF_BITS, a & ((1 << _HALF_BITS) - 1)
        total += (int(high.dot(b)) << _HALF_BITS) + int(low.dot(b))
    return total


def count_at_most(values: Sequence[int], limit: int) -> int:
    """How many values are ≤ limit."""
    view = _fast(values)
    return sum(value <= limit for value in values) if view is None else int((view <= limit).sum())


# -- a number that steps up and down ----------------------------------------------------------


def steps_of(starts: array[int], ends: array[int]) -> tuple[array[int], array[int]] | None:
    """Distinct times of two ascending columns, and after each how many have started and not ended;
    None where it has to be walked."""
    views, numpy = fast_columns(starts, ends), load_numpy()
    if views is None or numpy is None:
        return None
    times = numpy.union1d(*views)
    levels = numpy.searchsorted(views[0], times, side="right") - numpy.searchsorted(views[1], times, side="right")
    return column_of(times), column_of(levels)


def span_at_least(times: array[int], levels: array[int], least: float) -> tuple[int, int] | None:
    """Beginning of the first and end of the last stretch with a level ≥ `least`; None without one, or
    where it has to be walked."""
    views = _views(times, levels)
    if views is None:
        return None
    places = (views[1][:-1] >= least).nonzero()[0]
    return (int(views[0][places[0]]), int(views[0][places[-1] + 1])) if len(places) else None


def weights_of(times: array[int], levels: array[int]) -> dict[int, int] | None:
    """Level to how long it lasted, over all; None where it has to be walked."""
    views, numpy = fast_columns(times, levels), load_numpy()
    if views is None or numpy is None or views[1].min() < 0 or views[1].max() > 1 << 24:
        return None
    lengths, level = numpy.diff(views[0]), views[1][:-1]
    order = numpy.argsort(level, kind="stable")
    ordered = level[order]
    begins = numpy.flatnonzero(numpy.diff(ordered, prepend=-1))
    return dict(zip(ordered[begins].tolist(), numpy.add.reduceat(lengths[order], begins).tolist(), strict=True))
