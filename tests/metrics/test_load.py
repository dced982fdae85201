"""Offered load: whose delay is it, and are the arrivals the process that was asked for?"""

from __future__ import annotations

import random
from itertools import accumulate

import pytest

from bytemlperf.arrivals.delivered import count_dispersion, dispersion_tolerance, expected_dispersion, gap_cv2, rate_of
from bytemlperf_llm.metrics.accumulator import Accumulator
from bytemlperf_llm.metrics.facts import RunFacts
from bytemlperf_llm.metrics.load import client_lateness, measure_load
from tests.metrics.records import MS, answered, failed

SECOND = 1_000_000_000


def lateness_of(acc, cap):
    delays, capped = client_lateness(acc, cap)
    return list(delays), capped


def test_client_lateness_without_a_cap_is_lateness():
    acc = Accumulator().add_all([answered(0, 0, 2, [10]), answered(1, 5, 5, [12]), failed(2, 7, 9)])
    assert lateness_of(acc, None) == ([2 * MS, 0, 0], 0)


def test_waiting_for_a_slot_is_not_the_clients_delay():
    acc = Accumulator().add_all(
        [
            answered(0, 0, 0, [100]),
            answered(1, 10, 10, [50]),
            answered(2, 20, 51, [120]),  # the cap is 2: its slot came free at 50
            answered(3, 30, 103, [130]),  # ... and this one's at 100
            answered(4, 400, 400, [500]),  # nobody in the way
        ]
    )
    assert lateness_of(acc, 2) == ([0, 0, 1 * MS, 3 * MS, 0], 2)


def test_a_request_that_failed_before_it_was_sent_held_a_slot_for_a_moment():
    acc = Accumulator().add_all([failed(0, None, 5), answered(1, None, 6, [9]), answered(2, None, 10, [12])])
    assert lateness_of(acc, 1) == ([1 * MS, 1 * MS], 0)


def test_closed_loop_lateness_starts_with_the_first_freed_slot():
    acc = Accumulator().add_all([answered(0, None, 0, [10]), answered(1, None, 1, [30]), answered(2, None, 12, [40])])
    assert lateness_of(acc, 2) == ([2 * MS], 0)


def test_rate_is_gaps_over_span():
    assert rate_of([0, SECOND, 2 * SECOND]) == 1.0
    assert rate_of([5]) is None
    assert rate_of([5, 5]) is None


@pytest.mark.parametrize(("burstiness", "process"), [(1.0, "poisson"), (0.25, "gamma"), (4.0, "gamma")])
def test_dispersion_of_random_processes(burstiness, process):
    draw = random.Random(11)
    gaps = [round(draw.gammavariate(burstiness, SECOND / burstiness)) for _ in range(20_000)]
    times = list(accumulate(gaps))
    expected = expected_dispersion(process, burstiness)
    assert gap_cv2(times) == pytest.approx(expected, rel=0.1)
    assert abs(count_dispersion(times) - expected) < dispersion_tolerance(expected, len(times))


def test_dispersion_of_a_constant_rate_is_none():
    times = [index * SECOND for index in range(1000)]
    assert gap_cv2(times) == 0.0
    assert count_dispersion(times) < dispersion_tolerance(0.0, 1000)


def test_arrivals_that_repeat_are_seen():
    """The same gap ten times over: right rate, wrong process."""
    draw = random.Random(5)
    gaps = [gap for _ in range(200) for gap in [round(draw.expovariate(1) * SECOND)] * 10]
    assert count_dispersion(list(accumulate(gaps))) > 1 + 2 * dispersion_tolerance(1.0, 2000)


def test_too_few_arrivals_have_no_dispersion():
    assert count_dispersion(list(range(99))) is None
    assert gap_cv2([1, 2]) is None


def test_load_of_a_run():
    acc = Accumulator().add_all(answered(index, 100 * index, 100 * index + 1, [100 * index + 50]) for index in range(101))
    load = measure_load(acc, RunFacts(open_loop=True, requested_rate=10.0, loop_utilisation=0.25), capped=0)
    assert (load.requested_rate, load.planned_rate, load.offered_rate) == (10.0, 10.0, 10.0)
    assert (load.gap_cv2, load.expected_dispersion, load.loop_utilisation) == (0.0, 0.0, 0.25)
    closed = measure_load(acc, RunFacts(open_loop=False, process="closed"), capped=0)
    assert (closed.gap_cv2, closed.count_dispersion, closed.expected_dispersion) == (None, None, None)
