"""Lengths follow their distribution, keep their bounds, and don't depend on the order of asking."""

from __future__ import annotations

import math
from collections import Counter
from statistics import fmean, pstdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bytemlperf_llm.plan.scenario import Constant, Empirical, Lengths, Lognormal, Normal, Uniform
from bytemlperf_llm.workload.lengths import BLOCK_LENGTHS, LengthSeries, sampler

SAMPLES = 50_000
WIDE = {"min": 1, "max": 100_000}


def draws(lengths: Lengths, count: int = SAMPLES) -> list[int]:
    series = LengthSeries(lengths, 11, "test")
    return [series.at(index) for index in range(count)]


def test_constant_is_constant() -> None:
    assert set(draws(Constant(value=7), 100)) == {7}


def test_uniform_reaches_both_ends_equally_often() -> None:
    counts = Counter(draws(Uniform(min=3, max=7)))
    assert sorted(counts) == [3, 4, 5, 6, 7]
    assert all(abs(count - SAMPLES / 5) < 5 * math.sqrt(SAMPLES * 0.16) for count in counts.values())


def test_normal_has_its_mean_and_deviation() -> None:
    values = draws(Normal(mean=500, std=40, **WIDE))
    assert fmean(values) == pytest.approx(500, abs=5 * 40 / math.sqrt(SAMPLES))
    assert pstdev(values) == pytest.approx(40, rel=5 / math.sqrt(2 * SAMPLES))


def test_lognormal_mean_is_the_mean_before_clipping() -> None:
    values = draws(Lognormal(mean=480, sigma=0.6, **WIDE))
    deviation = 480 * math.sqrt(math.exp(0.36) - 1)
    assert fmean(values) == pytest.approx(480, abs=5 * deviation / math.sqrt(SAMPLES))
    assert fmean(map(math.log, values)) == pytest.approx(math.log(480) - 0.18, abs=5 * 0.6 / math.sqrt(SAMPLES))


def test_empirical_follows_its_weights_and_never_gives_a_weightless_value() -> None:
    counts = Counter(draws(Empirical(values=(5, 9, 2, 8), weights=(1.0, 0.0, 3.0, 0.0))))
    assert sorted(counts) == [2, 5]
    assert counts[2] == pytest.approx(0.75 * SAMPLES, rel=0.02)
    assert len(Counter(draws(Empirical(values=(1, 2, 3)), 1000))) == 3
    nearly_one = 1 - 2.0**-53
    last = sampler(Empirical(values=(5, 9), weights=(0.1, 0.0)))
    assert last(lambda: nearly_one) == 5


@given(
    st.one_of(
        st.builds(Normal, mean=st.floats(1, 1e4), std=st.floats(0, 1e4), min=st.just(4), max=st.just(99)),
        st.builds(Lognormal, mean=st.floats(1, 1e4), sigma=st.floats(0, 5), min=st.just(4), max=st.just(99)),
        st.builds(Uniform, min=st.just(4), max=st.just(99)),
    ),
    st.floats(0, 1, exclude_max=True),
)
def test_every_draw_is_a_whole_number_in_bounds(lengths: Lengths, u: float) -> None:
    value = sampler(lengths)(lambda: u)
    assert type(value) is int
    assert 4 <= value <= 99


def test_the_order_of_asking_changes_nothing() -> None:
    lengths = Uniform(min=1, max=1000)
    forward = draws(lengths, 3 * BLOCK_LENGTHS)
    series = LengthSeries(lengths, 11, "test")
    for index in (2 * BLOCK_LENGTHS, 5, BLOCK_LENGTHS + 1, 0, 3 * BLOCK_LENGTHS - 1):
        assert series.at(index) == forward[index]
    assert LengthSeries(lengths, 12, "test").at(0) != forward[0] or LengthSeries(lengths, 12, "test").at(1) != forward[1]
