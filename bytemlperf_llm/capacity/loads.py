"""What a load is made of: an open loop at a rate, Poisson or a trace's own times scaled to it; or a closed loop of so many in flight, or of
so many users, each in one session after the other."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, sqrt
from typing import Any

from bytemlperf.errors import UserError, nearest
from bytemlperf.units import NS_PER_MS, NS_PER_S
from bytemlperf_llm.capacity.result import By, Judged
from bytemlperf_llm.capacity.search import Goal
from bytemlperf_llm.plan.plan import Plan
from bytemlperf_llm.workload.schedule import Schedule

UNBOUNDED: dict[str, Any] = {"rate": None, "burstiness": 1.0, "ramp": None, "max_concurrency": None}

SAMPLE_SESSIONS = 200
"""Of those that are made up, for the mean number of turns."""
SIGMAS = 3.0
"""Over √sessions: so many more have the turns that are to be judged."""
NO_END_S = 1e9
"""Of a closed loop that its last look ends."""


NAMES: tuple[By, ...] = ("rate", "concurrency", "sessions")


def by_of(text: str) -> By:
    """`--by`. Raises UserError."""
    for by in NAMES:
        if by == text:
            return by
    raise UserError(f"--by {text[:40]!r} is unknown", nearest(text, [*NAMES]))


@dataclass(frozen=True)
class Loads:
    """`trace_rps` is the mean rate of a trace that is replayed at its own times, as the scenario scales them; `requests` how many its data
    set has, None without an end. `judged` are what meets or misses service levels, and `turnover` how many of
    them a session has, None without sessions; of those `turns` is how many turns, and `think_s` passes before a turn, on average."""

    by: By
    trace_rps: float | None
    requests: int | None
    time_scale: float
    judged: Judged = "requests"
    turnover: float | None = None
    turns: float = 0.0
    think_s: float = 0.0

    @classmethod
    def of(cls, plan: Plan, by: By, goal: Goal) -> Loads:
        """Reads no more requests of a trace than may be sent. Raises UserError where it can't be used."""
        scenario = plan.load.scenario
        trace = scenario.prompts.trace
        if by == ("sessions" if scenario.prompts.sessions is None else "concurrency"):
            has, take = ("no sessions", "a scenario that has, or --by rate") if by == "sessions" else ("sessions", "--by sessions, or rate")
            raise UserError(f"scenario '{scenario.name}' has {has}, and --by is {by}", f"take {take}")
        if scenario.prompts.sessions is not None:
            return cls._of_sessions(plan, "sessions" if by == "sessions" else "session_rate", goal)
        if trace is None:
            return cls(by, None, None, 1.0)
        timed = by == "rate" and scenario.arrival.process == "trace"
        arrival = UNBOUNDED | {"process": "trace" if timed else "at_once"}
        bounds = {"num_requests": goal.max_requests, "duration_s": None, "arrival": arrival}
        schedule = Schedule(scenario.override(bounds), plan.load.seed)
        requests = schedule.describe().requests or 0
        span_s = max(schedule.offsets(), default=0) / NS_PER_S if timed else 0.0
        if timed and not span_s:
            raise UserError("the requests of the trace all come at once, and so have no rate", "add --request-rate")
        return cls(by, (requests - 1) / span_s if timed else None, requests, trace.time_scale)

    @classmethod
    def _of_sessions(cls, plan: Plan, by: By, goal: Goal) -> Loads:
        """Whole sessions are judged where one of the levels is theirs, else turns."""
        scenario, limit_ms = plan.load.scenario, plan.load.scenario.slo.session_ms
        listed = scenario.prompts.sessions is not None and scenario.prompts.sessions.file is not None
        bounds = {
            "num_sessions": goal.max_requests if listed else SAMPLE_SESSIONS,
            "duration_s": None,
            "arrival": UNBOUNDED | {"process": "at_once"},
        }
        turns, idle_ns = 0, list[int]()
        for planned in Schedule(scenario.override(bounds), plan.load.seed).sessions():
            turns += len(planned.session.turns)
            idle_ns.append(planned.session.idle_ns())
            if limit_ms is None and turns >= goal.max_requests:
                break
        means = turns / len(idle_ns), sum(idle_ns) / turns / NS_PER_S
        if limit_ms is None:
            return cls(by, None, turns if listed else None, 1.0, "turns", means[0], *means)
        missing = sum(idle > limit_ms * NS_PER_MS for idle in idle_ns) / len(idle_ns)
        if missing > 1 - goal.share:
            raise UserError(
                f"{missing:.0%} of the sessions miss session:{limit_ms:g} by their delays and think times alone", "give a longer level"
            )
        return cls(by, None, len(idle_ns) if listed else None, 1.0, "sessions", 1.0, *means)

    def changes(self, load: float, requests: int) -> dict[str, Any]:
        """The scenario's keys of so many requests under this load; a closed loop has as many more as are in flight, so that it is full
        until the last of them has ended."""
        closed = UNBOUNDED | {"process": "closed", "max_concurrency": int(load)}
        if self.by == "sessions":
            return {"num_sessions": None, "duration_s": NO_END_S, "arrival": closed}
        if self.by == "session_rate":
            sessions = requests / (self.turnover or 1.0)
            arrival = UNBOUNDED | {"process": "poisson", "rate": load}
            return {"num_sessions": ceil(sessions + SIGMAS * sqrt(sessions)), "duration_s": None, "arrival": arrival}
        if self.by == "concurrency":
            return {"num_requests": requests + int(load), "duration_s": None, "arrival": closed}
        changes: dict[str, Any] = {"num_requests": requests, "duration_s": None}
        if self.trace_rps is None:
            return changes | {"arrival": UNBOUNDED | {"process": "poisson", "rate": load}}
        scale = float(f"{self.time_scale * self.trace_rps / load:.9g}")
        return changes | {"arrival": UNBOUNDED | {"process": "trace"}, "prompts.trace.time_scale": scale}
