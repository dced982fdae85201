"""Dealing a schedule out: the parts of n workers are the whole, for every n and every kind of load."""

from __future__ import annotations

import hashlib
from itertools import islice

import msgspec
import pytest

from bytemlperf.errors import UserError
from bytemlperf_llm.loadgen.replay import work_of, worker_config
from bytemlperf_llm.loadgen.sizing import bounded, check_splittable, local_size
from bytemlperf_llm.plan import scenario as scenarios
from bytemlperf_llm.plan.flags import Flags
from bytemlperf_llm.plan.plan import parse_workers, resolve
from bytemlperf_llm.workload import schedule_line
from bytemlperf_llm.workload.schedule import Remaining, Schedule, Share
from engines.openai.engine import OpenAIEngine
from engines.reference.engine import ReferenceEngine

LOADS = {
    "poisson": {"arrival": {"process": "poisson", "rate": 50.0}, "num_requests": 97, "duration_s": None},
    "gamma, by time": {"arrival": {"process": "gamma", "rate": 50.0, "burstiness": 0.5}, "num_requests": None, "duration_s": 2.0},
    "at once": {"arrival": {"process": "at_once"}, "num_requests": 20, "duration_s": None},
    "closed": {"arrival": {"process": "closed", "max_concurrency": 5}, "num_requests": 20, "duration_s": None},
}


def load_named(name):
    return scenarios.load("smoke").override(LOADS[name])


def whole(scenario, seed):
    return list(Schedule(scenario, seed).planned())


@pytest.mark.parametrize("name", LOADS)
@pytest.mark.parametrize("workers", [1, 2, 3, 7])
def test_the_parts_are_the_whole_each_once_at_the_same_time(name, workers):
    scenario = load_named(name)
    expected = whole(scenario, 3)
    parts = [list(Schedule(scenario, 3).planned(Share(worker, workers))) for worker in range(workers)]
    for worker, part in enumerate(parts):
        assert all(planned.request.index % workers == worker for planned in part)
    together = sorted((planned for part in parts for planned in part), key=lambda planned: planned.request.index)
    assert together == expected


@pytest.mark.parametrize("name", LOADS)
@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("done", [(), (0,), range(7), (1, 2, 3, 9, 11, 12), range(200)])
def test_what_is_left_is_all_but_what_is_done_and_later(name, workers, done):
    scenario = load_named(name)
    left = Remaining.without(set(done), 5)
    sent = msgspec.json.decode(msgspec.json.encode(left), type=Remaining)
    parts = [list(Schedule(scenario, 3).planned(Share(worker, workers), sent)) for worker in range(workers)]
    together = sorted((planned for part in parts for planned in part), key=lambda planned: planned.request.index)
    expected = [planned for planned in whole(scenario, 3) if planned.request.index not in done]
    assert [planned.request for planned in together] == [planned.request for planned in expected]
    shifts = [(a.offset_ns, b.offset_ns) for a, b in zip(together, expected, strict=True)]
    assert all((a, b) == (None, None) or a - b == 5 for a, b in shifts)


def test_what_is_done_travels_as_ranges():
    assert Remaining.without({5, 0, 1, 2, 7, 8}, 0).done == ((0, 3), (5, 6), (7, 9))


@pytest.mark.parametrize("name", LOADS)
def test_the_hash_does_not_depend_on_the_number_of_workers(name):
    scenario = load_named(name)
    for workers in (1, 2, 3):
        hashed = hashlib.sha256()
        parts = [Schedule(scenario, 0).planned(Share(worker, workers)) for worker in range(workers)]
        for planned in sorted((each for part in parts for each in part), key=lambda planned: planned.request.index):
            hashed.update(schedule_line(planned.request, planned.offset_ns))
        assert hashed.hexdigest() == Schedule(scenario, 0).describe().sha256


def test_a_trace_is_dealt_to_its_end():
    scenario = scenarios.load("trace-azure").override({"num_requests": 50, "duration_s": None})
    parts = [list(Schedule(scenario, 0).planned(Share(worker, 3))) for worker in range(3)]
    together = sorted((planned for part in parts for planned in part), key=lambda planned: planned.request.index)
    assert together == whole(scenario, 0)
    assert [len(part) for part in parts] == [17, 17, 16]


def test_a_closed_loop_that_the_clock_ends_is_dealt_without_end():
    scenario = scenarios.load("smoke").override(
        {"arrival": {"process": "closed", "max_concurrency": 4}, "num_requests": None, "duration_s": 1.0}
    )
    indices = [planned.request.index for planned in islice(Schedule(scenario, 0).planned(Share(1, 3)), 100)]
    assert indices == list(range(1, 300, 3))


@pytest.mark.parametrize("total", range(1, 30))
@pytest.mark.parametrize("workers", [1, 2, 3, 5])
def test_slots_are_shared_out_to_the_last(total, workers):
    parts = [Share(worker, workers).of(total) for worker in range(workers)]
    assert sum(parts) == total
    assert max(parts) - min(parts) <= 1


def test_concurrency_is_split_a_cap_too():
    closed = load_named("closed")
    assert [work_of(Schedule(closed, 0), Share(worker, 2)).concurrency for worker in (0, 1)] == [3, 2]
    assert worker_config(closed, Share(0, 2), keep_output=False).max_concurrency is None
    capped = load_named("poisson").override({"arrival.max_concurrency": 5})
    assert work_of(Schedule(capped, 0), Share(0, 2)).concurrency is None
    assert [worker_config(capped, Share(worker, 2), keep_output=False).max_concurrency for worker in (0, 1)] == [3, 2]


def test_there_are_no_more_workers_than_slots_or_requests():
    assert bounded(4, load_named("poisson"), 97).workers == 4
    assert bounded(8, load_named("closed"), 20) == (5, "5 workers, not 8: there are only 5 requests in flight to share")
    assert bounded(8, load_named("poisson"), 3) == (3, "3 workers, not 8: there are only 3 requests to share")
    assert local_size(1, load_named("poisson"), 97).workers == 1
    assert local_size(None, load_named("poisson"), 97).workers >= 1


@pytest.mark.parametrize(
    ("flags", "workers"),
    [({}, 1), ({"workers": "3"}, 3), ({"workers": "auto"}, None), ({"ray": "auto"}, None), ({"ray": "auto", "workers": "2"}, 2)],
)
def test_one_worker_unless_more_are_given_or_a_cluster_is(flags, workers):
    assert resolve(Flags(engine="reference", **flags)).load.workers == workers


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", "", "٣"])
def test_a_bad_number_of_workers_is_bad_input(text):
    with pytest.raises(UserError) as caught:
        parse_workers(text)
    assert "--workers" in caught.value.cause


def test_an_engine_that_loads_the_model_is_not_split():
    class InProcess:
        weights = "local"

    check_splittable(InProcess, "mine", 1, None)
    for workers, ray in ((2, None), (None, None), (None, "auto"), (1, "127.0.0.1:6379")):
        with pytest.raises(UserError, match="engine 'mine' runs inside"):
            check_splittable(InProcess, "mine", workers, ray)
    for engine in (OpenAIEngine, ReferenceEngine):
        check_splittable(engine, "any", 8, None)
