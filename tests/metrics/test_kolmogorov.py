"""Kolmogorov and Smirnov's test: against published values, brute force, and simulation."""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from itertools import accumulate

import pytest

from bytemlperf.arrivals.delivered import ARRIVAL_ALPHA, ARRIVAL_DISTANCE, arrival_test
from bytemlperf.statistics.kolmogorov import EXACT_COUNT, distance, exponential, lower_gamma, p_value
from bytemlperf_llm.metrics.facts import RunFacts
from bytemlperf_llm.metrics.verdict import ARRIVAL_INVALID_ALPHA, ARRIVAL_INVALID_DISTANCE

SECOND = 1_000_000_000


@pytest.mark.parametrize(
    ("count", "critical"),
    # Miller, Table of percentage points of Kolmogorov statistics, JASA 51 (1956): two-sided 1 %
    [(10, 0.48893), (20, 0.35241), (40, 0.25205), (100, 0.16081)],
)
def test_published_critical_values(count, critical):
    assert p_value(count, critical) == pytest.approx(0.01, rel=2e-3)


def test_small_samples_by_hand():
    assert p_value(1, 0.6) == pytest.approx(0.8)  # P(max(U, 1 − U) ≥ 0.6)
    assert p_value(2, 0.8) == pytest.approx(2 * 0.2**2)  # D⁺ ≥ 0.8 of two: both below 0.2
    assert (p_value(5, 0.0), p_value(5, 1.0)) == (1.0, 0.0)


def test_the_expansion_for_large_samples_joins_the_exact_sum():
    for d in (1.2, 1.63, 2.2):
        here, beyond = p_value(EXACT_COUNT, d / math.sqrt(EXACT_COUNT)), p_value(EXACT_COUNT + 1, d / math.sqrt(EXACT_COUNT + 1))
        assert beyond == pytest.approx(here, rel=1e-3)


@pytest.mark.parametrize(
    ("shape", "x", "expected"),
    [
        (1.0, 2.0, 1 - math.exp(-2)),
        (2.0, 3.0, 1 - 4 * math.exp(-3)),  # Erlang: 1 − e^−x (1 + x)
        (0.5, 0.7, math.erf(math.sqrt(0.7))),
        (0.5, 9.0, math.erf(3.0)),
        (3.0, 0.01, 1 - math.exp(-0.01) * (1 + 0.01 + 0.00005)),
        (50.0, 50.0, 0.5188083154720433),  # 1 − Poisson(50) below 50
        (0.3, 0.0, 0.0),
    ],
)
def test_incomplete_gamma(shape, x, expected):
    assert lower_gamma(shape, x) == pytest.approx(expected, rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("seed", range(20))
def test_distance_equals_the_largest_difference_over_all_values(seed):
    draw = random.Random(seed)
    values = sorted(round(draw.choice((draw.expovariate(1), draw.random(), 1.0)) * 1000) for _ in range(draw.randrange(1, 400)))
    naive = 0.0
    for value in values:
        share = exponential(value / 1000)
        below, upto = values.index(value) / len(values), bisect_right(values, value) / len(values)
        naive = max(naive, share - below, upto - share)
    assert distance(values, 0.001, exponential) == pytest.approx(naive, rel=1e-5)


def test_few_of_many_values_are_evaluated():
    draw = random.Random(3)
    values = sorted(round(draw.expovariate(1) * SECOND) for _ in range(200_000))
    calls = []
    distance(values, 1e-9, lambda x: calls.append(x) or exponential(x))
    assert len(calls) < 40_000


def times(gaps):
    return list(accumulate(round(gap * SECOND) for gap in gaps))


def poisson(draw, count):
    return times(draw.expovariate(1) / 10 for _ in range(count))


def gamma_half(draw, count):
    return times(draw.gammavariate(0.5, 2) / 10 for _ in range(count))


def gamma_quarter(draw, count):
    return times(draw.gammavariate(0.25, 4) / 10 for _ in range(count))


def gamma_four(draw, count):
    return times(draw.gammavariate(4, 0.25) / 10 for _ in range(count))


def constant(draw, count):
    return times(0.1 for _ in range(count))


def bursts_of_ten(draw, count):
    return times(0.0 if index % 10 else draw.expovariate(0.1) / 10 for index in range(count))


FACTS = {
    "poisson": RunFacts(open_loop=True, process="poisson", requested_rate=10.0),
    "half": RunFacts(open_loop=True, process="gamma", burstiness=0.5, requested_rate=10.0),
    "four": RunFacts(open_loop=True, process="gamma", burstiness=4.0, requested_rate=10.0),
    "constant": RunFacts(open_loop=True, process="constant", requested_rate=10.0),
}
OWN = {"poisson": poisson, "half": gamma_half, "four": gamma_four, "constant": constant}


def gaps_tested(times_ns, facts):
    return arrival_test(times_ns, facts.process, facts.burstiness, facts.requested_rate)


def share_passed(asked, made, count, seeds, alpha, limit=0.0):
    passed = 0
    for seed in range(seeds):
        found = gaps_tested(made(random.Random(seed), count), FACTS[asked])
        passed += not (found.distance > limit and (found.p_value is None or found.p_value < alpha))
    return passed / seeds


@pytest.mark.parametrize("asked", OWN)
@pytest.mark.parametrize("count", [40, 300])
def test_the_right_process_passes(asked, count):
    """By the test alone 99 % of 1,000 seeds give or take three standard errors; with the distance too, at least 99 %."""
    if asked != "constant":
        assert share_passed(asked, OWN[asked], count, 1000, ARRIVAL_ALPHA) == pytest.approx(0.99, abs=0.0095)
    assert share_passed(asked, OWN[asked], count, 300, ARRIVAL_INVALID_ALPHA, ARRIVAL_INVALID_DISTANCE) == 1.0


def test_the_right_process_passes_the_stated_limits_in_99_percent_of_seeds():
    assert share_passed("poisson", poisson, 2000, 1000, ARRIVAL_ALPHA, ARRIVAL_DISTANCE) >= 0.99
    assert share_passed("half", gamma_half, 2000, 200, ARRIVAL_ALPHA, ARRIVAL_DISTANCE) >= 0.99
    assert share_passed("four", gamma_four, 2000, 200, ARRIVAL_ALPHA, ARRIVAL_DISTANCE) >= 0.99


WRONG = [
    ("poisson", constant),
    ("poisson", bursts_of_ten),
    ("poisson", gamma_four),
    ("poisson", gamma_quarter),
    ("constant", poisson),
    ("constant", bursts_of_ten),
    ("half", constant),
    ("half", bursts_of_ten),
    ("four", poisson),
]


@pytest.mark.parametrize(("asked", "made"), WRONG)
def test_a_wrong_process_fails(asked, made):
    assert share_passed(asked, made, 400, 50, ARRIVAL_INVALID_ALPHA, ARRIVAL_INVALID_DISTANCE) == 0.0


def test_half_the_rate_fails():
    slow = [2 * time for time in poisson(random.Random(1), 400)]
    assert gaps_tested(slow, FACTS["poisson"]).p_value < ARRIVAL_INVALID_ALPHA


def test_what_has_no_process_is_not_tested():
    some = poisson(random.Random(1), 400)
    assert gaps_tested(some[:31], FACTS["poisson"]) is not None
    assert gaps_tested(some[:30], FACTS["poisson"]) is None
    assert gaps_tested(some, RunFacts(open_loop=True, process="poisson")) is None, "a ramp has no single rate"
    assert gaps_tested(some, RunFacts(open_loop=True, process="trace", requested_rate=10.0)) is None


def test_a_constant_rate_may_be_off_by_a_tenth():
    gaps = [0.109 if index % 2 else 0.091 for index in range(100)]
    assert gaps_tested(times(gaps), FACTS["constant"]).distance == 0.0
    gaps = [0.115 if index % 2 else 0.085 for index in range(101)]
    assert gaps_tested(times(gaps), FACTS["constant"]).distance == 1.0
