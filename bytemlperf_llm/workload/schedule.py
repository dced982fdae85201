"""Which request is due when: the same scenario and seed give the same schedule on every machine, and to every number of workers.

The schedule is dealt out like cards: worker k of n sends the requests with index % n == k. Each worker makes it for itself and
builds only its own requests: nothing is sent between them.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from itertools import count, islice, repeat
from typing import NamedTuple

import msgspec

from bytemlperf.arrivals import processes as arrivals
from bytemlperf.units import NS_PER_S
from bytemlperf_llm.plan.scenario import Scenario
from bytemlperf_llm.workload import Workload, schedule_line
from bytemlperf_llm.workload.sessions.graph import Session
from bytemlperf_llm.workload.sessions.source import SessionReport
from bytemlperf_llm.workload.trace_prompts import TraceEnded, TraceReport
from engines.contract import Request

CLOSED_HASHED_REQUESTS = 1_000  # of a closed loop that only a duration ends, so many are hashed

Due = Iterable[tuple[int, int | None]]
"""Places in the schedule with their times, ns from its start; None in closed loop."""


class Planned(NamedTuple):
    """A request and when it is due, ns from the start of the schedule; None in closed loop."""

    request: Request
    offset_ns: int | None


class PlannedSession(NamedTuple):
    """A session, the place of its first turn in the schedule, and when it starts, ns from there; None in closed loop."""

    session: Session
    first_index: int
    offset_ns: int | None


class ScheduleFacts(NamedTuple):
    """`requests` is None where only the clock ends the run (closed loop with a duration). `trace`
    counts the trace's rows, and `prompt_lengths` says how prompts were made to length, where they were."""

    requests: int | None
    sha256: str
    trace: TraceReport | None = None
    prompt_lengths: str | None = None
    sessions: int | None = None
    session_report: SessionReport = SessionReport()

    def of_sessions(self) -> dict[str, int]:
        """For run.json: sessions that are planned, and what became of the file's others; empty for single requests."""
        return {} if self.sessions is None else {"sessions": self.sessions, **msgspec.structs.asdict(self.session_report)}

    def sentences(self, asked: int | None) -> list[str]:
        """What a reader should know of the prompts; `asked` is how many there were to be."""
        lengths = [f"prompt lengths {self.prompt_lengths}"] if self.prompt_lengths else []
        if self.sessions is not None:
            planned = f"{self.sessions} sessions of {self.requests} turns" if self.requests else "sessions until the time is up"
            return [planned, *lengths, *self.session_report.sentences()]
        if self.trace is None:
            return lengths
        short = asked is not None and self.requests is not None and self.requests < asked
        return self.trace.sentences() + ([f"the trace ends after {self.requests} of {asked} requests"] if short else [])


class Share(NamedTuple):
    """Worker `worker`, from 0, of `workers`."""

    worker: int = 0
    workers: int = 1

    def of(self, total: int) -> int:
        """This worker's part of a number of slots; the parts of all workers sum to `total`."""
        return total // self.workers + (self.worker < total % self.workers)


ALL = Share()


class Remaining(msgspec.Struct, frozen=True):
    """What a stopped run has left of its schedule: all but `done`, ranges [from, to) in order, and later
    by `shift_ns`. Ranges, since it goes to other processes: a run has done nearly all up to some place."""

    done: tuple[tuple[int, int], ...]
    shift_ns: int

    @classmethod
    def without(cls, done: Collection[int], shift_ns: int) -> Remaining:
        """All but these places in the schedule."""
        ranges: list[tuple[int, int]] = []
        for index in sorted(done):
            if ranges and ranges[-1][1] == index:
                ranges[-1] = (ranges[-1][0], index + 1)
            else:
                ranges.append((index, index + 1))
        return cls(tuple(ranges), shift_ns)

    def of(self, due: Due) -> Iterator[tuple[int, int | None]]:
        """What is left of these, whose places ascend."""
        ranges = iter(self.done)
        begin, end = next(ranges, (0, 0))
        for index, offset_ns in due:
            while index >= end > begin:
                begin, end = next(ranges, (0, 0))
            if not begin <= index < end:
                yield index, None if offset_ns is None else offset_ns + self.shift_ns

    def of_sessions(self, planned: Iterable[PlannedSession]) -> Iterator[PlannedSession]:
        """Those of which no turn is done."""
        for session in planned:
            first, end = session.first_index, session.first_index + len(session.session.turns)
            place = bisect_right(self.done, (first, end))
            if not any(begin < end and first < stop for begin, stop in self.done[max(0, place - 1) : place + 1]):
                offset_ns = session.offset_ns
                yield session._replace(offset_ns=None if offset_ns is None else offset_ns + self.shift_ns)


class Schedule:
    """The schedule of a scenario whose rate is resolved (no `auto`). Making requests reads the prompt files: may raise UserError."""

    def __init__(self, scenario: Scenario, seed: int) -> None:
        self.scenario, self.seed = scenario, seed

    @property
    def ends(self) -> bool:
        """Whether it ends by itself: a closed loop that only a duration ends doesn't."""
        return self.scenario.arrival.process != "closed" or self.scenario.arrivals is not None or self.scenario.duration_s is None

    def workload(self) -> Workload:
        """Its requests, whatever their times. Raises UserError."""
        return Workload(self.scenario, self.seed)

    def offsets(self) -> Iterator[int]:
        """Planned offsets in ns of an open loop: of its requests, or of its sessions."""
        scenario, arrival = self.scenario, self.scenario.arrival
        assert arrival.process != "closed"
        duration_ns = None if scenario.duration_s is None else round(scenario.duration_s * NS_PER_S)
        if arrival.process == "trace":
            return arrivals.bounded(self._trace_offsets(), num_requests=scenario.arrivals, duration_ns=duration_ns)
        rate = None if arrival.rate in (None, "auto") else float(arrival.rate)  # type: ignore[arg-type]
        unbounded = arrivals.offsets_ns(arrival.process, rate=rate, burstiness=arrival.burstiness, seed=self.seed, ramp=ramp_of(scenario))
        return arrivals.bounded(unbounded, num_requests=scenario.arrivals, duration_ns=duration_ns)

    def _trace_offsets(self) -> Iterator[int]:
        workload = self.workload()
        with suppress(TraceEnded):
            for index in count():
                yield workload.trace_offset_ns(index)

    def planned(self, share: Share = ALL, left: Remaining | None = None, workload: Workload | None = None) -> Iterator[Planned]:
        """A worker's requests in the order of the schedule, or what is left of them; without end for a closed loop that only a
        duration ends, and to the end of a trace."""
        workload = workload or self.workload()
        if workload.sessions is not None:
            yield from self._turns(share, workload, left)
            return
        due = self._due(share)
        with suppress(TraceEnded):
            for index, offset_ns in due if left is None else left.of(due):
                yield Planned(workload.request(index), offset_ns)

    def sessions(self, share: Share = ALL, workload: Workload | None = None, left: Remaining | None = None) -> Iterator[PlannedSession]:
        """A worker's sessions, where the scenario has some, in the order of the schedule, or those that haven't begun."""
        planned = self._sessions(share, workload)
        return planned if left is None else left.of_sessions(planned)

    def _sessions(self, share: Share, workload: Workload | None) -> Iterator[PlannedSession]:
        found = (workload or self.workload()).sessions
        assert found is not None
        offsets: Iterator[int | None] = repeat(None) if self.scenario.arrival.process == "closed" else self.offsets()
        with suppress(TraceEnded):
            for number, offset_ns in islice(enumerate(offsets), share.worker, None, share.workers):
                first = found.first_index(number)
                yield PlannedSession(found.session(number), first, offset_ns)

    def _turns(self, share: Share, workload: Workload, left: Remaining | None) -> Iterator[Planned]:
        """Their requests, with the recorded answers; only the first has a time that is known before."""
        for session, first, offset_ns in self.sessions(share, workload, left):
            for turn in range(len(session.turns)):
                yield Planned(workload.turn(session, turn, first + turn, session.prompt(turn)), None if turn else offset_ns)

    def _due(self, share: Share) -> Due:
        scenario = self.scenario
        if scenario.arrival.process != "closed":
            return islice(enumerate(self.offsets()), share.worker, None, share.workers)
        indices = count() if scenario.num_requests is None else range(scenario.num_requests)
        return ((index, None) for index in islice(indices, share.worker, None, share.workers))

    def describe(self) -> ScheduleFacts:
        """Walk it once: how many, and which hash. A salt is not in it: runs with another one, or with none, have the same schedule."""
        workload = Workload(self.scenario.override({"prompts.salt": None}), self.seed)
        hashed, source = hashlib.sha256(), workload.sessions
        requests = sessions = 0
        for planned in islice(self.planned(workload=workload), None if self.ends else CLOSED_HASHED_REQUESTS):
            hashed.update(schedule_line(planned.request, planned.offset_ns))
            if source is not None:
                hashed.update(source.line(planned.request.index))
                sessions += planned.request.turn == 0
            requests += 1
        known = requests if self.ends else None
        if source is not None:
            return ScheduleFacts(known, hashed.hexdigest(), None, workload.prompt_lengths, sessions, source.report)
        return ScheduleFacts(known, hashed.hexdigest(), workload.trace_report, workload.prompt_lengths)


def ramp_of(scenario: Scenario) -> arrivals.Ramp | None:
    """The scenario's ramp over its whole run; None without one."""
    ramp = scenario.arrival.ramp
    if ramp is None:
        return None
    duration_ns = None if scenario.duration_s is None else round(scenario.duration_s * NS_PER_S)
    return arrivals.Ramp(ramp.strategy, ramp.start_rate, ramp.end_rate, scenario.arrivals, duration_ns)
