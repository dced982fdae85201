"""Changes and their intervals: exact where they can be, and covering what they claim in simulations."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bytemlperf_llm.compare.statistics import _places, block_length, change, significant, statistic_of
from bytemlperf_llm.metrics.statistics import nearest_rank, parse_percentile
from bytemlperf_llm.runs.kinds import Figure


def figure(samples=(), statistic="mean", ids=(), **fields) -> Figure:
    samples = [float(each) for each in samples]
    value = float(statistic_of(np.array([samples]), statistic)[0]) if samples else None
    return Figure(
        **{"key": "k", "metric": "m", "unit": "ms", "value": value, "samples": samples, "statistic": statistic, "sample_ids": ids} | fields
    )


def autocorrelated(rng, count, rho, mean):
    values = np.empty(count)
    values[0] = rng.normal()
    for place in range(1, count):
        values[place] = rho * values[place - 1] + math.sqrt(1 - rho * rho) * rng.normal()
    return mean + values


def test_percentiles_of_resamples_are_nearest_rank():
    samples = np.random.default_rng(1).permutation(1000).astype(float)
    for name in ("p1", "p50", "p90", "p99", "p99.9"):
        rank = nearest_rank(1000, parse_percentile(name[1:]))
        assert statistic_of(samples[None, :], name)[0] == np.sort(samples)[rank - 1]
    with pytest.raises(ValueError, match="unknown"):
        statistic_of(samples[None, :], "mode")


def test_a_run_against_itself_is_no_change():
    same = figure(np.random.default_rng(2).lognormal(3, 0.5, 400), "p50", ids=range(400))
    found = change(same, same, paired=True)
    assert (found.ratio, found.low, found.high, found.p_value) == (1.0, 1.0, 1.0, 1.0)


def test_pairing_takes_out_what_the_requests_cost_anyway():
    rng = np.random.default_rng(3)
    cost = rng.lognormal(4, 1, 300)
    before, after = cost * rng.normal(1, 0.02, 300), cost * 1.03 * rng.normal(1, 0.02, 300)
    one, other = (figure(values, ids=list(range(300))) for values in (before, after))
    paired, apart = change(one, other, paired=True), change(one, other, paired=False)
    assert paired.ratio == apart.ratio == pytest.approx(1.03, abs=0.01)
    assert paired.high - paired.low < 0.1 * (apart.high - apart.low)
    assert paired.low > 1, "3 % is seen when paired"
    assert apart.low < 1 < apart.high, "and lost in the spread of lengths when not"


def test_requests_are_paired_by_name_and_not_by_place():
    rng = np.random.default_rng(4)
    cost = rng.lognormal(4, 1, 200)
    order = rng.permutation(200)
    found = change(figure(cost, ids=list(range(200))), figure(cost[order], ids=order.tolist()), paired=True)
    assert (found.low, found.high) == (pytest.approx(1.0), pytest.approx(1.0))


def test_too_few_common_requests_are_not_paired():
    values = np.random.default_rng(1).uniform(1, 2, 100)
    one, other = figure(values, ids=list(range(100))), figure(values, ids=list(range(60, 160)))
    assert change(one, other, paired=True).method == "bootstrap"


def test_blocks_are_long_where_values_hang_together_and_single_where_not():
    rng = np.random.default_rng(5)
    assert block_length(rng.normal(100, 1, 3000)) == 1
    assert 10 <= block_length(autocorrelated(rng, 3000, 0.8, 100.0)) <= 120
    places = _places(np.random.default_rng(1), 100, 10, 5)
    assert places.shape == (5, 100)
    steps = np.diff(places, axis=1) % 100
    assert (steps == 1).mean() > 0.85, "neighbours stay together"


@pytest.mark.parametrize(("rho", "statistic"), [(0.0, "mean"), (0.0, "p90"), (0.8, "mean")])
def test_intervals_cover_the_true_ratio(rho, statistic):
    """Nominal 95 %; 120 simulations have a standard error of 2 %."""
    rng = np.random.default_rng(6)
    truth, held, runs = 1.02, 0, 120
    for _ in range(runs):
        before = autocorrelated(rng, 600, rho, 30.0)
        after = truth * autocorrelated(rng, 600, rho, 30.0)
        found = change(figure(before, statistic), figure(after, statistic), paired=False)
        held += found.low <= truth <= found.high
    assert held / runs >= 0.89


def test_without_blocks_the_interval_of_autocorrelated_values_would_be_far_too_narrow(monkeypatch):
    rng = np.random.default_rng(7)
    before, after = (figure(autocorrelated(rng, 2000, 0.9, 30.0)) for _ in range(2))
    with_blocks = change(before, after, paired=False)
    monkeypatch.setattr("bytemlperf_llm.compare.statistics.block_length", lambda _samples: 1)
    without = change(before, after, paired=False)
    assert with_blocks.high - with_blocks.low > 2 * (without.high - without.low)


def test_without_samples_the_figures_own_intervals_are_combined():
    one, other = figure(value=100.0, low=98.0, high=102.0), figure(value=110.0, low=107.8, high=112.2)
    found = change(one, other, paired=True)
    assert found.method == "their intervals"
    assert found.ratio == pytest.approx(1.1)
    assert found.low == pytest.approx(1.1 * math.exp(-math.hypot(math.log(1.02), math.log(110 / 107.8))), rel=1e-6)
    assert found.p_value < 0.001
    assert change(figure(value=1.0), figure(value=2.0), paired=False).low is None


@pytest.mark.parametrize(("before", "after", "why"), [(None, 1.0, "not there"), (1.0, None, "not there"), (0.0, 1.0, "no ratio")])
def test_what_has_no_ratio_says_why(before, after, why):
    found = change(figure(value=before, reason="not there"), figure(value=after, reason="not there"), paired=False)
    assert found.ratio is None
    assert why in found.method


def test_false_alarms_are_held_down_over_all_figures():
    assert significant([0.001, 0.2, None, 0.03]) == [True, False, False, True]
    assert significant([0.001, 0.2, None, 0.04]) == [True, False, False, False]
    assert significant([0.01] * 5) == [True] * 5
    assert significant([]) == []
    rng = np.random.default_rng(8)
    alarms = [any(significant(rng.uniform(size=50).tolist())) for _ in range(400)]
    assert np.mean(alarms) < 0.09, "without the rule 92 % of such comparisons would raise one"


def test_the_same_runs_give_the_same_answer():
    rng = np.random.default_rng(9)
    one, other = figure(rng.lognormal(size=100)), figure(rng.lognormal(size=100))
    assert change(one, other, paired=False) == change(one, other, paired=False)


# -- samples too large to be drawn value by value ------------------------------------------


def large(values, statistic, ids=()):
    value = float(statistic_of(values[None, :], statistic)[0])
    return Figure(key="k", metric="m", unit="ms", value=value, samples=values, sample_ids=ids, statistic=statistic)


@pytest.mark.parametrize("statistic", ["mean", "p50", "p99"])
def test_an_interval_of_stretches_is_as_wide_as_one_of_values(statistic, monkeypatch):
    generator = np.random.default_rng(7)
    before, after = (large(generator.exponential(scale, 8_000), statistic) for scale in (10.0, 10.5))
    by_values = change(before, after, paired=False)
    monkeypatch.setattr("bytemlperf_llm.compare.statistics.MAX_RESAMPLED", 1_000)
    by_stretches = change(before, after, paired=False)
    assert by_stretches.method == "bootstrap of 200 stretches"
    assert by_stretches.ratio == by_values.ratio
    assert by_stretches.high - by_stretches.low == pytest.approx(by_values.high - by_values.low, rel=0.25)


@pytest.mark.parametrize(("statistic", "rho"), [("mean", 0.0), ("mean", 0.95), ("p99", 0.0), ("p50", 0.9)])
def test_intervals_of_large_samples_cover_the_truth(statistic, rho):
    generator, covered, rounds = np.random.default_rng(3), 0, 150
    for _ in range(rounds):
        before, after = (large(np.exp(autoregressive(generator, 21_000, rho)), statistic) for _ in range(2))
        found = change(before, after, paired=False)
        covered += found.low <= 1.0 <= found.high
    assert covered / rounds > 0.88, "95 % nominal; 150 rounds have an error of 1.8 %"


def autoregressive(generator, count, rho):
    noise = generator.normal(size=count) * np.sqrt(1 - rho * rho)
    if not rho:
        return noise
    powers = rho ** np.arange(int(np.ceil(np.log(1e-4) / np.log(rho))))
    return np.convolve(noise, powers)[:count]


def test_pairs_of_a_large_sample_cancel_what_each_request_costs():
    generator = np.random.default_rng(5)
    cost = generator.lognormal(3, 1, 30_000)
    ids = np.arange(30_000)
    before, after = (
        large(cost * generator.normal(1, 0.01, 30_000), "mean", ids),
        large(cost * generator.normal(1.01, 0.01, 30_000), "mean", ids),
    )
    paired, apart = change(before, after, paired=True), change(before, after, paired=False)
    assert paired.method == "paired bootstrap of 200 stretches"
    assert paired.low < 1.01 < paired.high
    assert (paired.high - paired.low) * 5 < apart.high - apart.low
