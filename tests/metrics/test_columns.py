"""Sums, products and order statistics against Python's own integers."""

from __future__ import annotations

import random
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bytemlperf.statistics import clusters, columns
from bytemlperf.statistics.clusters import ClusteredColumn
from bytemlperf.statistics.columns import ABSENT, column, dot, either, present, sums_between, total_of

INTEGERS = st.integers(-(1 << 63), (1 << 63) - 1) | st.integers(-5, 5) | st.sampled_from((1 << 24, -(1 << 24), 1 << 48, -1))


@settings(deadline=None)
@given(st.lists(st.tuples(INTEGERS, INTEGERS), max_size=50), st.integers(1, 7))
def test_sums_and_products_are_exact_for_every_integer(pairs, block):
    left, right = [a for a, _ in pairs], [b for _, b in pairs]
    expected = sum(a * b for a, b in pairs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(columns, "_BLOCK", block)
        assert dot(column(left), column(right)) == dot(left, right) == expected
    assert total_of(column(left)) == total_of(left) == sum(left)
    if len(left) > 3:
        assert sums_between(column(left), (0, 2, 3, len(left))) == [sum(left[:2]), left[2], sum(left[3:])]


def test_long_columns_of_large_values():
    draw = random.Random(1)
    values = [draw.randrange(-(1 << 62), 1 << 62) for _ in range(40_000)]
    assert dot(column(values), column(values)) == sum(value * value for value in values)


def test_missing_values():
    values, other = column([3, ABSENT, 1]), column([7, 8, 9])
    assert present(values).tolist() == [3, 1]
    assert either(values, other).tolist() == [3, 8, 1]


def added(clusters_of_runs, first_row=0):
    """A column of these clusters, added one by one; each is a list of (value, count)."""
    made = ClusteredColumn()
    for row, cluster in enumerate(clusters_of_runs, start=first_row):
        add(made, row, cluster)
    return made


def add(made, row, cluster):
    values, counts = (column([pair[place] for pair in cluster]) for place in (0, 1))
    once = all(count == 1 for _, count in cluster)
    sums = sum(value * count for value, count in cluster)
    runs, lengths = [len(cluster)], [sum(count for _, count in cluster)]
    made.add(*map(column, ([row],)), values, None if once else counts, *map(column, (runs, lengths, [sums])))


def runs(made):
    """The clusters as lists of (value, count)."""
    return [list(zip(*(part.tolist() for part in made.runs(place, place + 1)), strict=True)) for place in range(len(made.rows))]


RUNS = st.lists(
    st.lists(
        st.tuples(st.integers(-3, 9) | st.integers(-(1 << 40), 1 << 40), st.just(1) | st.integers(1, 1 << 20)), min_size=1, max_size=5
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=25, deadline=None)
@given(RUNS, st.integers(2, 5))
def test_a_clustered_column_is_its_values_counted_out(wanted, block):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clusters, "_BLOCK", block)
        patch.setattr(clusters, "_BLOCK_CLUSTERS", block)
        check(added(wanted), wanted)


def test_values_without_counts_and_with_stay_apart():
    wanted = [[(5, 1), (6, 1)], [(2**40, 1)], [(7, 3), (2**32, 2)], [(9, 1), (-4, 1), (2**32 - 1, 1)]]
    check(added(wanted), wanted)


def check(made, wanted):
    pairs = sorted(pair for cluster in wanted for pair in cluster)
    count = sum(many for _, many in pairs)
    assert runs(made) == wanted
    assert made.lengths.tolist() == [sum(many for _, many in cluster) for cluster in wanted]
    assert made.sums.tolist() == [sum(value * many for value, many in cluster) for cluster in wanted]
    assert made.sum_of_squares() == sum(value * value * many for value, many in pairs)
    ordered = made.ordered()
    assert len(made) == len(ordered) == count
    upto = 0
    for value, many in pairs:
        assert (ordered[upto], ordered[upto + many - 1], ordered[upto - count]) == (value, value, value)
        upto += many
    with pytest.raises(IndexError):
        ordered[count]
    for limit in {value + more for value, _ in pairs for more in (-1, 0)}:
        assert made.counts_at_most(limit).tolist() == [sum(many for value, many in cluster if value <= limit) for cluster in wanted]


def test_rows_without_a_cluster_have_no_runs():
    made = added([[(5, 1), (1, 1)]], first_row=3)
    assert [part.tolist() for part in made.runs_of(3)] == [[5, 1], [1, 1]]
    assert [part.tolist() for part in made.runs_of(2)] == [[], []]


def test_a_run_of_10_to_the_9_values_is_one():
    made = added([[(7, 10**9), (2, 3)], [(1, 2**40)]])
    assert len(made) == 2**40 + 10**9 + 3
    assert [made.ordered()[place] for place in (0, 2**40, 2**40 + 3, -1)] == [1, 2, 7, 7]
    assert made.counts_at_most(2).tolist() == [3, 2**40]


@pytest.mark.parametrize("top", [3, 70_000, 2**32 - 1])
def test_a_selection_is_the_sorted_list(top):
    draw = random.Random(top)
    values = [draw.choice((draw.randrange(top + 1), top, 0, top // 2)) for _ in range(3_000)]
    selection = added([[(value, 1) for value in values]]).ordered()
    assert [selection[place] for place in range(3_000)] == sorted(values)


def test_numpy_waits_for_the_first_column():
    """A load starts, and `--help` and `doctor` answer, without its import."""
    modules = (
        "bytemlperf_llm.run.bench, bytemlperf_llm.metrics.summary, bytemlperf_llm.doctor.doctor, bytemlperf.compare.show, bytemlperf.app"
    )
    code = f"import sys, {modules}; print(sorted({{'numpy', 'psutil'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
