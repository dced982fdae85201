"""One probe on real load: an ordinary run folder under one load, on an engine that is started already; looked at while it runs, and ended
as soon as it has said enough. Sessions that have begun then go on to their end, so that none is cut."""

from __future__ import annotations

from array import array
from typing import Any, NamedTuple

from bytemlperf.lazy import numpy
from bytemlperf.runs.folder import part
from bytemlperf.runs.suite import SuiteRun
from bytemlperf.statistics.columns import Column
from bytemlperf.statistics.looks import looks, spent
from bytemlperf.units import NS_PER_MS
from bytemlperf_llm.capacity.cost import Rates
from bytemlperf_llm.capacity.judge import Look, look_at
from bytemlperf_llm.capacity.loads import Loads
from bytemlperf_llm.capacity.probe import Plan as ProbePlan
from bytemlperf_llm.capacity.probe import Probe, is_enough
from bytemlperf_llm.capacity.result import ProbeRow, Question
from bytemlperf_llm.live.in_order import InOrder, latencies_ns
from bytemlperf_llm.loadgen.sessions import PARENT_FAILED
from bytemlperf_llm.metrics.definitions import due_ns
from bytemlperf_llm.metrics.until import METRICS
from bytemlperf_llm.plan.plan import Plan
from bytemlperf_llm.points.point import PointRun
from bytemlperf_llm.record.record import RequestRecord
from bytemlperf_llm.run.bench import Ending
from bytemlperf_llm.run.started import Started

SESSION = "session"
"""The service level of whole sessions."""
CLIENTS = ("client-limited", "invalid")
"""Verdicts of a run that say nothing of the server."""


def meets(record: RequestRecord, slo_ms: dict[str, float]) -> dict[str, bool]:
    """Whether it met each level of requests. One that brought a single token has no TPOT, and so meets it; one that failed or brought none
    meets none."""
    latencies = latencies_ns(record) if record.outcome == "ok" else {}
    return {
        name: bool(latencies) and (latencies[METRICS[name]] or 0) <= limit * NS_PER_MS for name, limit in request_levels(slo_ms).items()
    }


def request_levels(slo_ms: dict[str, float]) -> dict[str, float]:
    """Service levels without that of whole sessions."""
    return {name: limit for name, limit in slo_ms.items() if name != SESSION}


class Columns(InOrder):
    """A run's live metrics that keep of each request what a probe is judged by, by its place in the schedule."""

    def __init__(self, slo_ms: dict[str, float]) -> None:
        super().__init__()
        self._slo_ms = slo_ms
        self._columns = {name: array("q") for name in ("missed", "latency", "due", *slo_ms)}

    def add(self, record: RequestRecord) -> None:
        """All but those that were never sent; a turn whose parent failed was to be sent."""
        if record.outcome != "dropped" or record.error_detail == PARENT_FAILED:
            super().add(record)

    def keep(self, record: RequestRecord) -> None:
        due, latency = due_ns(record), latencies_ns(record).get("ttft" if "ttft" in self._slo_ms else "e2e")
        due = record.end_ns if due is None else due
        self._put(record.index, due, record.end_ns - due if latency is None else latency, meets(record, self._slo_ms))

    def _put(self, place: int, due: int, latency: int, met: dict[str, bool]) -> None:
        for name, value in {"missed": not all(met.values()), "latency": latency, "due": due, **met}.items():
            column = self._columns[name]
            column.extend([0] * (place + 1 - len(column)))
            column[place] = value

    def _first(self, name: str, count: int) -> Column:
        return numpy.frombuffer(self._columns[name], "i8", count).copy()

    def first(self, count: int) -> tuple[Column, Column, Column]:
        """Missed, latency and due time of the first of the schedule."""
        return self._first("missed", count), self._first("latency", count), self._first("due", count)

    def met(self, count: int) -> dict[str, float]:
        """Shares of the first that met each level."""
        return {name: float(self._first(name, count).mean()) for name in self._slo_ms}


class SessionColumns(Columns):
    """The same of whole sessions: their time is the latency, and of the levels of requests each turn must meet all."""

    def __init__(self, slo_ms: dict[str, float]) -> None:
        super().__init__(slo_ms)
        self._turns: dict[int, list[_Turn]] = {}
        self._sizes: dict[int, int] = {}
        self._next_index = 0

    def add(self, record: RequestRecord) -> None:
        first_index = record.index - record.turn
        turn = _Turn(record.planned_ns, record.end_ns, record.outcome == "ok", meets(record, self._slo_ms))
        self._turns.setdefault(first_index, []).append(turn)
        self._sizes[first_index] = record.session_turns
        while len(self._turns.get(self._next_index, ())) == self._sizes.get(self._next_index):
            self._put_session(self._turns.pop(self._next_index))
            self._next_index += self._sizes.pop(self._next_index)
            self.whole += 1

    def _put_session(self, turns: list[_Turn]) -> None:
        start_ns, end_ns = min(turn.planned_ns for turn in turns if turn.planned_ns is not None), max(turn.end_ns for turn in turns)
        met = {name: all(turn.met[name] for turn in turns) for name in request_levels(self._slo_ms)}
        met[SESSION] = all(turn.ok for turn in turns) and end_ns - start_ns <= self._slo_ms[SESSION] * NS_PER_MS
        self._put(self.whole, start_ns, end_ns - start_ns, met)


class _Turn(NamedTuple):
    """What is kept of a turn until its session is whole."""

    planned_ns: int | None
    end_ns: int
    ok: bool
    met: dict[str, bool]


class Looks:
    """Looks at a probe whenever so many of its requests, turns or sessions have ended that it is time to. `last` is the latest."""

    last: Look | None = None

    def __init__(self, probe: ProbePlan, columns: Columns, share: float, *, ends_itself: bool) -> None:
        self._probe, self._columns, self._share, self._ends_itself = probe, columns, share, ends_itself

    def is_enough(self) -> bool:
        """Whether it may end now; one that `ends_itself` is left to where its last look is due."""
        sizes, enough = looks(self._probe.first, self._probe.limit), False
        for place, size in enumerate(sizes):
            if enough or size > self._columns.whole or (self.last is not None and size <= self.last.requests):
                continue
            self.last = look_at(*self._columns.first(size), self._share, self._probe.errors.times(spent(sizes, place)))
            enough = not (self._ends_itself and size == sizes[-1]) and is_enough(self._probe, self.last, self._share)
        return enough


class ProbeRun(PointRun):
    """A point that is looked at while it runs."""

    def __init__(
        self, run: SuiteRun, started: Started, plan: Plan, argv: list[str], question: Question, probe: ProbePlan, loads: Loads
    ) -> None:
        plan = plan.with_scenario(loads.changes(probe.load, probe.limit))
        self._columns = (SessionColumns if question.judged == "sessions" else Columns)(question.slo_ms)
        super().__init__(run, started, plan, argv, self._columns, enough=self._is_enough)
        self._probe = probe
        self._looks = Looks(probe, self._columns, question.goal.share, ends_itself=question.by == "rate")

    async def probed(self) -> ProbeRow:
        """Run it; its folder is complete then. Nothing is judged where the user stopped it, or where too few
        requests ended. Raises UserError, or Interrupted."""
        ending = await self.sent()
        if not self.ended_early and not ending.stopped:
            self._is_enough()
        return self._ended_as(ending)

    def unjudged(self, why: str) -> ProbeRow:
        """Its row, where it counts for nothing; `why` is a word of `result.STOPPED`."""
        requests = part(self._run.run, "end").get("issued_requests", 0)
        return ProbeRow.not_judged(self._run.folder.name, self._probe.load, self._probe.purpose, requests, why)

    def _ended_as(self, ending: Ending) -> ProbeRow:
        look = self._looks.last
        summary = self._run.end(stopped=ending.stopped, report=self._plan.output.report, **ending.facts)
        if look is None or ending.stopped:
            return self.unjudged("interrupted" if ending.stopped else "client")
        limited = summary["verdict"] in CLIENTS and summary["outcomes"]["ok"] > 0
        reason = str(summary["reasons"][0]) if limited else ""
        probe = Probe(self._probe.load, look, self._probe.purpose, reason, self._probe.errors)
        return ProbeRow.of(self._run.folder.name, probe, self._columns.met(look.requests), _rates(summary))

    def _is_enough(self) -> bool:
        return self._looks.is_enough()


def _rates(summary: dict[str, Any]) -> Rates:
    output, prompts = ((summary["rates"].get(f"{name}_token_throughput") or {}).get("value") for name in ("output", "input"))
    energy = summary.get("energy") or {}
    watts, source = energy.get("watts"), energy.get("source", "")
    return Rates(output_tokens_per_s=output, input_tokens_per_s=prompts, watts=watts, watts_source=source)
