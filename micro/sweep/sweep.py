"""A sweep: every case becomes exactly one row, whatever happens to it.

for each case that has no row yet:
    refuse what can't be asked, skip what is too large, too slow or past the budget
    give it to the runner of its operator, make the row, keep it, show it
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

import msgspec

from micro.cases.case import Case
from micro.collectives.runner import RanksRunner
from micro.measure.conditions import Conditions, Snapshot, between, snapshot
from micro.measure.estimate import Estimate, Rates, estimate, rate_name
from micro.measure.messages import Hello, Job, Outcome
from micro.measure.timing import Rules
from micro.operators.contract import Operator
from micro.peaks.machine import FROM_ENVIRONMENT
from micro.registry import OPERATORS
from micro.roofline import Roof
from micro.sweep.child import WorkerChild
from micro.sweep.outcome import measured_row
from micro.sweep.row import Row, plain_row


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How a sweep measures; kept in run.json. `cache_bytes` 0 is --hot. None is no limit. `threads_from` says
    where their number comes from; 0 is the library's own."""

    device: str = "cpu"
    threads: int = 0
    threads_from: str = ""
    seed: int = 0
    rules: Rules = Rules()
    cache_bytes: int = 0
    budget_s: float | None = None
    max_case_s: float = 60.0
    max_memory_bytes: int | None = None


ASKED = "--threads"
ASKED_FOR = (ASKED, FROM_ENVIRONMENT)
"""Where a number of threads comes from that ranks take as it is; else they share the cores."""


class CaseRunner(Protocol):
    """Does a case somewhere else, so that its crash can't take the sweep along. `run` never raises for a case."""

    def refusal(self, job: Job) -> str:
        """Why this machine can't do a case, "" where it may; asked before it comes up and before anything is estimated."""

    def hello(self) -> Hello:
        """Come up; what there is to know. Raises UserError."""

    def run(self, job: Job, limit_s: float) -> Outcome:
        """One case within a time."""

    def close(self) -> None:
        """End what still runs."""


RUNNERS: dict[str, Callable[[Settings], CaseRunner]] = {
    "worker": lambda settings: WorkerChild(settings.device, settings.threads),
    "ranks": lambda settings: RanksRunner(settings.device, settings.threads if settings.threads_from in ASKED_FOR else 0),
}
"""By `Operator.runner`. A runner is started at the first case that needs it."""


class Sweep:
    """Runs cases. `keep` gets every row once, as soon as it is known; `begins` is told what comes next."""

    def __init__(
        self,
        settings: Settings,
        keep: Callable[[Row], None],
        *,
        begins: Callable[[Case, int], None] = lambda _case, _place: None,
        runners: dict[str, Callable[[Settings], CaseRunner]] | None = None,
        roofs: Mapping[str, Roof] | None = None,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings, self._keep, self._begins, self._now_s = settings, keep, begins, now_s
        self._makers = RUNNERS if runners is None else runners
        self._roofs = roofs or {}
        self._runners: dict[str, CaseRunner] = {}  # up or not: see hellos
        self._rates: dict[str, Rates] = {}
        self.hellos: dict[str, Hello] = {}

    def run(self, cases: Iterable[Case]) -> None:
        """All of them, in order. Raises UserError when a runner doesn't come up, or the disk is full."""
        began = self._now_s()
        try:
            for place, case in enumerate(cases):
                self._begins(case, place)
                self._keep(self._one(case, self._now_s() - began))
        finally:
            for runner in self._runners.values():
                runner.close()

    def _one(self, case: Case, spent_s: float) -> Row:
        settings = self._settings
        if case.refusal:
            return plain_row(case, settings.device, "refused", case.refusal)
        operator = OPERATORS[case.op]
        refusal = self._runner(operator.runner).refusal(self._job(case))
        if refusal:
            return plain_row(case, settings.device, "refused", refusal)
        runner, rates = self._come_up(operator.runner)
        expected = estimate(operator, case.args, case.provider, rates, settings.cache_bytes)
        too_much = self._too_much(expected, spent_s)
        if too_much and settings.cache_bytes and "--memory-limit" in too_much:
            hot = estimate(operator, case.args, case.provider, rates, 0)
            too_much += "" if self._too_much(hot, spent_s) else f"; --hot needs {_size(hot.memory_bytes)}"
        if too_much:
            return plain_row(case, settings.device, "skipped", too_much, expected)
        return self._run(case, operator, runner, rates, expected)

    def _run(self, case: Case, operator: Operator, runner: CaseRunner, rates: Rates, expected: Estimate) -> Row:
        settings, cost, began = self._settings, operator.cost(case.args), self._now_s()
        before = snapshot(settings.device)
        outcome = runner.run(self._job(case), settings.max_case_s)
        if outcome.timed is not None and outcome.conditions is None:
            outcome = msgspec.structs.replace(outcome, conditions=_whole_case(before, settings.device))
        row = measured_row(
            case,
            settings.device,
            outcome,
            cost,
            estimate=expected,
            precision=settings.rules.precision,
            cache_bytes=settings.cache_bytes,
            duration_s=self._now_s() - began,
            threads=self.hellos[operator.runner].threads,
            roofs=self._roofs,
        )
        if row.status == "ok" and row.latency_us is not None and outcome.timed is not None and row.duration_s is not None:
            rates.learn(rate_name(operator, cost, case.provider), expected.call_s, row.latency_us.min / 1e6)
            timing_s = outcome.timed.warm_up_s + outcome.timed.sampling_s
            rates.learn_case(timing_s=timing_s, setup_s=max(0.0, row.duration_s - timing_s), setup_bytes=expected.setup_bytes)
        return row

    def _job(self, case: Case) -> Job:
        settings = self._settings
        return Job(
            op=case.op,
            provider=case.provider,
            args=case.args,
            device=settings.device,
            seed=settings.seed,
            rules=settings.rules,
            cache_bytes=settings.cache_bytes,
        )

    def _runner(self, name: str) -> CaseRunner:
        if name not in self._runners:
            self._runners[name] = self._makers[name](self._settings)
        return self._runners[name]

    def _come_up(self, name: str) -> tuple[CaseRunner, Rates]:
        if name not in self.hellos:
            hello = self.hellos[name] = self._runner(name).hello()
            rules = self._settings.rules
            usual_s = (rules.warm_up_s + rules.budget_s) / 2
            self._rates[name] = Rates(flops_per_s=hello.flops_per_s, bytes_per_s=hello.bytes_per_s, timing_s=usual_s)
        return self._runners[name], self._rates[name]

    def _too_much(self, expected: Estimate, spent_s: float) -> str:
        """Why a case is left out, "" where it isn't."""
        settings = self._settings
        if settings.max_memory_bytes is not None and expected.memory_bytes > settings.max_memory_bytes:
            return f"needs about {_size(expected.memory_bytes)}, more than --memory-limit {_size(settings.max_memory_bytes)}"
        if settings.rules.max_samples and expected.case_s > settings.max_case_s:
            return f"would take about {expected.case_s:.3g} s, more than --time-limit {settings.max_case_s:g}"
        if settings.budget_s is not None and (spent_s >= settings.budget_s or spent_s + expected.case_s > settings.budget_s):
            return f"{BUDGET_SPENT}: --budget {settings.budget_s:g} s has no room for the case"
        return ""


def _whole_case(before: Snapshot, device: str) -> Conditions:
    """For a runner that takes no readings of its own (several ranks): from set-up to end. Which CPU time was
    the ranks' and which was others' can't be told from here."""
    return msgspec.structs.replace(between(before, snapshot(device)), others_cpus=None)


BUDGET_SPENT = "the budget is spent"


def _size(count: int) -> str:
    size = count / 2**30
    if size < 0.1:
        return f"{count / 2**20:.3g} MiB"
    return f"{size:,.0f} GiB" if size >= 100 else f"{size:.3g} GiB"
