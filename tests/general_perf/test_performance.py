"""The loops' accounting: every planned call is served or dropped, whatever the model does."""

from __future__ import annotations

import threading
import time

import pytest

from general_perf.measure.performance import WARMUPS, closed_loop, open_loop, warm_up


class Session:
    """Answers after `seconds`; remembers what it was asked."""

    def __init__(self, seconds: float = 0.0, fails_at: int | None = None) -> None:
        self.seconds, self.fails_at = seconds, fails_at
        self.asked: list[object] = []
        self.threads: set[int] = set()

    def predict(self, inputs):
        self.asked.append(inputs)
        self.threads.add(threading.get_ident())
        if self.fails_at == len(self.asked):
            raise RuntimeError("the device fell off")
        time.sleep(self.seconds)
        return {}

    def device_memory_bytes(self):
        return None


def nothing(_latencies: list[int]) -> None:
    return None


def test_iterations_are_counted_exactly_for_each_instance():
    sessions = [Session(), Session(), Session()]
    timed = closed_loop(sessions, ["a", "b"], seconds=99.0, iterations=7, progress=nothing)
    assert [len(each.asked) for each in sessions] == [7, 7, 7]
    assert len(timed.latency_ns) == 21
    assert len({thread for each in sessions for thread in each.threads}) == 3


def test_different_batches_take_turns():
    session = Session()
    closed_loop([session], ["a", "b", "c"], seconds=99.0, iterations=6, progress=nothing)
    assert session.asked == ["a", "b", "c", "a", "b", "c"]


def test_a_duration_of_nothing_still_measures_once():
    assert len(closed_loop([Session(0.001)], ["a"], seconds=1e-9, iterations=None, progress=nothing).latency_ns) == 1


def test_the_window_holds_all_calls():
    timed = closed_loop([Session(0.002)], ["a"], seconds=99.0, iterations=5, progress=nothing)
    assert timed.window_ns >= sum(timed.latency_ns)


def test_an_error_of_one_instance_ends_the_point_with_that_error():
    with pytest.raises(RuntimeError, match="fell off"):
        closed_loop([Session(), Session(fails_at=3)], ["a"], seconds=99.0, iterations=5, progress=nothing)


def test_open_loop_latency_runs_from_when_a_call_was_due():
    """Four calls due at once, one instance: the last waits for the other three, and its latency says so."""
    timed = open_loop([Session(0.01)], ["a"], [0, 0, 0, 0], nothing)
    assert timed.planned == 4
    assert timed.dropped == 0
    assert len(timed.latency_ns) == len(timed.service_ns) == 4
    assert timed.latency_ns[3] >= sum(timed.service_ns)
    assert timed.latency_ns == sorted(timed.latency_ns)


def test_open_loop_drops_what_is_left_when_it_falls_far_behind(monkeypatch):
    import general_perf.measure.performance as performance

    monkeypatch.setattr(performance, "OVERTIME", -1e9)  # the limit is over before it begins
    timed = open_loop([Session()], ["a"], [0, 1, 2], nothing)
    assert (timed.planned, timed.dropped, timed.latency_ns) == (3, 3, [])


def test_every_latency_is_reported_once():
    seen: list[int] = []
    timed = closed_loop([Session(), Session()], ["a"], seconds=99.0, iterations=50, progress=seen.extend)
    assert sorted(seen) == sorted(timed.latency_ns)


def test_warm_up_calls_every_session():
    sessions = [Session(), Session()]
    assert len(warm_up(sessions, "a")) == WARMUPS
    assert [len(each.asked) for each in sessions] == [WARMUPS, WARMUPS]


def test_open_loop_tells_the_clients_delay_from_the_models_queue():
    """Four calls due at once and one instance: the last three waited for the model, which isn't the client's delay."""
    timed = open_loop([Session(0.02)], ["a"], [0, 0, 0, 0], nothing)
    assert timed.due_ns == [0, 0, 0, 0]
    assert len(timed.late_ns) == 4
    assert all(each >= 0 for each in timed.late_ns)
    assert sum(timed.late_ns) < timed.latency_ns[3]
    assert timed.latency_ns[3] >= 3 * 20_000_000


def test_columns_of_an_open_loop_belong_together_with_several_instances():
    offsets = [place * 1_000_000 for place in range(40)]
    timed = open_loop([Session(0.001), Session(0.003)], ["a"], offsets, nothing)
    assert sorted(timed.due_ns) == offsets
    pairs = zip(timed.latency_ns, timed.service_ns, timed.late_ns, strict=True)
    assert all(latency >= service + late for latency, service, late in pairs)
