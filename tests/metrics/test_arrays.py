"""With numpy and without: the same integers."""

from __future__ import annotations

import random
from array import array

import pytest

from bytemlperf_llm.metrics import arrays
from bytemlperf_llm.metrics.arrays import ClusteredColumn, sort_values, sum_of_squares


@pytest.fixture(params=["numpy", "plain"])
def way(request, monkeypatch):
    """Run each test on the fast path and without numpy."""
    if request.param == "numpy":
        pytest.importorskip("numpy")
        monkeypatch.setattr(arrays, "LARGE", 1)
    else:
        monkeypatch.setattr(arrays, "load_numpy", lambda: None)
    return request.param


@pytest.mark.parametrize("top", [10, 2**32 - 1, 2**48 - 1, 2**62])
def test_sums_and_order_are_exact(way, top):
    draw = random.Random(top)
    values = [draw.randrange(top + 1) for _ in range(20_000)] + [top]
    column = array("I" if top < 2**32 else "q", values)
    assert sum_of_squares(column) == sum(value * value for value in values)
    assert [int(value) for value in sort_values(column)] == sorted(values)
    assert list(column) == values


def test_counts_per_cluster(way):
    column = ClusteredColumn()
    for row, values in enumerate([[5, 1, 9], [], [7], [2, 2, 2, 8]]):
        column.add(row, values)
    assert list(column.rows) == [0, 2, 3]
    assert (list(column.lengths), list(column.sums), len(column)) == ([3, 1, 4], [15, 7, 14], 8)
    assert column.counts_at_most(5) == [2, 0, 3]
    assert list(column.cluster(2)) == [2, 2, 2, 8]


def test_a_column_widens_at_the_first_long_interval(way):
    column = ClusteredColumn()
    column.add(0, [1, 2])
    assert (column.values.typecode, column.values.itemsize) == ("I", 4)
    column.add(1, [3, 2**32])
    assert column.values.typecode == "q"
    assert list(column.values) == [1, 2, 3, 2**32]
    assert column.counts_at_most(3) == [2, 1]
    column.add(2, [-4])
    assert sum_of_squares(column.values) == 1 + 4 + 9 + 2**64 + 16


def test_small_columns_never_import_numpy(monkeypatch):
    monkeypatch.setattr(arrays, "load_numpy", lambda: pytest.fail("numpy was asked for"))
    assert sort_values(array("q", [3, 1])) == [1, 3]
