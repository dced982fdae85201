"""Percentiles against a naive reference, and intervals against simulation."""

from __future__ import annotations

import math
import random
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bytemlperf.errors import UserError
from bytemlperf.statistics.statistics import (
    INSUFFICIENT,
    autocorrelation_factor,
    batch,
    deviation,
    effective_count,
    effective_interval,
    mean_interval,
    nearest_rank,
    needed_count,
    order_interval,
    parse_percentile,
    percentile,
    ratio,
)

P50, P90, P95, P99, P999 = (parse_percentile(text) for text in ("50", "90", "95", "99", "99.9"))
SIMULATIONS = 10_000
LEAST_COVERAGE = 0.945


def naive_percentile(values, share):
    """The smallest value that at least this share of all values doesn't exceed."""
    return min(value for value in values if Fraction(sum(other <= value for other in values), len(values)) >= share)


def test_percentiles_equal_a_naive_reference_on_10000_sets():
    draw = random.Random(20260801)
    shares = [parse_percentile(text) for text in ("1", "25", "50", "90", "95", "99", "99.9", "99.99")]
    for _ in range(10_000):
        spread = draw.choice([3, 1000, 10**12])  # few distinct values, so that ties happen, or none
        values = [draw.randrange(spread) for _ in range(draw.randrange(1, 40))]
        share = draw.choice(shares)
        assert percentile(sorted(values), share) == naive_percentile(values, share)


@settings(deadline=None)
@given(st.lists(st.integers(-(10**15), 10**15), min_size=1, max_size=60), st.fractions(Fraction(1, 10**6), 1 - Fraction(1, 10**6)))
def test_percentiles_of_any_set(values, share):
    assert percentile(sorted(values), share) == naive_percentile(values, share)


def test_ranks_have_no_rounding_error():
    assert nearest_rank(1000, P999) == 999  # 99.9/100*1000 is 999.0000000000001 in floating point
    assert nearest_rank(10**15, P999) == 999 * 10**12
    assert nearest_rank(1, P50) == 1


@pytest.mark.parametrize("text", ["0", "100", "-1", "101", "p99", "", "1/0"])
def test_percentiles_out_of_range(text):
    with pytest.raises(UserError):
        parse_percentile(text)


@pytest.mark.parametrize(("share", "needed"), [(P50, 7), (P90, 44), (P95, 90), (P99, 459), (P999, 4603), (parse_percentile("1"), 459)])
def test_needed_counts_at_both_sides_of_the_boundary(share, needed):
    assert needed_count(share) == needed
    far = max(share, 1 - share)
    assert 1 - float(far) ** needed >= 0.99 > 1 - float(far) ** (needed - 1)
    assert order_interval(range(needed - 1), share) == INSUFFICIENT
    low, high = order_interval(range(needed), share)
    assert 0 <= low < high <= needed - 1


@pytest.mark.parametrize(
    ("count", "share"),
    [(7, P50), (50, P50), (501, P50), (44, P90), (300, P90), (90, P95), (459, P99), (1000, P99), (459, parse_percentile("1"))],
)
def test_order_intervals_cover(count, share):
    numpy = pytest.importorskip("numpy")
    low, high = order_interval(range(count), share)  # ranks
    draws = numpy.sort(numpy.random.default_rng(count).random((SIMULATIONS, count)), axis=1)
    covered = (draws[:, low] <= float(share)) & (float(share) <= draws[:, high])
    assert covered.mean() >= LEAST_COVERAGE


CLUSTERED = [  # clusters, correlation within, share, spread of lengths (sigma of their logarithm)
    (10, 0.3, P50, 0.0),
    (100, 0.3, P99, 0.0),
    (100, 0.3, P90, 1.0),
    (30, 0.3, P50, 1.0),
    (300, 0.0, P99, 0.7),
]


@pytest.mark.slow
@pytest.mark.parametrize(("clusters", "correlation", "share", "spread"), CLUSTERED)
def test_clustered_intervals_cover(clusters, correlation, share, spread):
    """Tokens of a request share a random effect; lengths are equal or lognormal around 32."""
    numpy = pytest.importorskip("numpy")
    rng = numpy.random.default_rng(clusters)
    truth = _normal_quantile(float(share))
    covered = carried = 0
    for _ in range(SIMULATIONS):
        sizes = numpy.maximum(2, 32 * numpy.exp(spread * rng.standard_normal(clusters))).astype(int)
        values = math.sqrt(correlation) * numpy.repeat(rng.standard_normal(clusters), sizes)
        values += math.sqrt(1 - correlation) * rng.standard_normal(sizes.sum())
        ordered = numpy.sort(values)
        limit = ordered[nearest_rank(len(ordered), share) - 1]
        starts = numpy.concatenate([[0], numpy.cumsum(sizes)[:-1]])
        at_most = numpy.add.reduceat((values <= limit).astype(int), starts).tolist()
        places = effective_interval(range(len(ordered)), share, effective_count(at_most, sizes.tolist(), share))
        if places != INSUFFICIENT:
            carried += 1
            covered += ordered[places[0]] <= truth <= ordered[places[1]]
    assert carried > SIMULATIONS / 2
    assert covered / carried >= LEAST_COVERAGE


def _normal_quantile(share):
    from statistics import NormalDist

    return NormalDist().inv_cdf(share)


@pytest.mark.slow
@pytest.mark.parametrize(("count", "memory"), [(20, 0.0), (600, 0.0), (3000, 0.8), (6000, 0.9)])
def test_mean_intervals_cover_autocorrelated_values(count, memory):
    """First-order autoregressive values: the plain t interval would cover 48 % at memory 0.8."""
    numpy = pytest.importorskip("numpy")
    rng = numpy.random.default_rng(count)
    noise = rng.standard_normal((count, SIMULATIONS)) * math.sqrt(1 - memory**2)
    noise[0] = rng.standard_normal(SIMULATIONS)
    for step in range(1, count):
        noise[step] += memory * noise[step - 1]
    values = (noise.T * 1000).round().astype(int) + 10_000
    edges = [count * edge // 30 for edge in range(31)] if count >= 60 else list(range(count + 1))
    sizes = numpy.diff(edges).tolist()
    sums = numpy.add.reduceat(values, edges[:-1], axis=1).tolist()
    covered = 0
    for row in sums:  # batches are handed over as units of several values: the same estimator
        low, high = mean_interval(row, sizes)
        covered += low <= 10_000 <= high
    assert covered / SIMULATIONS >= LEAST_COVERAGE - 0.01 * (memory > 0)


def test_batches_are_stretches_of_nearly_equal_length():
    values = random.Random(4).choices(range(1000), k=601)
    sums, sizes = batch(values), batch([1] * 601)
    assert (len(sums), sum(sizes), set(sizes)) == (30, 601, {20, 21})
    assert batch(values[:59]) == values[:59]
    assert batch(sums, 10) == batch(values, 10), "ten are three of thirty each"


def test_mean_interval_of_a_known_sample():
    low, high = mean_interval([10, 12, 14], [1, 1, 1])  # mean 12, s = 2, t(2) = 4.302653
    factor = math.exp(4.302653 * 2 / math.sqrt(3) / 12)
    assert (low, high) == (pytest.approx(12 / factor, rel=1e-6), pytest.approx(12 * factor, rel=1e-6))
    low, high = mean_interval([-2, 0, 2], [1, 1, 1])  # may be negative: plain
    assert (low, high) == (pytest.approx(-4.302653 * 2 / math.sqrt(3)), pytest.approx(4.302653 * 2 / math.sqrt(3)))
    assert mean_interval([5], [1]) == INSUFFICIENT
    assert mean_interval([5, 5], [1, 1]) == (5.0, 5.0)
    assert mean_interval([0, 0], [1, 1]) == (0.0, 0.0)


@settings(deadline=None)
@given(st.lists(st.integers(0, 10**12), min_size=2, max_size=80))
def test_no_interval_of_a_positive_quantity_falls_below_zero(values):
    """Few values of which one is far off: Student's t would reach from −729 to 4,635 ms."""
    low, high = mean_interval(values, [1] * len(values))
    mean = sum(values) / len(values)
    assert 0 <= low <= mean * (1 + 1e-9)
    assert mean <= high * (1 + 1e-9)
    assert low > 0 or not any(values)


def test_mean_interval_weighs_units_by_their_size():
    low, high = mean_interval([10, 300], [1, 30])
    assert low == high == 10.0


def test_deviation_is_exact():
    values = [10**15 + 1, 10**15 + 2, 10**15 + 4]
    expected = math.sqrt(Fraction(7, 3))
    assert deviation(3, sum(values), sum(value * value for value in values)) == expected
    assert deviation(1, 5, 25) is None


def test_effective_count_of_independent_and_of_identical_tokens():
    draw = random.Random(7)
    worths = []
    for _ in range(60):
        independent = [sum(draw.random() < 0.5 for _ in range(20)) for _ in range(500)]
        worths.append(effective_count(independent, [20] * 500, Fraction(sum(independent), 10_000)))
    assert 4_000 < sorted(worths)[30] <= max(worths) <= 10_000
    whole = [20 * (cluster % 2) for cluster in range(500)]  # all tokens of a request agree, and neighbours don't
    assert effective_count(whole, [20] * 500, P50) == pytest.approx(500, rel=0.02)
    assert effective_count([3], [20], P50) == 0.0


def test_neighbours_that_are_alike_count_as_few():
    """Steps that requests share, or a queue: each request alone would say 500."""
    alike = [20 * (cluster // 50 % 2) for cluster in range(500)]
    assert effective_count(alike, [20] * 500, P50) < 20
    assert effective_count([cluster // 50 % 2 for cluster in range(500)], [1] * 500, P50) < 20


def test_effective_interval_ends_at_the_outermost_value_and_is_none_far_from_it():
    low, high = effective_interval(range(10_000), P99, 1_000.0)
    assert low < 9_899 < high < 9_999
    assert effective_interval(range(10_000), P99, 367.0)[1] == 9_999, "0.99**367 > 2.5 %"
    assert effective_interval(range(10_000), P99, 120.0)[1] == 9_999
    assert effective_interval(range(10_000), P99, 119.0) == INSUFFICIENT, "0.99**119 > 30 %"
    assert effective_interval(range(10_000), P50, 0.9) == INSUFFICIENT


def test_autocorrelation_is_seen_and_independence_left_alone():
    draw = random.Random(3)
    assert autocorrelation_factor([draw.randrange(1000) for _ in range(900)]) == 1.0
    ramp = list(range(900))
    assert autocorrelation_factor(ramp) > 20
    assert autocorrelation_factor([5] * 900) == 1.0
    assert autocorrelation_factor(ramp[:59]) == 1.0


def test_the_interval_of_a_ratio_covers_it() -> None:
    """Nominal 95 %: of 2,000 simulated pairs at least 94 % hold the truth, and not all of them."""
    draw = random.Random(7)
    held = 0
    for _ in range(2000):
        above = [round(draw.lognormvariate(0, 0.2) * 1e6) for _ in range(15)]
        below = [round(draw.lognormvariate(0, 0.3) * 5e5) for _ in range(20)]
        truth = 2.0 * math.exp((0.2**2 - 0.3**2) / 2)
        _, low, high = ratio(above, below)
        assert low is not None
        assert high is not None
        held += low <= truth <= high
    assert 0.94 <= held / 2000 < 0.99


def test_equal_times_have_an_exact_ratio() -> None:
    assert ratio([4, 4], [2, 2]) == (2.0, 2.0, 2.0)
    assert ratio([4], [2])[1:] == (None, None)
