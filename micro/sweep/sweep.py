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

from bytemlperf.hardware.peaks import COLD_CACHES, MEASURED, Roof
from micro.cases.case import Case
from micro.collectives.runner import RanksRunner
from micro.measure.conditions import between, snapshot
from micro.measure.estimate import Estimate, Rates, estimate, rate_name
from micro.measure.messages import Hello, Job, Outcome
from micro.measure.timing import Rules, Timed, latency_of, noise_of
from micro.operators.contract import Cost, Operator
from micro.peaks.machine import FROM_ENVIRONMENT
from micro.registry import OPERATORS
from micro.roofline import efficiency, too_fast
from micro.sweep.child import WorkerChild
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

    def job(self, case: Case) -> Job:
        """The case as a runner does it."""
        return Job(
            op=case.op,
            provider=case.provider,
            args=case.args,
            device=self.device,
            seed=self.seed,
            rules=self.rules,
            cache_bytes=self.cache_bytes,
        )


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
    """Runs cases. `keep` gets every row once, as soon as it is known; `begins` is told what comes next. `roofs` are what a case is held
    against, asked before it runs; with a row that is above them again."""

    def __init__(
        self,
        settings: Settings,
        keep: Callable[[Row], None],
        *,
        begins: Callable[[Case, int], None] = lambda _case, _place: None,
        runners: dict[str, Callable[[Settings], CaseRunner]] | None = None,
        roofs: Callable[[Case, Row | None], Mapping[str, Roof]] = lambda _case, _row: {},
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings, self._keep, self._begins, self._now_s = settings, keep, begins, now_s
        self._makers = RUNNERS if runners is None else runners
        self._roofs = roofs
        self._runners: dict[str, CaseRunner] = {}  # up or not: see hellos
        self._rates: dict[str, Rates] = {}
        self.hellos: dict[str, Hello] = {}

    def run(self, cases: Iterable[Case]) -> None:
        """All of them, in order. Raises UserError when a runner doesn't come up, or the disk is full."""
        began = self._now_s()
        try:
            for number, case in enumerate(cases):
                self._begins(case, number)
                self._keep(self._one(case, self._now_s() - began))
        finally:
            for runner in self._runners.values():
                runner.close()

    def _one(self, case: Case, spent_s: float) -> Row:
        settings = self._settings
        if case.refusal:
            return plain_row(case, settings.device, "refused", case.refusal)
        operator = OPERATORS[case.op]
        refusal = self._runner(operator.runner).refusal(settings.job(case))
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
        roofs = self._roofs(case, None)
        settings, cost, began = self._settings, operator.cost(case.args), self._now_s()
        before = snapshot(settings.device)
        outcome = runner.run(settings.job(case), settings.max_case_s)
        if outcome.timed is not None and outcome.conditions is None:
            # A runner that takes no readings of its own (several ranks): from set-up to end, without what can't be told from here,
            # which CPU time was the ranks' and which was others'.
            whole = msgspec.structs.replace(between(before, snapshot(settings.device)), others_cpus=None)
            outcome = msgspec.structs.replace(outcome, conditions=whole)
        row = self._row(case, outcome, cost, expected, self._now_s() - began)
        if too_fast(roofs.get(MEASURED, Roof()), row):
            roofs = self._roofs(case, row)
        wrong = too_fast(roofs.get(MEASURED, Roof()), row)
        row = msgspec.structs.replace(row, efficiency=efficiency(roofs, row))
        row = msgspec.structs.replace(row, status="failed", reason=wrong) if wrong else row
        if row.status == "ok" and row.latency_us is not None and outcome.timed is not None and row.duration_s is not None:
            rates.learn(rate_name(operator, cost, case.provider), expected.call_s, row.latency_us.min / 1e6)
            timing_s = outcome.timed.warm_up_s + outcome.timed.sampling_s
            rates.learn_case(timing_s=timing_s, setup_s=max(0.0, row.duration_s - timing_s), setup_bytes=expected.setup_bytes)
        return row

    def _row(self, case: Case, outcome: Outcome, cost: Cost, expected: Estimate, duration_s: float) -> Row:
        """Of a case that a runner was given, however it ended: rates from the analytic cost, what the caches held."""
        settings, timed = self._settings, outcome.timed
        io_bytes = cost.read_bytes + cost.write_bytes
        row = msgspec.structs.replace(
            plain_row(case, settings.device, outcome.status, outcome.reason, expected),
            note=outcome.note,
            flops=cost.flops,
            flops_dtype=cost.flops_dtype,
            read_bytes=cost.read_bytes,
            write_bytes=cost.write_bytes,
            bytes=io_bytes,
            intensity=cost.flops / io_bytes if io_bytes else None,
            ranks=outcome.ranks,
            skew=outcome.skew,
            check=outcome.checked,
            timed=timed,
            threads=self.hellos[OPERATORS[case.op].runner].threads,
            conditions=outcome.conditions,
            duration_s=round(duration_s, 3),
            ended_unix_ns=time.time_ns(),
        )
        if timed is None:
            return row
        latency = latency_of(timed)
        nanoseconds, link_bytes = latency.p50 * 1000, outcome.link_bytes or 0
        return msgspec.structs.replace(
            row,
            latency_us=latency,
            noise=noise_of(timed, settings.rules.precision),
            tflops=cost.flops / nanoseconds / 1000 if nanoseconds and cost.flops else None,
            mem_bw_gbs=io_bytes / nanoseconds if nanoseconds and io_bytes else None,
            alg_bw_gbs=link_bytes / nanoseconds if nanoseconds and link_bytes else None,
            bus_bw_gbs=link_bytes * (outcome.bus_factor or 1.0) / nanoseconds if nanoseconds and link_bytes else None,
            buffers=_buffers(timed, cost, settings.cache_bytes),
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


BUDGET_SPENT = "the budget is spent"


def _size(count: int) -> str:
    size = count / 2**30
    if size < 0.1:
        return f"{count / 2**20:.3g} MiB"
    return f"{size:,.0f} GiB" if size >= 100 else f"{size:.3g} GiB"


def _buffers(timed: Timed, cost: Cost, cache_bytes: int) -> str:
    """What the caches held, in words: part of the figure's meaning."""
    if timed.buffer_sets == 1:
        return "hot: one set of buffers"
    total = timed.buffer_sets * cost.read_bytes
    what = f"{timed.buffer_sets} sets of inputs in turn, {total / 2**20:.0f} MiB"
    return f"cold: {what}" if total >= COLD_CACHES * cache_bytes else f"warm: {what}, for a cache of {cache_bytes / 2**20:.0f} MiB"
