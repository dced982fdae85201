"""One of several runs on an engine that is started already: an ordinary run folder, and what comes between two of them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import Any

from bytemlperf.command.signals import Interrupted, interrupt_status
from bytemlperf.runs.suite import SuiteRun
from bytemlperf.units import NS_PER_S
from bytemlperf_llm.live.metrics import LlmMetrics
from bytemlperf_llm.loadgen.pacer import Pacer, real_pacer
from bytemlperf_llm.loadgen.probe import ProbeResult
from bytemlperf_llm.loadgen.recorder import monotonic_ns
from bytemlperf_llm.loadgen.replay import worker_config
from bytemlperf_llm.loadgen.worker import Worker, WorkerConfig
from bytemlperf_llm.metrics.definitions import token_times
from bytemlperf_llm.plan.plan import Plan
from bytemlperf_llm.record.record import RequestRecord
from bytemlperf_llm.run import preflight
from bytemlperf_llm.run.bench import Bench, Ending, Ready
from bytemlperf_llm.run.cache import prepare_cache
from bytemlperf_llm.run.description import described
from bytemlperf_llm.run.rebuild import AS_IS
from bytemlperf_llm.run.started import Started
from bytemlperf_llm.workload.schedule import ALL, Schedule

LONE_REQUESTS = 3
SLOW, SLACK_NS = 2, 10_000_000
"""A lone request that waits so many times as long as the slowest of the first ones did, and so much longer, waits behind others."""
DRAIN_S = 60


class PointRun(Bench):
    """The measured part of `serve-bench`. The plan's rate is resolved; `argv` is the command that the folder names."""

    def __init__(
        self,
        run: SuiteRun,
        started: Started,
        plan: Plan,
        argv: list[str],
        metrics: LlmMetrics | None = None,
        *,
        enough: Callable[[], bool] | None = None,
        quiet: bool = True,
    ) -> None:
        engine_type, metrics = type(started.engine), metrics or LlmMetrics()
        super().__init__(run, plan, engine_type, argv, metrics, started.redactor, started.say, quiet=quiet, enough=enough)
        self._started, self._cache = started, AS_IS

    async def sent(self) -> Ending:
        """Send it all. Raises UserError, or Interrupted."""
        started, before = self._started, self._plan
        scenario, self._cache = await prepare_cache(started.engine, before.load.scenario, before.load.seed, started.say)
        self._plan = plan = before.with_scenario({"prompts.salt": scenario.prompts.salt})
        planned = self.describe(plan)
        tokenizer = preflight.answer_tokenizer(plan.load.scenario, started.model, started.info)
        workers = self._worker_count(plan.load.scenario, planned)
        ready = Ready(plan, self.schedule(), planned, workers, started.model, tokenizer)
        with closing(real_pacer()) as pacer:  # of its own: one that a stop has interrupted waits no more
            return await self._measure(ready, started.engine, pacer)

    async def ended(self) -> tuple[dict[str, Any], int]:
        """Send it all and end its folder. The summary, empty where the run was interrupted before it could have one, and the exit
        status of a stop by the user, 0 where there was none. Raises UserError."""
        try:
            with self._run as run:
                ending = await self.sent()
                summary = run.end(stopped=ending.stopped, report=self._plan.output.report, **ending.facts)
        except Interrupted as interrupted:
            return {}, 128 + interrupted.number
        return summary, interrupt_status() if ending.stopped else 0

    def schedule(self) -> Schedule:
        return Schedule(self._plan.load.scenario, self._plan.load.seed)

    def describe(self, plan: Plan) -> int | None:
        """Write run.json of this plan; returns how many requests its schedule has. Raises UserError where it has none."""
        planned = Schedule(plan.load.scenario, plan.load.seed).describe()
        if planned.requests == 0:
            raise preflight.empty_schedule(plan.load.scenario)
        about = described(plan, plan.load.scenario, self._started.info, planned, None, self._cache, self._started.model)
        self._run.describe(**about, command=self._argv, redactor=self._redactor, log=None)
        return planned.requests


async def lone(started: Started, plan: Plan, place: int) -> RequestRecord:
    """One request of the plan on its own, under the run's time limits, outside of every run: after what was in flight is drained,
    whether the server still answers."""
    scenario, kept = plan.load.scenario, preflight.Kept()
    timeouts = worker_config(scenario, ALL, keep_output=False).timeouts
    request = Schedule(scenario, plan.load.seed).workload().aside(place, "lone")
    worker = Worker(started.engine, kept, Pacer(monotonic_ns), WorkerConfig(timeouts=timeouts), redactor=started.redactor)
    await worker.run_closed(iter([request]), 1, monotonic_ns())
    return kept.records[0]


async def rate_found(started: Started, plan: Plan) -> ProbeResult:
    """What `rate: auto` finds for requests of the plan. Raises UserError."""
    plan = plan.with_scenario({"arrival": {"process": "poisson", "rate": "auto", "max_concurrency": None}})
    workload = Schedule(plan.load.scenario, plan.load.seed).workload()
    with closing(real_pacer()) as pacer:
        _, found = await preflight.resolve_rate(plan, started.engine, workload, pacer, started.redactor)
    assert found is not None
    started.say(found.sentence())
    return found


class Drain:
    """Between two runs: lone requests, until one is answered as fast as those before the first run, `records`."""

    def __init__(self, started: Started, plan: Plan, records: list[RequestRecord]) -> None:
        self._started, self._plan, self.records = started, plan, records
        self._usual_ns = max(_wait_ns(record) for record in records)
        self._place = LONE_REQUESTS

    @classmethod
    async def of(cls, started: Started, plan: Plan) -> Drain:
        """On a server that has nothing else to do."""
        return cls(started, plan, [await lone(started, plan, place) for place in range(LONE_REQUESTS)])

    async def drained(self) -> bool:
        """Whether the server still answers. A queue that is there after `DRAIN_S` is said, and what comes next starts on it."""
        until_ns = monotonic_ns() + DRAIN_S * NS_PER_S
        while True:
            self._place += 1
            record = await lone(self._started, self._plan, self._place)
            if record.outcome != "ok":
                return False
            if _wait_ns(record) <= SLOW * self._usual_ns + SLACK_NS:
                return True
            if monotonic_ns() > until_ns:
                self._started.say(
                    f"warning: {DRAIN_S} s after the last request the server is still busy; the next point starts on its queue"
                )
                return True


def _wait_ns(record: RequestRecord) -> int:
    """From sending to the first token; to the end, where none came."""
    stamps = token_times(record).stamps_ns
    return (stamps[0] if stamps else record.end_ns) - (record.sent_ns or 0)
