"""What a load is made of: an open loop at a rate, Poisson or a trace's own times scaled to it; or a closed loop of so many in flight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bytemlperf.errors import UserError, nearest
from bytemlperf.units import NS_PER_S
from bytemlperf_llm.capacity.result import UNITS, By
from bytemlperf_llm.plan.plan import Plan
from bytemlperf_llm.plan.scenario import Scenario
from bytemlperf_llm.workload.schedule import Schedule

UNBOUNDED: dict[str, Any] = {"process": "closed", "rate": None, "burstiness": 1.0, "ramp": None, "max_concurrency": None}


def by_of(text: str) -> By:
    """`--by`. Raises UserError."""
    if text == "sessions":
        raise UserError("--by sessions is not available yet", "use --by rate or --by concurrency")
    for by in UNITS:
        if by == text:
            return by
    raise UserError(f"--by {text[:40]!r} is unknown", nearest(text, [*UNITS]))


@dataclass(frozen=True)
class Loads:
    """`trace_rps` is the mean rate of a trace that is replayed at its own times, as the scenario scales them; `requests` how many its data
    set has, None without an end."""

    by: By
    trace_rps: float | None
    requests: int | None
    time_scale: float

    @classmethod
    def of(cls, plan: Plan, by: By, most: int) -> Loads:
        """Reads no more than `most` requests of a trace. Raises UserError where it can't be used."""
        scenario = plan.load.scenario
        trace = scenario.prompts.trace
        if scenario.prompts.sessions is not None:
            raise UserError(
                f"the capacity of sessions, which scenario '{scenario.name}' has, can't be searched yet", "take single requests"
            )
        if trace is None:
            return cls(by, None, None, 1.0)
        timed = by == "rate" and scenario.arrival.process == "trace"
        schedule = Schedule(_of_all(scenario, most, timed=timed), plan.load.seed)
        requests = schedule.describe().requests or 0
        span_s = max(schedule.offsets(), default=0) / NS_PER_S if timed else 0.0
        if timed and not span_s:
            raise UserError("the requests of the trace all come at once, and so have no rate", "add --request-rate")
        return cls(by, (requests - 1) / span_s if timed else None, requests, trace.time_scale)

    def changes(self, load: float, requests: int) -> dict[str, Any]:
        """The scenario's keys of so many requests under this load; a closed loop has as many more as are in flight, so that it is full
        until the last of them has ended."""
        changes: dict[str, Any] = {"num_requests": requests, "duration_s": None}
        if self.by == "concurrency":
            return {"num_requests": requests + int(load), "duration_s": None, "arrival": UNBOUNDED | {"max_concurrency": int(load)}}
        if self.trace_rps is None:
            return changes | {"arrival": UNBOUNDED | {"process": "poisson", "rate": load}}
        scale = float(f"{self.time_scale * self.trace_rps / load:.9g}")
        return changes | {"arrival": UNBOUNDED | {"process": "trace"}, "prompts.trace.time_scale": scale}


def _of_all(scenario: Scenario, most: int, *, timed: bool) -> Scenario:
    arrival = {"process": "trace"} if timed else {"process": "at_once"}
    return scenario.override({"num_requests": most, "duration_s": None, "arrival": UNBOUNDED | arrival})
