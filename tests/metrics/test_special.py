"""Binomial tails and Student's t against exact rational sums and published values."""

from __future__ import annotations

from fractions import Fraction
from math import comb

import pytest

from bytemlperf.statistics.special import binomial_cdf, lower_tail_count, normal_quantile, regularised_beta, t_quantile

SHARES = [Fraction(1, 2), Fraction(9, 10), Fraction(99, 100), Fraction(1, 100), Fraction(999, 1000)]


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("count", [1, 2, 5, 50, 459, 1500])
def test_tail_counts_equal_exact_rational_sums(count, share):
    below, best = Fraction(0), -1
    for k in range(count):
        below += comb(count, k) * share**k * (1 - share) ** (count - k)
        if below <= Fraction(1, 40):
            best = k
        if below > Fraction(1, 10**200):
            assert binomial_cdf(k, count, share) == pytest.approx(float(below), rel=1e-10)
    assert lower_tail_count(count, share, 0.025) == best


# Made with 40-digit arithmetic: the tail at k is at most 2.5 %, at k + 1 it is more.
LARGE = [
    (10**6, Fraction(99, 100), 989804, 0.0249862785168),
    (10**8, Fraction(99, 100), 98998048, 0.0249474196508),
    (10**8, Fraction(1, 2), 49990199, 0.0249920513552),
    (10**8, Fraction(999, 1000), 99899379, 0.0249000015600),
]


@pytest.mark.parametrize(("count", "share", "k", "tail"), LARGE)
def test_tails_of_large_samples(count, share, k, tail):
    assert lower_tail_count(count, share, 0.025) == k
    assert binomial_cdf(k, count, share) == pytest.approx(tail, rel=1e-6)
    assert binomial_cdf(k + 1, count, share) > 0.025


def test_tails_outside_the_range():
    assert binomial_cdf(-1, 10, Fraction(1, 2)) == 0.0
    assert binomial_cdf(10, 10, Fraction(1, 2)) == 1.0
    assert lower_tail_count(3, Fraction(1, 2), 0.025) == -1


@pytest.mark.parametrize(
    ("degrees", "value"), [(1, 12.7062), (2, 4.30265), (5, 2.57058), (29, 2.04523), (100, 1.98397), (10**6, 1.95997), (10**9, 1.95996)]
)
def test_student_t_table(degrees, value):
    assert t_quantile(0.975, degrees) == pytest.approx(value, abs=6e-6 * value)


def test_beta_edges_and_symmetry():
    assert regularised_beta(2.0, 3.0, 0.0) == 0.0
    assert regularised_beta(2.0, 3.0, 1.0) == 1.0
    assert regularised_beta(2.0, 3.0, 0.3) == pytest.approx(1.0 - regularised_beta(3.0, 2.0, 0.7), abs=1e-14)
    assert normal_quantile(0.975) == pytest.approx(1.959963985, abs=1e-8)
