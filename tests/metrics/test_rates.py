"""Throughput and its steady window on runs whose truth is known."""

from __future__ import annotations

import random
from itertools import accumulate

import pytest

from bytemlperf.statistics.columns import column
from bytemlperf_llm.metrics.accumulator import Accumulator
from bytemlperf_llm.metrics.facts import SloMs
from bytemlperf_llm.metrics.rates import (
    Window,
    _stamps_inside,
    goodput,
    in_flight_steps,
    steady_state,
    throughput,
    whole_window,
)
from tests.metrics.records import MS, answered, failed, poisson_run


def measured(records):
    acc = Accumulator().add_all(records)
    return acc, steady_state(acc, in_flight_steps(acc), whole_window(acc))


def constant_run(count=200, every_ms=100, tokens=10, first_ms=1000, gap_ms=100):
    """Each answer takes first + (tokens − 1) gaps; load and service never change."""
    return [
        answered(index, index * every_ms, index * every_ms, [index * every_ms + first_ms + gap_ms * token for token in range(tokens)])
        for index in range(count)
    ]


def test_in_flight_is_a_step_function():
    acc = Accumulator().add_all([answered(0, 0, 0, [10]), answered(1, 5, 5, [20]), answered(2, 10, 10, [12]), failed(3, None, 11)])
    steps = in_flight_steps(acc)
    assert (steps.times_ns.tolist(), steps.levels.tolist()) == ([0, 5 * MS, 10 * MS, 12 * MS, 20 * MS], [1, 2, 2, 1, 0])
    assert (steps.busy(2), steps.busy(3)) == ((5 * MS, 12 * MS), None)
    assert steps.median() == 1
    assert in_flight_steps(Accumulator()).median() == 0


def test_steady_rates_are_the_true_rates():
    acc, steady = measured(constant_run())
    assert steady.cut
    assert steady.ramp_up_ns == 1900 * MS  # the first answer is complete after 1.9 s
    assert steady.ramp_down_ns == 1900 * MS  # the last request is sent 1.9 s before the end
    rates = throughput(acc, steady)
    assert rates["request_throughput"].value == pytest.approx(10.0)
    assert rates["output_token_throughput"].value == pytest.approx(100.0)
    assert rates["input_token_throughput"].value == pytest.approx(100.0)
    assert rates["request_throughput"].overall == pytest.approx(200 / 21.8)
    assert rates["output_token_throughput"].overall == pytest.approx(2000 / 21.8)
    assert "1.90 s of ramp-up" in steady.note


@pytest.mark.parametrize("seed", range(5))
def test_steady_rates_of_random_arrivals(seed):
    records = poisson_run(600, rate=10, seed=seed)
    acc, steady = measured(records)
    assert steady.cut
    rates = throughput(acc, steady)
    arrived = sum(steady.window.holds(record.planned_ns) for record in records) * 1e9 / steady.window.length_ns
    assert rates["request_throughput"].value == pytest.approx(arrived, rel=0.02)
    assert rates["output_token_throughput"].value == pytest.approx(8 * arrived, rel=0.02)


def test_short_runs_are_not_cut_and_say_so():
    acc, steady = measured(constant_run(count=49))
    assert (steady.cut, steady.ramp_up_ns, steady.ramp_down_ns) == (False, 0, 0)
    assert "49 responses are insufficient" in steady.note
    rates = throughput(acc, steady)
    assert rates["request_throughput"].value == rates["request_throughput"].overall == pytest.approx(49 / 6.7)


def test_a_run_that_is_all_ramp_is_not_cut():
    _, steady = measured(constant_run(count=60, every_ms=1))
    assert not steady.cut
    assert "more than half" in steady.note
    _, all_at_once = measured([answered(index, 0, 0, [100 + index]) for index in range(80)])
    assert not all_at_once.cut


def test_a_run_that_takes_no_time_is_not_cut():
    _, steady = measured([answered(index, 5, 5, [5]) for index in range(60)])
    assert "in flight" in steady.note


def test_reported_tokens_count_where_their_chunks_arrived():
    """Twice as many tokens reported as chunks seen: each chunk stands for two."""
    records = constant_run()
    for record in records:
        record.output_tokens = 20
    acc, steady = measured(records)
    assert throughput(acc, steady)["output_token_throughput"].value == pytest.approx(200.0)


def test_unknown_prompt_lengths_give_no_input_rate():
    acc, steady = measured([*constant_run(60), answered(60, 0, 0, [5], prompt_tokens=None)])
    assert "input_token_throughput" not in throughput(acc, steady)


def test_whole_window_runs_from_planned_to_the_last_end():
    acc = Accumulator().add_all([answered(0, 100, 150, [200]), failed(1, 120, 900), answered(2, 130, 140, [300])])
    assert whole_window(acc) == Window(start_ns=100 * MS, end_ns=900 * MS)
    unsent = failed(3, 10, 20, outcome="cancelled", sent_ns=None, error_class=None)
    assert whole_window(Accumulator().add_all([unsent])) is None


def test_goodput_counts_only_requests_that_meet_every_target():
    records = [
        answered(0, 0, 0, [50, 60]),  # good
        answered(1, 0, 0, [101, 102]),  # TTFT misses by 1 ms
        answered(2, 0, 40, [100, 111]),  # TPOT misses by 1 ms; TTFT just meets
        answered(3, 0, 0, [50]),  # one token: no TPOT to miss
        failed(4, 0, 1000),
    ]
    acc, steady = measured(records)
    found = goodput(acc, steady, SloMs(ttft=100, tpot=10))
    assert (found.good_requests, found.share) == (2, 0.4)
    assert found.requests_per_s.overall == pytest.approx(2.0)
    assert goodput(acc, steady, SloMs(e2e=50)).good_requests == 1
    assert goodput(acc, steady, SloMs()) is None


def test_a_request_without_tokens_meets_nothing():
    acc, steady = measured([answered(0, 0, 0, [10], tokens_per_chunk=[0])])
    assert goodput(acc, steady, SloMs(e2e=1e9)).good_requests == 0


def test_a_run_of_equal_intervals_is_counted_as_if_walked():
    draw = random.Random(6)
    for _ in range(500):
        runs = [(draw.choice((0, 1, 7, 30)), draw.choice((1, 2, 9))) for _ in range(draw.randrange(6))]
        start, length = draw.randrange(-5, 100), draw.randrange(100)
        window = Window(start_ns=start, end_ns=start + length)
        stamps = list(accumulate((gap for gap, count in runs for _ in range(count)), initial=10))
        values, counts = (column([run[place] for run in runs]) for place in (0, 1))
        assert _stamps_inside(10, (values, counts), window) == sum(window.holds(stamp) for stamp in stamps)
    assert _stamps_inside(0, (column([2]), column([10**12])), Window(start_ns=10, end_ns=10**9)) == 5 * 10**8 - 5
