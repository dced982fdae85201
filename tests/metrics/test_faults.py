"""Faults planted in a batching server on a virtual clock: slow-downs and restarts are found, with their times and what they cost; load,
queues and overload are none."""

from __future__ import annotations

import random
from dataclasses import dataclass

import msgspec
import pytest

from bytemlperf_llm.metrics.accumulator import Accumulator
from bytemlperf_llm.metrics.facts import ClassFacts, RunFacts, SloMs
from bytemlperf_llm.metrics.faults import Fault, find_faults
from bytemlperf_llm.metrics.outages import find_outages
from bytemlperf_llm.pages.load import fault_sections
from bytemlperf_llm.record.record import RequestRecord
from tests.metrics.records import answered, failed

S = 1_000_000_000
FACTS = RunFacts(open_loop=True)


@dataclass(kw_only=True)
class Server:
    """All open streams get a token a step, of 10 ms and 0.4 ms for each; more than `slots` wait. `slow` are (from s, to s, times), `down`
    (from s, to s): what is open then, or comes, fails."""

    slots: int = 32
    slow: tuple[tuple[float, float, float], ...] = ()
    down: tuple[tuple[float, float], ...] = ()

    def step_s(self, now: float, streams: int) -> float:
        times = next((times for begin, end, times in self.slow if begin <= now < end), 1.0)
        return times * (0.010 + 0.0004 * streams)


def run_of(
    server: Server, rate: float, seconds: float = 40.0, tokens: int = 50, seed: int = 1, process: str = "poisson"
) -> list[RequestRecord]:
    draw, due, now = random.Random(seed), [], 0.0
    while now < seconds:
        now += draw.expovariate(rate) if process == "poisson" else draw.gammavariate(0.3, 1 / (0.3 * rate))
        due.append(now)
    records: list[RequestRecord] = []
    waiting, open_, clock = list(enumerate(due)), {}, 0.0
    while waiting or open_:
        outage = next((end for begin, end in server.down if begin <= clock < end), None)
        if outage is not None:
            records += [failed(index, due[index] * 1e3, clock * 1e3) for index in open_]
            records += [failed(index, at * 1e3, max(at, clock) * 1e3 + 5) for index, at in waiting if at < outage]
            waiting, open_, clock = [pair for pair in waiting if pair[1] >= outage], {}, outage
        while waiting and waiting[0][1] <= clock and len(open_) < server.slots:
            open_[waiting.pop(0)[0]] = []
        if not open_:
            clock = waiting[0][1]
            continue
        clock += server.step_s(clock, len(open_))
        for index, stamps in list(open_.items()):
            stamps.append(clock * 1e3)
            if len(stamps) == tokens:
                records.append(answered(index, due[index] * 1e3, due[index] * 1e3, open_.pop(index)))
    return records


def faults_in(records: list[RequestRecord], facts: RunFacts = FACTS) -> list[Fault]:
    acc = Accumulator().add_all(records)
    return find_faults(acc, facts, find_outages(acc))


@pytest.mark.parametrize("seed", range(10))
def test_a_slow_down_is_found_with_its_begin_its_end_and_its_factor(seed):
    (fault,) = faults_in(run_of(Server(slow=((15.0, 20.0, 4.0),)), rate=15, seed=seed))
    assert fault.kind == "slow-down"
    assert fault.began_ns / S == pytest.approx(15.0, abs=0.5)
    assert fault.ended_ns is not None
    assert fault.ended_ns / S == pytest.approx(20.0, abs=0.7)
    assert fault.times is not None
    assert 4 <= fault.times <= 8, "more streams are open, which makes steps longer too"
    assert fault.recovery_ns is not None
    assert 4.5 <= fault.recovery_ns / S <= 9
    assert (fault.lost_requests, fault.late_requests > 30) == (0, True)


@pytest.mark.parametrize("seed", range(10))
def test_a_restart_is_an_outage_with_what_it_lost(seed):
    records = run_of(Server(down=((15.0, 20.0),)), rate=15, seed=seed)
    (fault,) = faults_in(records)
    assert (fault.kind, fault.times) == ("outage", None)
    assert fault.began_ns / S == pytest.approx(15.0, abs=0.1)
    assert fault.recovered_ns is not None
    assert 4.9 <= (fault.recovered_ns - fault.began_ns) / S <= 6.5
    assert fault.lost_requests == sum(record.outcome == "failed" for record in records)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize(
    ("rate", "process"), [(5, "poisson"), (15, "poisson"), (25, "poisson"), (15, "gamma"), (30, "poisson"), (60, "poisson")],
    ids=["light", "usual", "near capacity", "bursty", "at capacity", "twice over it"],
)  # fmt: skip
def test_a_server_that_is_well_has_no_fault_at_any_load(rate, process, seed):
    assert faults_in(run_of(Server(), rate, seconds=30, seed=seed, process=process)) == []


def test_a_freeze_of_seconds_is_a_slow_down():
    (fault,) = faults_in(run_of(Server(slow=((10.0, 10.015, 200.0),)), rate=15, seconds=30))
    assert fault.times is not None
    assert fault.times > 10
    assert fault.began_ns / S == pytest.approx(10.0, abs=0.3)


def test_one_that_lasts_has_no_end():
    (fault,) = faults_in(run_of(Server(slow=((20.0, 99.0, 6.0),)), rate=12, seconds=25, tokens=60))
    assert (fault.ended_ns, fault.recovered_ns, fault.recovery_ns) == (None, None, None)
    (section,) = fault_sections({"faults": [msgspec.to_builtins(fault)]}, 0)
    assert section.rows[0][section.columns.index("until recovery, s")] == "to the end"


def steady(index: int, due_s: float, extra_s: float = 0.0, **changes) -> RequestRecord:
    """A token after 100 ms and one each 20 ms then, 11 in all, `extra_s` later."""
    due = due_s * 1e3
    return answered(index, due, due, [due + 100 + extra_s * 1e3 + 20 * token for token in range(11)], **changes)


def outage_run(extra_s: float) -> list[RequestRecord]:
    """A request a second; 20 to 24 are lost, and the three after them are late by `extra_s`."""
    lost = [failed(index, index * 1e3, index * 1e3 + 10) for index in range(20, 25)]
    return [steady(index, index, extra_s if 25 <= index < 28 else 0.0) for index in range(60) if not 20 <= index < 25] + lost


@pytest.mark.parametrize(
    ("slo", "late", "debt_s", "recovered_s"),
    [
        (SloMs(), 3, 3 * (1.3 - 0.6), 28),  # twice the usual 300 ms
        (SloMs(ttft=500, tpot=30), 3, 3 * (1.3 - 0.8), 28),
        (SloMs(e2e=1_000), 3, 3 * (1.3 - 1.0), 28),
        (SloMs(e2e=2_000), 0, 0, 27),  # the first token after it comes at 26.1 s
        (SloMs(ttft=500), 3, 3 * (1.3 - 0.6), 28),  # no target for the whole of it
    ],
)
def test_debt_is_the_time_beyond_the_level(slo, late, debt_s, recovered_s):
    (fault,) = faults_in(outage_run(extra_s=1.0), RunFacts(open_loop=True, slo_ms=slo))
    assert (fault.requests, fault.lost_requests, fault.late_requests) == (recovered_s - 20, 5, late)
    assert fault.debt_ns / S == pytest.approx(debt_s)
    assert fault.recovered_ns == recovered_s * S


def test_each_class_has_its_own_level():
    classes = tuple(ClassFacts(name=name, share=1, slo_ms=SloMs(e2e=limit)) for name, limit in (("chat", 1_000), ("batch", 60_000)))
    records = [msgspec.structs.replace(record, class_name="batch" if record.index % 2 else "chat") for record in outage_run(extra_s=1.0)]
    (fault,) = faults_in(records, RunFacts(open_loop=True, classes=classes))
    assert (fault.late_requests, fault.debt_ns / S) == (1, pytest.approx(0.3))


def test_the_table_says_what_each_cost():
    records = run_of(Server(slow=((12.0, 16.0, 5.0),), down=((28.0, 31.0),)), rate=15, seconds=45)
    found = faults_in(records)
    (section,) = fault_sections({"faults": msgspec.to_builtins(found)}, 0)
    kinds = [row[0] for row in section.rows]
    assert kinds[0].startswith("slow-down, × ")
    assert kinds[1] == "outage"
    assert fault_sections({"faults": []}, 0) == []
