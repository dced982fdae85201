"""One probe on real load: an ordinary run folder, open loop at one rate, on an engine that is started already; looked at while it runs,
and ended as soon as it has said enough."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

from bytemlperf.lazy import numpy
from bytemlperf.runs.suite import SuiteRun
from bytemlperf.statistics.columns import ABSENT, Column
from bytemlperf.units import NS_PER_MS
from bytemlperf_llm.capacity.judge import Look, look_at, looks, spent
from bytemlperf_llm.capacity.search import Plan as ProbePlan
from bytemlperf_llm.capacity.search import Probe, Search
from bytemlperf_llm.live.metrics import LlmMetrics
from bytemlperf_llm.loadgen.pacer import Pacer
from bytemlperf_llm.loadgen.replay import LoadSource
from bytemlperf_llm.metrics.definitions import due_ns, token_times, tpot_ns
from bytemlperf_llm.plan.plan import Plan
from bytemlperf_llm.points.point import PointRun
from bytemlperf_llm.record.record import RequestRecord
from bytemlperf_llm.run.bench import Ending, Ready
from bytemlperf_llm.run.started import Started
from engines.contract import Engine

POLL_S = 0.1
CLIENTS = ("client-limited", "invalid")
"""Verdicts of a run that say nothing of the server."""


def levels_of(record: RequestRecord) -> dict[str, int | None]:
    """What service levels are held against, in ns; None for what a request doesn't have. As `metrics.rates.goodput`."""
    stamps, due = token_times(record).stamps_ns, due_ns(record)
    if not stamps or due is None:
        return {}
    first, last = stamps[0], stamps[-1]
    return {"ttft": first - due, "tpot": tpot_ns(first, last, record.output_tokens), "e2el": last - due}


def meets(record: RequestRecord, slo_ms: dict[str, float]) -> dict[str, bool]:
    """Whether it met each level: all, one that brought a single token and so has no TPOT; none, one that failed or brought none."""
    levels = levels_of(record) if record.outcome == "ok" else {}
    return {name: bool(levels) and (levels[name] or 0) <= limit * NS_PER_MS for name, limit in slo_ms.items()}


class Columns(LlmMetrics):
    """A run's live metrics that keep of each request what a probe is judged by, by its place in the schedule."""

    def __init__(self, requests: int, slo_ms: dict[str, float]) -> None:
        super().__init__()
        self._slo_ms = slo_ms
        self._due, self._latency = (numpy.full(requests, ABSENT, "i8") for _ in range(2))
        self._met = {name: numpy.zeros(requests, "i8") for name in slo_ms}
        self._all = numpy.zeros(requests, "i8")
        self.whole = 0  # so many from the first have ended, without a gap

    def ended(self, record: RequestRecord) -> None:
        super().ended(record)
        due, place = due_ns(record), record.index
        if due is None or record.outcome == "dropped":
            return
        levels, met = levels_of(record), meets(record, self._slo_ms)
        latency = levels.get("ttft" if "ttft" in self._slo_ms else "e2el")
        self._due[place], self._latency[place] = due, record.end_ns - due if latency is None else latency
        for name, good in met.items():
            self._met[name][place] = good
        self._all[place] = all(met.values())
        while self.whole < len(self._due) and self._due[self.whole] != ABSENT:
            self.whole += 1

    def first(self, requests: int) -> tuple[Column, Column, Column]:
        """Missed, latency and due time of the first requests of the schedule."""
        return 1 - self._all[:requests], self._latency[:requests], self._due[:requests]

    def met(self, requests: int) -> dict[str, float]:
        """Shares of the first requests that met each level."""
        return {name: float(column[:requests].mean()) for name, column in self._met.items()}


@dataclass(frozen=True)
class Probed:
    """What a probe said; None where the user stopped it, or where too few requests ended."""

    probe: Probe | None
    met: dict[str, float]
    stopped_by_user: bool


class ProbeRun(PointRun):
    """A point that is looked at while it runs. `slo_ms` are the service levels: ttft, tpot, e2el."""

    def __init__(
        self, run: SuiteRun, started: Started, plan: Plan, argv: list[str], slo_ms: dict[str, float], probe: ProbePlan, search: Search
    ) -> None:
        arrival = {"process": "poisson", "rate": probe.rate, "burstiness": 1.0, "ramp": None, "max_concurrency": None}
        load = plan.load
        scenario = load.scenario.override({"arrival": arrival, "num_requests": probe.limit, "duration_s": None})
        plan = replace(plan, load=replace(load, scenario=scenario, seed=load.seed + len(search.probes)))
        self._columns = Columns(probe.limit, slo_ms)
        super().__init__(run, started, plan, argv, self._columns)
        self._probe, self._search = probe, search
        self._load: LoadSource | None = None
        self._enough = False
        self._look: Look | None = None

    def _load_source(self, ready: Ready, engine: Engine, pacer: Pacer) -> LoadSource:
        self._load = super()._load_source(ready, engine, pacer)
        return self._load

    async def probed(self) -> Probed:
        """Run it; its folder is complete then. Raises UserError, or Interrupted."""
        looking = asyncio.ensure_future(self._watch())
        try:
            ending = await self.sent()
        finally:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)
        if not self._enough and not ending.stopped:
            self._look_again()
        return self._ended_as(ending)

    def _ended_as(self, ending: Ending) -> Probed:
        run, look = self._run, self._look
        if self._enough:
            self._shortened(ending)
        summary = run.end(stopped=ending.stopped and not self._enough, report=self._plan.output.report, **ending.facts)
        if look is None or (ending.stopped and not self._enough):
            return Probed(None, {}, ending.stopped and not self._enough)
        limited = summary["verdict"] in CLIENTS and summary["outcomes"]["ok"] > 0
        reason = str(summary["reasons"][0]) if limited else ""
        return Probed(Probe(self._probe.rate, look, self._probe.purpose, reason), self._columns.met(look.requests), stopped_by_user=False)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(POLL_S)
            self._look_again()
            if self._enough and self._load is not None:
                self._load.stop()
                return

    def _look_again(self) -> None:
        """At every look whose requests have ended by now."""
        sizes = looks(self._probe.first, self._probe.limit)
        for place, size in enumerate(sizes):
            if self._enough or size > self._columns.whole or (self._look is not None and size <= self._look.requests):
                continue
            errors = self._probe.errors.times(spent(sizes, place))
            self._look = look_at(*self._columns.first(size), self._search.goal.share, errors)
            self._enough = size < self._probe.limit and self._search.enough(self._probe, self._look)

    def _shortened(self, ending: Ending) -> None:
        """run.json is that of a run of the requests that were sent: their schedule begins as the longer one does."""
        load = self._plan.load
        sent = load.scenario.override({"num_requests": ending.facts["issued_requests"]})
        plan = replace(self._plan, load=replace(load, scenario=sent))
        kept = {name: self._run.run[name] for name in ("started_at", "clock_origin_ns", "environment")}
        facts = self._run.run["facts"]
        self.describe(plan)
        self._run.run |= kept
        self._run.run["facts"]["loop_utilisation"] = facts["loop_utilisation"]
