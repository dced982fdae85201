"""Changes and their intervals: exact where they can be, and covering what they claim in simulations."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bytemlperf.compare import statistics
from bytemlperf.compare.statistics import change, significant, statistic_of
from bytemlperf.runs.kinds import Figure
from bytemlperf.statistics.statistics import nearest_rank, parse_percentile


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
    assert change(one, other, paired=True).method == "both samples"


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


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("statistic", ["mean", "p90"])
def test_what_hangs_together_makes_the_interval_wide(statistic, paired):
    """Neighbours that are alike tell less than as many independent values."""
    rng, ids = np.random.default_rng(7), list(range(2000))
    widths = []
    for rho in (0.0, 0.9):
        before, after = (figure(autocorrelated(rng, 2000, rho, 30.0), statistic, ids) for _ in range(2))
        found = change(before, after, paired=paired)
        widths.append(found.high / found.low - 1)
    assert widths[1] > 2 * widths[0]


def test_interval_and_p_value_agree():
    rng = np.random.default_rng(11)
    for paired in (False, True):
        for statistic in ("mean", "p50", "p90"):
            one, other = (figure(rng.lognormal(3, 0.4, 150), statistic, list(range(150))) for _ in range(2))
            found = change(one, other, paired=paired)
            assert (found.p_value < 0.05) == (not found.low <= 1 <= found.high)


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


@pytest.mark.parametrize("statistic", ["p50", "p99"])
def test_pairs_of_large_samples_have_the_interval_that_resampling_gives(statistic, monkeypatch):
    generator, ids = np.random.default_rng(7), np.arange(15_000)
    cost = generator.exponential(10.0, 15_000)
    before, after = (large(cost * generator.normal(scale, 0.2, 15_000).clip(0.1), statistic, ids) for scale in (1.0, 1.05))
    resampled = change(before, after, paired=True)
    monkeypatch.setattr(statistics, "MAX_RESAMPLED", 1_000)
    by_formula = change(before, after, paired=True)
    assert by_formula.ratio == resampled.ratio
    assert by_formula.high - by_formula.low == pytest.approx(resampled.high - resampled.low, rel=0.35)


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
    generator = np.random.default_rng(6)
    cost = generator.lognormal(3, 1, 30_000)
    ids = np.arange(30_000)
    before, after = (
        large(cost * generator.normal(1, 0.01, 30_000), "mean", ids),
        large(cost * generator.normal(1.01, 0.01, 30_000), "mean", ids),
    )
    paired, apart = change(before, after, paired=True), change(before, after, paired=False)
    assert paired.method == "paired, n = 30000"
    assert paired.low < 1.01 < paired.high
    assert (paired.high - paired.low) * 5 < apart.high - apart.low


def test_one_stall_that_many_requests_share_is_one_event():
    """Of two runs of one server one had a stall that 30 requests in a row met: pairs, of which each is slower, would be sure."""
    rng, ids = np.random.default_rng(12), list(range(300))
    before = rng.normal(100, 5, 300)
    after = rng.normal(100, 5, 300)
    after[100:130] = 180 + rng.normal(0, 1, 30)
    found = change(figure(before, "p95", ids), figure(after, "p95", ids), paired=True)
    assert found.ratio > 1.5
    assert found.method == "both samples"
    assert found.low < 1 < found.high
