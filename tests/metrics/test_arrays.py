"""With numpy and without: the same integers."""

from __future__ import annotations

import random
from array import array

import pytest

from bytemlperf.statistics import arrays
from bytemlperf.statistics.arrays import ClusteredColumn, sort_values, sum_of_squares
from bytemlperf.statistics.selection import Selection


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


def runs(column):
    """The clusters as lists of (value, count)."""
    return [list(zip(*column.runs(place), strict=True)) for place in range(len(column.rows))]


def flat(column):
    """The clusters, every run counted out."""
    return [[value for value, count in cluster for _ in range(count)] for cluster in runs(column)]


def test_runs_are_their_values_counted_out(way):
    """Of short runs, long ones, and ones that come after clusters that had none."""
    draw = random.Random(4)
    clusters = [
        [(draw.choice((0, 3, 2**31, 2**33, -7)), draw.choice((1, 1, 2, 70_000))) for _ in range(draw.randrange(1, 5))] for _ in range(12)
    ]
    column, plain = ClusteredColumn(), [[5, 6], [2**40]]
    for row, values in enumerate(plain):
        column.add(row, values)
    for row, cluster in enumerate(clusters, start=2):
        column.add(row, [value for value, _ in cluster], [count for _, count in cluster])
    column.add(20, [9, 9])
    every = [*([(value, 1) for value in values] for values in plain), *clusters, [(9, 1), (9, 1)]]
    assert runs(column) == every
    assert list(column.lengths) == [sum(count for _, count in cluster) for cluster in every]
    assert list(column.sums) == [sum(value * count for value, count in cluster) for cluster in every]
    values = sorted(value for cluster in flat(column) for value in cluster)
    ordered = column.ordered()
    assert len(column) == len(ordered) == len(values)
    assert all(ordered[place] == values[place] for place in (*range(0, len(values), 997), 0, len(values) - 1, -1))
    assert column.sum_of_squares() == sum(value * value for value in values)
    for limit in (-8, -7, 0, 5, 2**31, 2**32, 2**33, 2**40):
        assert list(column.counts_at_most(limit)) == [sum(count for value, count in cluster if value <= limit) for cluster in every]


def test_a_run_of_10_to_the_9_values_is_one(way):
    column = ClusteredColumn()
    column.add(0, [7, 2], [10**9, 3])
    assert column._counts.itemsize == 4
    assert (len(column), column.sums[0], column.sum_of_squares()) == (10**9 + 3, 7 * 10**9 + 6, 49 * 10**9 + 12)
    assert [column.ordered()[place] for place in (0, 2, 3, -1)] == [2, 2, 7, 7]
    assert list(column.counts_at_most(2)) == [3]
    column.add(1, [1], [2**40])
    assert (len(column), column.sums[1], runs(column)) == (2**40 + 10**9 + 3, 2**40, [[(7, 10**9), (2, 3)], [(1, 2**40)]])
    assert [column.ordered()[place] for place in (0, 2**40, -1)] == [1, 2, 7]


def test_counts_per_cluster(way):
    column = ClusteredColumn()
    for row, values in enumerate([[5, 1, 9], [], [7], [2, 2, 2, 8]]):
        column.add(row, values)
    assert list(column.rows) == [0, 2, 3]
    assert (list(column.lengths), list(column.sums), len(column)) == ([3, 1, 4], [15, 7, 14], 8)
    assert list(column.counts_at_most(5)) == [2, 0, 3]
    assert flat(column)[2] == [2, 2, 2, 8]


def test_values_beyond_32_bits_are_kept_aside_exactly(way):
    column = ClusteredColumn()
    clusters = [[1, 2], [3, 2**32], [-4], [2**32 - 1, 7, 2**40, 0], [2**32 + 5]]
    for row, values in enumerate(clusters):
        column.add(2 * row, values)
    values = sorted(value for values in clusters for value in values)
    assert flat(column) == clusters
    assert (list(column.runs_of(2)[0]), list(column.runs_of(3)[0])) == ([3, 2**32], [])
    ordered = column.ordered()
    assert [ordered[place] for place in range(len(values))] == values
    assert (ordered[-1], ordered[-len(values)]) == (2**40, -4)
    assert column.sum_of_squares() == sum(value * value for value in values)
    for limit in (-5, -4, -1, 0, 3, 2**32 - 2, 2**32 - 1, 2**32, 2**32 + 4, 2**32 + 5, 2**41):
        assert list(column.counts_at_most(limit)) == [sum(value <= limit for value in values) for values in clusters]


@pytest.mark.parametrize("top", [3, 70_000, 2**32 - 1])
def test_a_selection_is_the_sorted_list(top):
    numpy = pytest.importorskip("numpy")
    draw = random.Random(top)
    values = [draw.choice((draw.randrange(top + 1), top, 0, top // 2)) for _ in range(3_000)]
    selection = Selection(numpy.array(values, dtype="u4"), numpy)
    ordered = sorted(values)
    assert [selection[place] for place in range(3_000)] == ordered
    assert (selection[-1], selection[-3_000], len(selection)) == (ordered[-1], ordered[0], 3_000)
    with pytest.raises(IndexError):
        selection[3_000]


def test_many_clusters_are_counted_by_blocks(monkeypatch):
    pytest.importorskip("numpy")
    monkeypatch.setattr(arrays, "LARGE", 1)
    monkeypatch.setattr(arrays, "_BLOCK", 7)
    draw, column, clusters = random.Random(2), ClusteredColumn(), []
    for row in range(100):
        clusters.append([draw.randrange(50) for _ in range(draw.randrange(1, 9))])
        column.add(row, clusters[-1])
    assert list(column.counts_at_most(20)) == [sum(value <= 20 for value in values) for values in clusters]


def test_small_columns_never_import_numpy(monkeypatch):
    monkeypatch.setattr(arrays, "load_numpy", lambda: pytest.fail("numpy was asked for"))
    assert sort_values(array("q", [3, 1])) == [1, 3]
