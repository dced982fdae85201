"""What benchmarks/intervals.py measures in full, on a sample with fixed seeds: intervals hold the truth, runs of one server are not
called different, and one of 5 % is seen."""

from __future__ import annotations

import pytest

pytest.importorskip("numpy")

from benchmarks import intervals
from bytemlperf.statistics import statistics

SERVER = intervals.SERVERS["closed loop, bursts"].but(requests=100, tokens=16.0)
EVEN = intervals.EVEN.but(requests=100, tokens=24.0)


@pytest.fixture(scope="module")
def truth():
    return intervals.truth_of(SERVER, 1_000_000, requests=20_000)


def pooled(truth, runs, metrics=intervals.JUDGED):
    held = []
    for seed in range(runs):
        summary = intervals.summary_of(intervals.Accumulator().add_all(intervals.run_of(SERVER, seed)), intervals.facts_of(SERVER))
        found = intervals.covered(summary.metrics, truth)
        held += [inside for (name, text), inside in found.items() if text != "mean" and name in metrics]
    return sum(held) / len(held)


def test_intervals_of_40_runs_of_one_server_hold_the_truth(truth):
    assert pooled(truth, 40) >= 0.945
    assert pooled(truth, 40, ("itl", "inter_chunk_latency")) >= 0.945


def test_they_would_not_if_requests_were_taken_as_independent(truth, monkeypatch):
    monkeypatch.setattr(statistics, "batched_estimates", lambda _amounts, _sizes: [])
    assert pooled(truth, 15, ("itl", "tpot", "ttft")) < 0.9


@pytest.mark.parametrize("paired", [True, False])
def test_runs_of_one_server_are_not_called_different(paired):
    pairs = [intervals.compare(SERVER, SERVER, seed, paired=paired) for seed in range(20)]
    for family, found in intervals.families(pairs).items():
        assert found.alarms <= 0.05, family
        assert found.judged <= 0.05, family


def test_a_server_that_is_5_percent_slower_is_seen_20_of_20_times():
    for seed in range(20):
        found = intervals.compare(EVEN, EVEN.but(slower=1.05), seed, paired=True)
        assert {"tpot", "e2e"} <= {each.family for each in found if each.judged}
