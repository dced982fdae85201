"""What a stopped or killed run still has to do, and how its clock goes on.

The run's time axis has no gap for the pause: the second part begins where the last record of the
first ended (`until_ns`). Requests without a record are sent in the order of the schedule with the
schedule's gaps between them; all their planned times are the schedule's plus one `shift_ns`, which
makes the first of them due at `until_ns`. It is kept in run.json, so that `verify` can take it off.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from bytemlperf.errors import UserError
from bytemlperf.runs.files import record_logs
from bytemlperf.runs.suite import SuiteRun
from bytemlperf.units import NS_PER_S
from bytemlperf_llm.loadgen.fleet import log_name
from bytemlperf_llm.metrics.facts import facts_from
from bytemlperf_llm.plan.scenario import Scenario, scenario_of, seed_of
from bytemlperf_llm.run.description import reschedule
from bytemlperf_llm.run.rebuild import refuse_endless
from bytemlperf_llm.workload.schedule import Remaining, Schedule
from engines.contract import EngineInfo

_NUMBER = re.compile(r"-([0-9]+)\.jsonl")


class Remainder(msgspec.Struct, kw_only=True):
    """A run with what is missing in it, open. `done` are places in the schedule that have a record."""

    run: SuiteRun
    scenario: Scenario
    seed: int
    done: set[int]
    until_ns: int
    first_offset_ns: int | None  # planned offset of the first request without a record; None in closed loop

    @property
    def shift_ns(self) -> int:
        """Added to the schedule's planned times; not below 0, so that an idle stretch isn't cut short."""
        return 0 if self.first_offset_ns is None else max(0, self.until_ns - self.first_offset_ns)

    @property
    def begin_ns(self) -> int:
        """Where the run's time axis goes on."""
        return self.until_ns if self.first_offset_ns is None else self.first_offset_ns + self.shift_ns

    def left(self) -> Remaining:
        """What is left of the schedule, shifted; for every number of workers."""
        return Remaining.without(self.done, self.shift_ns)

    def next_log(self) -> int:
        """The next free number of a log: records-1.jsonl, records-2.jsonl, …"""
        numbers = [int(found[1]) for path in record_logs(self.run.folder) if (found := _NUMBER.search(path.name))]
        return 1 + max(numbers, default=0)

    def part(self, info: EngineInfo, workers: int) -> dict[str, Any]:
        """What this part adds to run.json: its logs, what is added to planned times, where the time axis goes on."""
        first = self.next_log()
        return {
            "logs": [log_name(first + worker) for worker in range(workers)],
            "shift_ns": self.shift_ns,
            "begin_ns": self.begin_ns,
            "records_before": len(self.done),
            "engine": msgspec.to_builtins(info),
        }


def read_remainder(run: SuiteRun) -> Remainder:
    """Read what there is. Raises UserError when the run is complete or damaged."""
    facts_from(run.run, run.folder)
    done, until_ns = set[int](), 0
    for record in run.records():
        done.add(record.index)
        until_ns = max(until_ns, record.end_ns)
    scenario, seed = scenario_of(run.run), seed_of(run.run)
    refuse_endless(scenario, len(done))
    remainder = Remainder(run=run, scenario=scenario, seed=seed, done=done, until_ns=until_ns, first_offset_ns=None)
    first = None if _over(remainder) else next(Schedule(scenario, seed).planned(left=remainder.left()), None)
    if first is None:
        whole = "no session is left to begin" if scenario.prompts.sessions else f"all its {len(done)} requests have a record"
        raise UserError(
            f"{run.folder} is complete: {whole}", f"see it with: bmp-llm summarize {run.folder}, or add some with --num-prompts"
        )
    remainder.first_offset_ns = first.offset_ns
    return remainder


def extend(run: SuiteRun, requests: int) -> None:
    """Make the run one of so many requests, whose schedule begins as its own does. Raises UserError where that can't be."""
    scenario, seed = scenario_of(run.run), seed_of(run.run)
    if scenario.prompts.sessions is not None:
        raise UserError("--num-prompts would cut a session", "start a new run with --num-sessions")
    records = sum(1 for _ in run.records())
    if requests <= records:
        raise UserError(f"{run.folder} has {records} records already", f"give --num-prompts {records + 1} or more")
    if scenario.arrival.ramp is not None:
        raise UserError("a ramp over more requests is another one from the first on", "start a new run")
    if Schedule(scenario, seed).describe().sha256 != run.run["schedule_sha256"]:
        raise changed_schedule(run)
    reschedule(run.run, {"num_requests": requests, "duration_s": None})
    if (planned := run.run["scheduled_requests"]) < requests:
        raise UserError(f"the trace ends after {planned} requests", f"give --num-prompts {planned} at most")


def changed_schedule(run: SuiteRun) -> UserError:
    """The error for a run whose schedule can't be made here."""
    return UserError(
        f"{run.folder} has another schedule than its configuration makes here", "its prompt files have changed; start a new run"
    )


def _over(remainder: Remainder) -> bool:
    """Whether a closed loop's time is up; in open loop the schedule itself ends."""
    scenario = remainder.scenario
    limited = scenario.arrival.process == "closed" and scenario.duration_s is not None
    return limited and remainder.until_ns >= round((scenario.duration_s or 0) * NS_PER_S)
