"""The schedule of a run: which request is due when. Pure: the same plan gives the same schedule."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import count, islice
from typing import NamedTuple

from bytemlperf.arrivals import processes as arrivals
from bytemlperf.units import NS_PER_S
from bytemlperf_llm.plan.scenario import Scenario
from bytemlperf_llm.workload import ScheduleHash, Workload
from bytemlperf_llm.workload.trace_prompts import TraceEnded, TraceReport
from engines.contract import Request

CLOSED_HASHED_REQUESTS = 1_000  # of a closed loop that only a duration ends, so many are hashed


class ScheduleFacts(NamedTuple):
    """`requests` is None where only the clock ends the run (closed loop with a duration). `trace`
    counts the trace's rows, and `prompt_lengths` says how prompts were made to length, where they were."""

    requests: int | None
    sha256: str
    longest_prompt_index: int
    trace: TraceReport | None = None
    prompt_lengths: str | None = None

    def sentences(self, asked: int | None) -> list[str]:
        """What a reader should know of the prompts; `asked` is the number of requests asked for."""
        if self.trace is None:
            return [f"prompt lengths {self.prompt_lengths}"] if self.prompt_lengths else []
        short = asked is not None and self.requests is not None and self.requests < asked
        return self.trace.sentences() + ([f"the trace ends after {self.requests} of the {asked} requests asked for"] if short else [])


def offsets(scenario: Scenario, seed: int) -> Iterator[int]:
    """Planned offsets in ns of an open loop. The scenario's rate is resolved (no `auto`)."""
    arrival = scenario.arrival
    assert arrival.process != "closed"
    duration_ns = None if scenario.duration_s is None else round(scenario.duration_s * NS_PER_S)
    if arrival.process == "trace":
        return arrivals.bounded(_trace_offsets(scenario, seed), num_requests=scenario.num_requests, duration_ns=duration_ns)
    ramp = ramp_of(scenario)
    rate = None if arrival.rate in (None, "auto") else float(arrival.rate)  # type: ignore[arg-type]
    unbounded = arrivals.offsets_ns(arrival.process, rate=rate, burstiness=arrival.burstiness, seed=seed, ramp=ramp)
    return arrivals.bounded(unbounded, num_requests=scenario.num_requests, duration_ns=duration_ns)


def ramp_of(scenario: Scenario) -> arrivals.Ramp | None:
    """The scenario's ramp over its whole run; None without one."""
    ramp = scenario.arrival.ramp
    if ramp is None:
        return None
    duration_ns = None if scenario.duration_s is None else round(scenario.duration_s * NS_PER_S)
    return arrivals.Ramp(ramp.strategy, ramp.start_rate, ramp.end_rate, scenario.num_requests, duration_ns)


def _trace_offsets(scenario: Scenario, seed: int) -> Iterator[int]:
    workload = Workload(scenario, seed)
    with suppress(TraceEnded):
        for index in count():
            yield workload.trace_offset_ns(index)


def open_schedule(scenario: Scenario, workload: Workload, seed: int) -> Iterator[Planned]:
    """Every request of an open loop with its time; a trace that ends ends it."""
    return _planned(workload, enumerate(offsets(scenario, seed)))


def closed_schedule(scenario: Scenario, workload: Workload) -> Iterator[Planned]:
    """The requests of a closed loop, in order."""
    indices = count() if scenario.num_requests is None else range(scenario.num_requests)
    return _planned(workload, ((index, None) for index in indices))


def _planned(workload: Workload, due: Iterable[tuple[int, int | None]]) -> Iterator[Planned]:
    with suppress(TraceEnded):
        for index, offset_ns in due:
            yield Planned(workload.request(index), offset_ns)


def describe(scenario: Scenario, seed: int) -> ScheduleFacts:
    """Walk the whole schedule once: how many, which hash, where the longest prompt is."""
    workload = Workload(scenario, seed)
    schedule = closed_schedule(scenario, workload) if scenario.arrival.process == "closed" else open_schedule(scenario, workload, seed)
    endless = scenario.arrival.process == "closed" and scenario.num_requests is None and scenario.duration_s is not None
    hashed = ScheduleHash()
    requests, longest, longest_index = 0, -1, 0
    for planned in islice(schedule, CLOSED_HASHED_REQUESTS if endless else None):
        hashed.update(planned.request, planned.offset_ns)
        requests += 1
        length = planned.request.text_length()
        if length > longest:
            longest, longest_index = length, planned.request.index
    known = None if endless else requests
    return ScheduleFacts(known, hashed.hexdigest(), longest_index, workload.trace_report, workload.prompt_lengths)


class Planned(NamedTuple):
    """A request and when it is due, ns from the start of the schedule; None in closed loop."""

    request: Request
    offset_ns: int | None
