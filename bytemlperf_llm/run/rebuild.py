"""From run.json back to what was run: the resolved scenario, and which record belongs where.

`verify` compares the records with the schedule made anew, `resume` sends what is missing of it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from bytemlperf.errors import UserError
from bytemlperf.runs.folder import part
from bytemlperf_llm.plan.scenario import Arrival, ClassKeys, Lengths, Prompts, Scenario, lengths_text

MAX_WITHOUT_RECORD = 1_000_000
"""Requests of a schedule made anew, beside a hundred for each record there is: ten seconds."""


class Load(NamedTuple):
    """What was sent, for a reader. `offered`: as fast as the plan said, whatever the server could do."""

    arrival: str
    requests: str
    offered: bool

    @property
    def text(self) -> str:
        return ", ".join(filter(None, (self.arrival, self.requests)))


class CacheBefore(msgspec.Struct, frozen=True):
    """`cache` of run.json: the prefix cache's state that was asked for, and how it was made; the places in the schedule, [from, to), whose
    prompts were sent before the measured part and may be in it."""

    state: str
    how: str = ""
    own: tuple[tuple[int, int], ...] = ()

    def text(self) -> str:
        """For a reader."""
        return f"{self.state} ({self.how})" if self.how else self.state


AS_IS = CacheBefore("as-is")


def cache_of(run: dict[str, Any]) -> CacheBefore | None:
    """None where run.json doesn't hold it."""
    before: CacheBefore | None = _converted(run.get("cache"), CacheBefore)
    return before


def load_of(run: dict[str, Any]) -> Load:
    """The load that was asked for; empty texts where run.json doesn't hold it."""
    scenario = part(run, "config", "scenario")
    arrival, prompts, lengths = (
        _converted(scenario.get(name), kind) for name, kind in (("arrival", Arrival), ("prompts", Prompts), ("output_tokens", Lengths))
    )
    generates = prompts is None or prompts.task == "generate"
    words = [prompts.sentence() if prompts else "", f"{lengths_text(lengths)} tokens out" if lengths and generates else ""]
    classes: dict[str, ClassKeys] = _converted(scenario.get("classes"), dict[str, ClassKeys]) or {}
    total = sum(keys.share for keys in classes.values())
    words += [" and ".join(f"{keys.share / total:.0%} {name}" for name, keys in classes.items())]
    words += ["stopping at EOS"] if generates and part(scenario, "sampling").get("ignore_eos") is False else []
    open_loop = arrival is not None and arrival.process not in ("closed", "at_once")
    sessions = prompts is not None and prompts.sessions is not None
    return Load(arrival.sentence(sessions=sessions) if arrival else "", ", ".join(filter(None, words)), open_loop)


def _converted(value: object, kind: Any) -> Any:
    """None for what is not of that kind."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return None


def most_requests(scenario: Scenario) -> float:
    """How many requests a schedule may have, without making it; 0 where only a closed loop's time or a trace's end bounds it."""
    rates = [scenario.arrival.ramp.start_rate, scenario.arrival.ramp.end_rate] if scenario.arrival.ramp else [scenario.arrival.rate]
    rate = max((rate for rate in rates if isinstance(rate, int | float)), default=0.0)
    bounds = [scenario.arrivals, rate * scenario.duration_s if rate and scenario.duration_s is not None else None]
    return min((bound for bound in bounds if bound is not None), default=0.0)


def refuse_endless(scenario: Scenario, records: int) -> None:
    """A schedule is made anew for so many records only where that ends soon: verify reads folders of strangers. Raises UserError."""
    if most_requests(scenario) > MAX_WITHOUT_RECORD + 100 * records:
        raise UserError(
            f"its configuration makes some {most_requests(scenario):.3g} requests, and there are {records} records", "run again"
        )


def shifts_ns(run: dict[str, Any]) -> dict[str, int]:
    """Log name to what was added to the schedule's planned times in it; logs of a run's first part
    aren't named and have 0."""
    resumed = run.get("resumed", [])
    return {str(name): int(part["shift_ns"]) for part in resumed for name in part["logs"]}


def clock_origin_ns(run: dict[str, Any], name: str = "clock_origin_ns") -> int | None:
    """Zero of the records' times on the clock of the machine, or by another name as time of day, as its latest part had it; None where
    it never began to send."""
    found = [part[name] for part in (run, *run.get("resumed", [])) if isinstance(part.get(name), int)]
    return found[-1] if found else None


def trace_key_of(run: dict[str, Any]) -> str:
    """What the ids of the run's traces were made from; empty where none were sent."""
    key = part(run, "config", "engine_options").get("trace_key")
    return key if isinstance(key, str) else ""
