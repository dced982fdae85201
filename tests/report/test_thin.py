"""Thinning hides nothing: minima, maxima and quantiles of a million values are still there."""

from __future__ import annotations

import numpy as np
import pytest

from bytemlperf.report.thin import Binned, distribution, histogram_edges, kept_dots, limits_between, thinned_steps, time_edges


@pytest.fixture(scope="module")
def values():
    return np.random.default_rng(7).lognormal(3, 1, 200_000)


def test_a_thinned_distribution_keeps_the_ends_and_states_exact_shares(values):
    x, share = distribution(values)
    assert len(x) < 700
    assert (x[0], x[-1]) == (values.min(), values.max())
    for at in (0, 10, 300, len(x) - 2):
        assert share[at] == pytest.approx(np.mean(values <= x[at]), abs=1e-12)
    assert share[-1] == 1.0
    assert sum(share > 0.999) > 20, "the tail is where readers look"


def test_few_values_are_all_drawn():
    x, share = distribution(np.array([3.0, 1.0, 2.0]))
    assert x.tolist() == [1, 2, 3]
    assert share.tolist() == [1 / 3, 2 / 3, 1]


@pytest.mark.parametrize("sample", [[5.0], [1.0, 1.0], [0.0, 3.0, 900.0], [0.001, 5.0, 7000.0]])
def test_a_histogram_holds_every_value(sample):
    edges, _ = histogram_edges(np.array(sample))
    assert np.histogram(sample, edges)[0].sum() == len(sample)


def test_bins_are_of_one_width_or_of_one_factor(values):
    edges, growing = histogram_edges(values)
    assert growing
    assert np.ptp(np.diff(np.log(edges[1:-1]))) < 1e-9
    even, factor = histogram_edges(values[values < 30])
    assert factor or np.ptp(np.diff(even)) < 1e-9


def test_stretches_of_time_give_exact_percentiles_and_extremes():
    rng = np.random.default_rng(3)
    when, what = rng.uniform(0, 10, 5000), rng.uniform(0, 1, 5000)
    edges = time_edges(0, 10, 5000)
    binned = Binned(when, what, edges)
    assert binned.count.sum() == 5000
    for place in (0, 7, len(edges) - 2):
        inside = np.sort(what[(when >= edges[place]) & (when < edges[place + 1])])
        assert binned.percentile(0)[place] == inside[0]
        assert binned.percentile(100)[place] == inside[-1]
        assert binned.percentile(50)[place] == inside[-(-len(inside) // 2) - 1]


def test_an_empty_stretch_is_a_gap_and_no_zero():
    binned = Binned(np.array([0.1, 9.9]), np.array([1.0, 2.0]), np.linspace(0, 10, 11))
    assert np.isnan(binned.percentile(50)[5])


def test_dots_keep_the_fastest_and_the_slowest(values):
    dots = kept_dots(values)
    assert len(dots) <= 1500
    assert {int(values.argmin()), int(values.argmax())} <= set(dots.tolist())
    assert (np.diff(dots) > 0).all(), "in the order of time"


def test_thinned_steps_keep_the_peak_and_the_end():
    levels = np.random.default_rng(5).integers(0, 1000, 50_000).astype(float)
    times, kept = thinned_steps(np.arange(50_000.0), levels)
    assert len(kept) < 600
    assert (kept.min(), kept.max(), kept[-1], times[-1]) == (levels.min(), levels.max(), levels[-1], 49_999)


def test_limits_include_both_ends():
    for low, high in ((0.0, 5.0), (1.0, 5000.0)):
        limits = limits_between(low, high)
        assert (limits[0], limits[-1]) == (low, high)
        assert (np.diff(limits) >= 0).all()
