"""The written-out mathematics agrees with the library's, and the draws are what they are called."""

from __future__ import annotations

import math
import random
import sys
from statistics import NormalDist, fmean, pvariance

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bytemlperf.arrivals import seeded


def units_apart(ours: float, theirs: float) -> float:
    return abs(ours - theirs) / math.ulp(theirs)


@given(st.floats(min_value=sys.float_info.min, max_value=sys.float_info.max))
def test_log_is_within_a_few_units_in_the_last_place(x: float) -> None:
    assert abs(seeded.log(x) - math.log(x)) <= max(4 * math.ulp(math.log(x)), 1e-16)


@given(st.floats(min_value=-700, max_value=700))
def test_exp_is_within_a_few_units_in_the_last_place(x: float) -> None:
    assert units_apart(seeded.exp(x), math.exp(x)) <= 4


def test_exp_beyond_the_range_of_floats() -> None:
    assert seeded.exp(-1e6) == 0.0
    with pytest.raises(OverflowError, match="too large"):
        seeded.exp(1e6)


@given(st.floats(min_value=2.0**-54, max_value=1 - 2.0**-53))
def test_normal_quantile_is_that_of_the_standard_library(p: float) -> None:
    assert seeded.normal_quantile(p) == pytest.approx(NormalDist().inv_cdf(p), rel=1e-14, abs=1e-15)


def test_a_draw_of_exactly_zero_is_no_accident() -> None:
    assert math.isfinite(seeded.normal(lambda: 0.0))
    assert seeded.exponential(lambda: 0.0) == 0.0
    assert math.isfinite(seeded.exponential(lambda: 1 - 2.0**-53))
    assert seeded.gamma(0.01, iter([0.5, 0.5, 0.0]).__next__) == 0.0


@pytest.mark.parametrize("shape", [0.05, 0.5, 1.0, 3.7, 50.0])
def test_gamma_has_mean_and_variance_equal_to_its_shape(shape: float) -> None:
    draw = seeded.stream(5, "gamma")
    values = [seeded.gamma(shape, draw) for _ in range(40_000)]
    assert fmean(values) == pytest.approx(shape, rel=4 / math.sqrt(40_000 * shape))
    assert pvariance(values) == pytest.approx(shape, rel=5 * math.sqrt((2 + 6 / shape) / 40_000))


def test_streams_of_different_purposes_differ_and_are_pythons_own() -> None:
    assert seeded.stream(1, "a")() != seeded.stream(1, "b")()
    assert seeded.stream(1, "a", 2)() == random.Random("1/a/2").random()
    assert seeded.stream(7, "pinned")() == 0.19513132989111592


def test_shuffled_is_a_permutation_and_every_place_is_equally_likely() -> None:
    draw = seeded.stream(0, "shuffle")
    places = [[0] * 5 for _ in range(5)]
    for _ in range(20_000):
        order = seeded.shuffled(range(5), draw)
        assert sorted(order) == list(range(5))
        for place, item in enumerate(order):
            places[place][item] += 1
    # 4,000 expected in each cell; five standard deviations of a binomial count.
    assert all(abs(count - 4000) < 5 * math.sqrt(20_000 * 0.2 * 0.8) for row in places for count in row)
