"""One probe on real load: an ordinary run folder, open loop at one rate, on an engine that is started already; looked at while it runs,
and ended as soon as it has said enough."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bytemlperf.hardware.power import PowerMeter, Watts
from bytemlperf.lazy import numpy
from bytemlperf.runs.suite import SuiteRun
from bytemlperf.statistics.columns import Column
from bytemlperf.statistics.looks import looks, spent
from bytemlperf.units import NS_PER_MS
from bytemlperf_llm.capacity.cost import NO_RATES, Rates
from bytemlperf_llm.capacity.judge import Look, look_at
from bytemlperf_llm.capacity.loads import Loads
from bytemlperf_llm.capacity.probe import Plan as ProbePlan
from bytemlperf_llm.capacity.probe import Probe, is_enough
from bytemlperf_llm.capacity.result import Question
from bytemlperf_llm.live.in_order import InOrder, latencies_ns
from bytemlperf_llm.metrics.definitions import due_ns
from bytemlperf_llm.metrics.until import METRICS
from bytemlperf_llm.plan.plan import Plan
from bytemlperf_llm.points.point import PointRun
from bytemlperf_llm.record.record import RequestRecord
from bytemlperf_llm.run.bench import Ending
from bytemlperf_llm.run.started import Started

POLLS_A_SAMPLE = 10
"""Looks, a tenth of a second apart, for each reading of power."""
CLIENTS = ("client-limited", "invalid")
"""Verdicts of a run that say nothing of the server."""


def meets(record: RequestRecord, slo_ms: dict[str, float]) -> dict[str, bool]:
    """Whether it met each level: all, one that brought a single token and so has no TPOT; none, one that failed or brought none."""
    latencies = latencies_ns(record) if record.outcome == "ok" else {}
    return {name: bool(latencies) and (latencies[METRICS[name]] or 0) <= limit * NS_PER_MS for name, limit in slo_ms.items()}


class Columns(InOrder):
    """A run's live metrics that keep of each request what a probe is judged by, by its place in the schedule."""

    def __init__(self, requests: int, slo_ms: dict[str, float]) -> None:
        super().__init__()
        self._slo_ms = slo_ms
        self._due, self._latency, self._all = (numpy.zeros(requests, "i8") for _ in range(3))
        self._met = {name: numpy.zeros(requests, "i8") for name in slo_ms}

    def add(self, record: RequestRecord) -> None:
        """All but those that were never sent."""
        if record.outcome != "dropped" and due_ns(record) is not None:
            super().add(record)

    def keep(self, record: RequestRecord) -> None:
        due, place, met = due_ns(record) or 0, record.index, meets(record, self._slo_ms)
        latency = latencies_ns(record).get("ttft" if "ttft" in self._slo_ms else "e2e")
        self._due[place], self._latency[place] = due, record.end_ns - due if latency is None else latency
        for name, good in met.items():
            self._met[name][place] = good
        self._all[place] = all(met.values())

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
    rates: Rates = NO_RATES


class ProbeRun(PointRun):
    """A point that is looked at while it runs."""

    def __init__(
        self, run: SuiteRun, started: Started, plan: Plan, argv: list[str], question: Question, probe: ProbePlan, loads: Loads
    ) -> None:
        plan = plan.with_scenario(loads.changes(probe.load, probe.limit))
        self._columns = Columns(plan.load.scenario.num_requests or probe.limit, question.slo_ms)
        super().__init__(run, started, plan, argv, self._columns, enough=self._is_enough)
        self._probe, self._question = probe, question
        self._last_look: Look | None = None
        self._meter = None if started.engine.weights == "remote" else PowerMeter()
        self._polls = 0

    async def probed(self) -> Probed:
        """Run it; its folder is complete then. Raises UserError, or Interrupted."""
        ending = await self.sent()
        of_gpu = self._started.info.device.lower() not in ("cpu", "none")
        watts = None if self._meter is None else self._meter.watts(of_gpu=of_gpu)
        if not self.ended_early and not ending.stopped:
            self._is_enough()
        return self._ended_as(ending, watts)

    def _ended_as(self, ending: Ending, watts: Watts | None) -> Probed:
        look = self._last_look
        summary = self._run.end(stopped=ending.stopped, report=self._plan.output.report, **ending.facts)
        if look is None or ending.stopped:
            return Probed(None, {}, ending.stopped)
        limited = summary["verdict"] in CLIENTS and summary["outcomes"]["ok"] > 0
        reason = str(summary["reasons"][0]) if limited else ""
        probe = Probe(self._probe.load, look, self._probe.purpose, reason, self._probe.errors)
        return Probed(probe, self._columns.met(look.requests), stopped_by_user=False, rates=_rates(summary, watts))

    def _is_enough(self) -> bool:
        """Look whenever so many requests have ended that it is time to."""
        self._polls += 1
        if self._meter is not None and self._polls % POLLS_A_SAMPLE == 0:
            self._meter.sample()
        sizes, enough = looks(self._probe.first, self._probe.limit), False
        for place, size in enumerate(sizes):
            if enough or size > self._columns.whole or (self._last_look is not None and size <= self._last_look.requests):
                continue
            errors = self._probe.errors.times(spent(sizes, place))
            self._last_look = look_at(*self._columns.first(size), self._question.goal.share, errors)
            whole = size == self._probe.limit and self._question.by == "rate"  # ends by itself
            enough = not whole and is_enough(self._probe, self._last_look, self._question.goal.share)
        return enough


def _rates(summary: dict[str, Any], watts: Watts | None) -> Rates:
    output, prompts = ((summary["rates"].get(f"{name}_token_throughput") or {}).get("value") for name in ("output", "input"))
    power = (None, "") if watts is None else watts
    return Rates(output_tokens_per_s=output, input_tokens_per_s=prompts, watts=power[0], watts_source=power[1])
