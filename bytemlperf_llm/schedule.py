"""The schedule of a run: which request is due when. Pure: the same plan gives the same schedule."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, islice
from typing import NamedTuple

from bytemlperf_llm import arrivals
from bytemlperf_llm.loadgen.worker import Planned
from bytemlperf_llm.scenario import Scenario
from bytemlperf_llm.workload import ScheduleHash, Workload

NS_PER_S = 1_000_000_000
CLOSED_HASHED_REQUESTS = 1_000  # of a closed loop that only a duration ends, so many are hashed


class ScheduleFacts(NamedTuple):
    """`requests` is None where only the clock ends the run (closed loop with a duration)."""

    requests: int | None
    sha256: str
    longest_prompt_index: int


def offsets(scenario: Scenario, seed: int) -> Iterator[int]:
    """Planned offsets in ns of an open loop. The scenario's rate is resolved (no `auto`)."""
    arrival = scenario.arrival
    assert arrival.process != "closed"
    duration_ns = None if scenario.duration_s is None else round(scenario.duration_s * NS_PER_S)
    ramp = None
    if arrival.ramp is not None:
        asked = arrival.ramp
        ramp = arrivals.Ramp(asked.strategy, asked.start_rate, asked.end_rate, scenario.num_requests, duration_ns)
    rate = None if arrival.rate in (None, "auto") else float(arrival.rate)  # type: ignore[arg-type]
    unbounded = arrivals.offsets_ns(arrival.process, rate=rate, burstiness=arrival.burstiness, seed=seed, ramp=ramp)
    return arrivals.bounded(unbounded, num_requests=scenario.num_requests, duration_ns=duration_ns)


def open_schedule(scenario: Scenario, workload: Workload, seed: int) -> Iterator[Planned]:
    """Every request of an open loop with its time."""
    for index, offset_ns in enumerate(offsets(scenario, seed)):
        yield Planned(workload.request(index), offset_ns)


def closed_schedule(scenario: Scenario, workload: Workload) -> Iterator[Planned]:
    """The requests of a closed loop, in order."""
    indices = count() if scenario.num_requests is None else range(scenario.num_requests)
    for index in indices:
        yield Planned(workload.request(index), None)


def describe(scenario: Scenario, seed: int) -> ScheduleFacts:
    """Walk the whole schedule once: how many, which hash, where the longest prompt is."""
    workload = Workload(scenario, seed)
    schedule = closed_schedule(scenario, workload) if scenario.arrival.process == "closed" else open_schedule(scenario, workload, seed)
    endless = scenario.arrival.process == "closed" and scenario.num_requests is None
    hashed = ScheduleHash()
    requests, longest, longest_index = 0, -1, 0
    for planned in islice(schedule, CLOSED_HASHED_REQUESTS if endless else None):
        hashed.update(planned.request, planned.offset_ns)
        requests += 1
        length = planned.request.text_length()
        if length > longest:
            longest, longest_index = length, planned.request.index
    return ScheduleFacts(None if endless else requests, hashed.hexdigest(), longest_index)
