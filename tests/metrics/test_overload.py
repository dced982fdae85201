"""Overload is told from a queue that merely wanders: simulated queues of known load, through records, accumulator and summary."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable

import pytest

from bytemlperf_llm.metrics.accumulator import Accumulator
from bytemlperf_llm.metrics.facts import RunFacts, SessionFacts
from bytemlperf_llm.metrics.overload import latency_trend
from bytemlperf_llm.metrics.summary import summarize
from tests.metrics.records import MS, answered, failed
from tests.sessions.graphs import ANSWER, chain, replay

MEAN_S = 0.1
SERVICES: dict[str, Callable[[random.Random], float]] = {
    "exponential": lambda draw: draw.expovariate(1 / MEAN_S),
    "constant": lambda _draw: MEAN_S,
    "lognormal": lambda draw: MEAN_S * draw.lognormvariate(-0.32, 0.8),
}


def columns_of(due_ns, end_ns):
    """An accumulator with nothing but times in it: two hundred runs a case stay quick."""
    acc, count = Accumulator(), len(due_ns)
    known = {"index": range(count), "due": due_ns, "planned": due_ns, "sent": due_ns, "end": end_ns}
    for name, stored in acc._stored.items():
        stored.extend(known.get(name, [0] * count))
    return acc


def simulated(load: float, slots: int, service: str, requests: int, seed: int, process: str = "poisson"):
    """The trend of one run at `load` times the capacity."""
    draw = random.Random(f"{load} {slots} {service} {requests} {seed}")
    rate, now = load * slots / MEAN_S, 0.0
    free = [0.0] * slots
    due, ends = [], []
    for _ in range(requests):
        now += draw.expovariate(rate) if process == "poisson" else 1 / rate
        end = max(now, heapq.heappop(free)) + SERVICES[service](draw)
        heapq.heappush(free, end)
        due.append(round(now * 1e9))
        ends.append(round(end * 1e9))
    return latency_trend(columns_of(due, ends), RunFacts(open_loop=True, process=process, requested_rate=rate), None)


def found(load: float, slots: int, service: str, requests: int, **how) -> int:
    return sum(simulated(load, slots, service, requests, seed, **how).overloaded for seed in range(100))


STABLE = [
    (0.7, 1, "exponential", 60),
    (0.8, 1, "exponential", 300),
    (0.9, 1, "exponential", 120),
    (0.9, 1, "exponential", 300),
    (0.9, 1, "exponential", 1000),
    (0.9, 8, "lognormal", 200),
    (0.9, 8, "lognormal", 600),
    (0.9, 64, "lognormal", 300),
    (0.9, 64, "constant", 600),
]


@pytest.mark.parametrize(("load", "slots", "service", "requests"), STABLE)
def test_a_queue_below_capacity_is_called_overloaded_in_at_most_two_of_a_hundred_runs(load, slots, service, requests):
    assert found(load, slots, service, requests) <= 2


ABOVE = [
    (1.2, 1, "exponential", 1000),
    (1.2, 8, "lognormal", 1000),
    (1.2, 64, "lognormal", 1000),
    (1.2, 1, "constant", 600),
    (1.2, 8, "constant", 600),
    (1.5, 1, "exponential", 200),
    (1.5, 8, "constant", 120),
    (3.0, 8, "lognormal", 60),
]


@pytest.mark.parametrize(("load", "slots", "service", "requests"), ABOVE)
def test_a_queue_above_capacity_is_called_overloaded_in_ninety_five_of_a_hundred_runs(load, slots, service, requests):
    assert found(load, slots, service, requests) >= 95


def test_constant_arrivals_just_below_and_above_capacity():
    assert found(0.95, 8, "constant", 300, process="constant") == 0
    assert found(1.15, 8, "constant", 300, process="constant") == 100


OPEN = RunFacts(open_loop=True, process="constant", requested_rate=100.0)


def falling_behind(count=200, gap_ms=10, each_ms=30):
    """One server that takes three times as long as requests are apart."""
    return [answered(index, index * gap_ms, index * gap_ms, [(index + 1) * each_ms]) for index in range(count)]


def test_a_run_above_capacity_is_overloaded_and_says_what_the_system_did():
    summary = summarize(falling_behind(), OPEN)
    assert summary.verdict == "overloaded"
    assert "target rate 100 requests/s, completed 33.33 requests/s" in summary.reasons[0]
    assert "rate auto" in summary.reasons[0]
    trend = summary.load.latency_trend
    assert (trend.growth, trend.completion_rate, trend.excess) == (pytest.approx(2.0), pytest.approx(100 / 3), pytest.approx(2.0))


def test_an_answer_that_never_came_counts_as_one_that_took_until_the_end():
    cut = [
        record if record.end_ns < 3000 * MS else failed(record.index, record.planned_ns / MS, 3000, outcome="in_flight", error_class=None)
        for record in falling_behind()
    ]
    assert summarize(cut, OPEN).verdict == "overloaded"


def test_requests_left_waiting_under_a_cap_are_the_systems_fault():
    """Past the drain limit they never left the client's queue; that the run was cut short isn't said of them."""
    left = [
        record
        if record.end_ns < 3000 * MS
        else failed(record.index, record.planned_ns / MS, 3000, outcome="dropped", error_class=None, sent_ns=None)
        for record in [answered(index, index * 10, max(index * 10, (index - 3) * 30), [(index + 1) * 30]) for index in range(200)]
    ]
    facts = RunFacts(open_loop=True, process="constant", requested_rate=100.0, max_concurrency=4)
    summary = summarize(left, facts)
    assert (summary.verdict, len(summary.reasons)) == ("overloaded", 1)


def sessions_at(load, seed, count=150):
    """Chains of four turns of 40 ms with 20 ms between them, at `load` times what four slots carry."""
    draw, now, planned, rate = random.Random(f"{load} {seed}"), 0.0, [], load * 4 / (4 * 0.04)
    for number in range(count):
        now += draw.expovariate(rate)
        planned.append((chain(str(number), 4, 20 * MS), round(now * 1e9)))
    records, _ = replay(planned, [ANSWER], slots=4)
    return records, RunFacts(
        open_loop=True, process="poisson", sessions=SessionFacts(answers="recorded", requested_rate=rate), max_concurrency=4
    )


@pytest.mark.parametrize(("load", "least", "most"), [(0.7, 0, 0), (0.9, 0, 1), (1.4, 9, 10)])
def test_sessions_above_capacity_are_overloaded(load, least, most):
    trends = [summarize(*sessions_at(load, seed)).load.latency_trend for seed in range(10)]
    assert least <= sum(trend.overloaded for trend in trends) <= most


def test_overloaded_sessions_are_named_by_their_rate():
    records, facts = sessions_at(1.5, 0)
    assert any("target rate 37.5 sessions/s, completed" in reason for reason in summarize(records, facts).reasons)
    short = summarize([record for record in records if record.index < 100], facts)
    assert short.load.latency_trend is None


SILENT = {
    "closed loop": RunFacts(open_loop=False, process="closed"),
    "all at once": RunFacts(open_loop=True, process="at_once"),
    "a ramp": RunFacts(open_loop=True, process="poisson"),
}


@pytest.mark.parametrize("name", SILENT)
def test_loads_that_have_no_single_rate_are_not_judged(name):
    summary = summarize(falling_behind(), SILENT[name])
    assert summary.load.latency_trend is None
    assert "overloaded" not in (summary.verdict, *summary.reasons)


def test_a_trace_is_judged_by_its_latency_alone():
    summary = summarize(falling_behind(), RunFacts(open_loop=True, process="trace"))
    assert summary.verdict == "overloaded"
    assert "trace rate, completed" in summary.reasons[0]


def test_a_run_shorter_than_its_answers_is_not_overloaded_though_the_number_in_flight_only_grows():
    long = [answered(index, index * 10, index * 10, [index * 10 + 10_000]) for index in range(100)]
    assert summarize(long, OPEN).verdict == "valid"


def test_a_freeze_near_the_end_is_one_step_and_no_growth():
    frozen = [answered(index, index * 10, index * 10, [max(index * 10 + 30, 2_600 if index >= 200 else 0)]) for index in range(250)]
    assert summarize(frozen, OPEN).verdict == "valid"


def test_thirty_requests_are_needed():
    assert summarize(falling_behind(29), OPEN).load.latency_trend is None
    assert summarize(falling_behind(30), OPEN).verdict == "overloaded"
