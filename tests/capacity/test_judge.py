"""One probe's verdict: what dependent requests are worth, and what is too short, unsteady or plainly overloaded."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.capacity import ENGINES, SHARE, US, Stream
from bytemlperf.statistics.looks import looks, spent
from bytemlperf_llm.capacity.judge import Errors, Look, Outcome, first_look, look_at

ONE_LOOK = Errors(0.025, 0.025)


def look_of(missed: np.ndarray, latency: np.ndarray, due: np.ndarray, errors: Errors = ONE_LOOK, share: float = SHARE) -> Look:
    return look_at(missed.astype(np.int64), (latency * US).astype(np.int64), (due * US).astype(np.int64), share, errors)


def probe(name: str, rate: float, requests: int, seed: int, errors: Errors = ONE_LOOK) -> Look:
    engine = ENGINES[name]
    due, latency = Stream(engine, rate, np.random.default_rng(seed)).more(requests)
    return look_of(latency > engine.limit_s, latency, due, errors)


def independent(share_missed: float, requests: int, seed: int = 0) -> Look:
    chance = np.random.default_rng(seed)
    return look_of(chance.random(requests) < share_missed, chance.random(requests), np.arange(requests) / 10)


def test_independent_requests_are_worth_nearly_themselves() -> None:
    assert independent(0.01, 2_000).outcome is Outcome.HOLDS
    assert independent(0.20, 2_000).outcome is Outcome.FAILS
    assert independent(0.05, 2_000).outcome is Outcome.UNRESOLVED
    assert 0.4 < independent(0.05, 8_000).worth / 7_200 <= 1.0


def test_a_queues_requests_are_worth_far_less() -> None:
    """Near saturation some seventy of M/M/1's count as one (from the variance of 200 probes' shares)."""
    worths = [probe("M/M/1", 80.0, 16_000, seed).worth for seed in range(10)]
    assert 100 < np.median(worths) < 300


@pytest.mark.parametrize("requests", [1_000, 4_000, 16_000])
def test_at_the_limit_itself_an_error_of_one_in_forty_is_kept(requests: int) -> None:
    outcomes = [probe("M/M/1", 80.028, requests, seed).outcome for seed in range(120)]
    assert outcomes.count(Outcome.HOLDS) <= 8  # 3 of 120 expected; one too many by chance once in 300
    assert outcomes.count(Outcome.FAILS) <= 8


def test_nothing_holds_while_a_queue_still_grows() -> None:
    """2 % above capacity, with a level that is far away: every request is good until the queue has grown."""
    requests = 4_000
    due = np.arange(requests) / 102
    latency = 0.01 + 0.02 * due + 0.001 * np.random.default_rng(0).random(requests)
    look = look_of(np.zeros(requests), latency, due)
    assert not look.steady
    assert look.outcome is not Outcome.HOLDS


def test_plain_overload_is_cut_off_at_the_first_look() -> None:
    look = probe("M/D/1", 160.0, 250, 0)
    assert look.overloaded
    assert look.outcome is Outcome.FAILS


def test_one_bad_spell_of_a_queue_below_its_capacity_is_not_overload() -> None:
    assert not any(probe(name, 76.0, 3_000, seed).overloaded for name in ("M/M/1", "M/D/1") for seed in range(60))


def test_a_probe_of_which_none_missed_is_worth_what_its_latency_says() -> None:
    constant = look_of(np.zeros(600), np.full(600, 0.01), np.arange(600) / 10)
    assert constant.worth == pytest.approx(540)
    assert constant.outcome is Outcome.HOLDS
    assert probe("M/M/1", 60.0, 1_000, 0).worth < 200


def test_a_probes_error_is_spent_once_over_its_looks() -> None:
    sizes = looks(200, 10_000)
    assert sizes[0] == 200
    assert sizes[-1] == 10_000
    assert sum(spent(sizes, place) for place in range(len(sizes))) == pytest.approx(1.0)
    assert looks(500, 500) == [500]


def test_a_higher_share_needs_more_requests() -> None:
    assert first_look(0.95, Errors(0.005, 0.005)) < first_look(0.99, Errors(0.005, 0.005)) < first_look(0.999, Errors(0.005, 0.005))
