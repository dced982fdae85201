"""`bmp-llm capacity`: probes on one started engine, under one folder, until the search is over; then a confirming run and an answer."""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean
from typing import NamedTuple

import msgspec

from bytemlperf.command.signals import Interrupted, interrupt_status
from bytemlperf.errors import UserError
from bytemlperf.hardware import cards
from bytemlperf.hardware.machine import discover
from bytemlperf.hardware.measured import device_of
from bytemlperf.runs.folder import part
from bytemlperf.runs.suite import SuiteRun
from bytemlperf.units import NS_PER_MS, NS_PER_S
from bytemlperf_llm.capacity.cost import hardware_of
from bytemlperf_llm.capacity.flags import CapacityFlags
from bytemlperf_llm.capacity.loads import Loads, by_of
from bytemlperf_llm.capacity.probe import Plan as ProbePlan
from bytemlperf_llm.capacity.probing import ProbeRun, meets, request_levels
from bytemlperf_llm.capacity.result import ProbeRow, Question, question_of, search_of
from bytemlperf_llm.capacity.search import Goal, Search
from bytemlperf_llm.kind import KIND as LLM
from bytemlperf_llm.live.in_order import latencies_ns
from bytemlperf_llm.metrics.until import METRICS
from bytemlperf_llm.plan.flags import Flags
from bytemlperf_llm.plan.plan import SLO_KEYS, Plan, resolve
from bytemlperf_llm.points.driver import Driver
from bytemlperf_llm.points.flags import comparable
from bytemlperf_llm.points.point import Drain, rate_found
from bytemlperf_llm.record.record import RequestRecord
from bytemlperf_llm.run.description import described_engine
from bytemlperf_llm.run.started import Started, started_engine

FIRST_OF_AUTO = 0.5
"""Of the rate that `auto` would run at, for the first probe."""


def goal_of(asked: CapacityFlags) -> Goal:
    """Raises UserError where it can't be reached."""
    if asked.share >= 1:
        raise UserError("--share 1: no number of requests shows that none ever misses", "give a share below 1, such as 0.99")
    text = asked.within.strip()
    try:
        within = float(text.removesuffix("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        within = 0.0
    if not 0 < within <= 1:
        raise UserError(f"--within {asked.within!r} is not a width", "give percent, such as 5%")
    goal = Goal(share=asked.share, confidence=asked.confidence, within=within)
    confirming = confirmation(asked, goal)
    least = 8 * goal.needed + confirming
    if least > asked.max_requests:
        raise UserError(
            f"a share of {asked.share:g} at {asked.confidence:.4g} confidence needs at least {goal.needed:,} requests a probe, "
            f"{least:,} in all, and --max-requests is {asked.max_requests:,}",
            f"give --max-requests {least} or more, or a lower --share",
        )
    return Goal(share=asked.share, confidence=asked.confidence, within=within, max_requests=asked.max_requests - confirming)


def bounded(goal: Goal, loads: Loads) -> Goal:
    """The goal with what the loads allow. Raises UserError where a data set has too few requests."""
    if loads.requests is not None and loads.requests < goal.needed:
        raise UserError(
            f"the data set has {loads.requests:,} {loads.judged}, and a probe needs {goal.needed:,} at least",
            "take a larger one, or a lower --share",
        )
    return msgspec.structs.replace(goal, whole=loads.by in ("concurrency", "sessions"), longest=loads.requests, turnover=loads.turnover)


def confirmation(asked: CapacityFlags, goal: Goal) -> int:
    return goal.needed if asked.confirm is None else asked.confirm


class Task(NamedTuple):
    """What is searched, and on what; the first load is not known yet."""

    plan: Plan
    loads: Loads
    question: Question


def task_of(flags: Flags, asked: CapacityFlags) -> Task:
    """Raises UserError where it can't be answered."""
    goal = goal_of(asked)
    hardware_of(asked.price_per_hour, None)
    by = by_of(asked.by)
    if (flags.max_concurrency if by == "rate" else flags.request_rate) is not None:
        flag, right = ("--max-concurrency", "--request-rate") if by == "rate" else ("--request-rate", "--max-concurrency")
        raise UserError(f"{flag} is no load of --by {by}", f"give the load of the first probe with {right}")
    plan = resolve(flags)
    loads = Loads.of(plan, by, goal)
    goal = bounded(goal, loads)
    if any(keys.slo for keys in plan.load.scenario.classes.values()):
        raise UserError("a capacity has one set of service levels, and the scenario's classes have their own", "give --goodput, for all")
    slo_ms = {name: limit for name, key in SLO_KEYS.items() if (limit := getattr(plan.load.scenario.slo, key)) is not None}
    if not slo_ms:
        raise UserError("a capacity needs service levels, and the scenario has none", "give --goodput ttft:500 tpot:50, in milliseconds")
    return Task(plan, loads, Question(goal=goal, slo_ms=slo_ms, first_load=0.0, by=loads.by, judged=loads.judged))


def capacity(flags: Flags, asked: CapacityFlags, argv: list[str]) -> int:
    """Search, and leave the folder; its path is the last line on standard output. Returns the exit status. Raises UserError."""
    return Hunt(task_of(flags, asked), asked, argv).published()


class Hunt(Driver):
    def __init__(self, task: Task, asked: CapacityFlags, argv: list[str]) -> None:
        super().__init__("capacity", [task.plan], argv, asked.resume)
        self._asked, self._question, self._loads = asked, task.question, task.loads
        self._rows: list[ProbeRow] = []

    async def run(self) -> None:
        """Engine, first rate, probes, confirming run. Raises UserError, before the first probe or of a full disk."""
        if self._resumed:
            self._refuse_other_question()
        async with started_engine(self._plan, self._redactor, self._say, self.suite.folder) as started:
            plan = await started.ready(self._plan)
            drain = await Drain.of(started, plan)
            self._lone_requests_meet(drain.records)
            if not self._resumed:
                await self._complete_question(started, plan, drain.records)
            flags = comparable(self._plan.flags, self._redactor)
            self._open(started, {"flags": flags, "search": msgspec.to_builtins(self._question)})
            self.stopped_because = await self._search(started, plan, drain)

    # -- the folder ------------------------------------------------------------------

    async def _complete_question(self, started: Started, plan: Plan, lone: list[RequestRecord]) -> None:
        """With the first load, how long a lone session takes, and what is known of the hardware."""
        first_load = await self._first_load(started, plan)
        if self._question.by == "session_rate":
            turn_s = self._loads.think_s + fmean(record.end_ns - (record.sent_ns or 0) for record in lone) / NS_PER_S
            goal = msgspec.structs.replace(self._question.goal, turnover=(self._loads.turnover or 1.0) * self._loads.turns * turn_s)
            self._question = msgspec.structs.replace(self._question, goal=goal)
        config = {"flags": comparable(self._plan.flags, self._redactor), "engine_options": plan.engine.options}
        engine = described_engine(started.info, plan.engine.name)
        stated = {"engine": engine, "config": config, "environment": {"hardware": discover()}}
        hardware = hardware_of(self._asked.price_per_hour, device_of(stated, cards.load(), told=LLM.devices_used(stated)))
        self._question = msgspec.structs.replace(self._question, first_load=first_load, hardware=hardware)

    def _refuse_other_question(self) -> None:
        """Raises UserError where the folder's search isn't the one that these flags ask for."""
        run = self.suite.run
        before, now = question_of(run), self._question
        one, other = ((asked.slo_ms, asked.by, asked.goal.share, asked.goal.confidence) for asked in (before, now))
        flags = msgspec.to_builtins(comparable(self._plan.flags, self._redactor))
        self._refuse_other_flags((one, part(run, "config", "flags")), (other, flags))
        hardware = before.hardware if self._asked.price_per_hour is None else hardware_of(self._asked.price_per_hour, None)
        goal = msgspec.structs.replace(now.goal, turnover=before.goal.turnover)
        self._question = msgspec.structs.replace(before, goal=goal, hardware=hardware)
        self._rows = list(self.suite.records())

    def _keep(self, row: ProbeRow) -> None:
        self._rows.append(row)
        self.suite.append(row)

    # -- the engine ------------------------------------------------------------------

    def _lone_requests_meet(self, records: list[RequestRecord]) -> None:
        """Raises UserError where requests on their own miss a level: no load can hold then."""
        for name, limit_ms in request_levels(self._question.slo_ms).items():
            if not any(meets(record, {name: limit_ms})[name] for record in records):
                reached = [level / NS_PER_MS for record in records if (level := latencies_ns(record).get(METRICS[name])) is not None]
                best = f"{min(reached):.4g} ms at best" if reached else "none of them had a response"
                raise UserError(
                    f"even a lone request misses {name}:{limit_ms:g}: {best} of {len(records)}", "give a longer level, or shorter requests"
                )

    async def _first_load(self, started: Started, plan: Plan) -> float:
        arrival, whole = plan.load.scenario.arrival, self._question.goal.whole
        given = arrival.max_concurrency if whole else arrival.rate
        if given is not None and given != "auto":
            return float(given)
        found = await rate_found(started, plan)
        if not whole:
            return float(f"{found.arrivals_per_s * FIRST_OF_AUTO:.3g}")
        return max(1.0, round((found.best.concurrency + found.rate_per_s / found.share * self._loads.think_s) * FIRST_OF_AUTO))

    # -- the search ------------------------------------------------------------------

    async def _search(self, started: Started, plan: Plan, drain: Drain) -> str:
        """Probe until it is over; why."""
        search = search_of(self._question, self._rows)
        while (probe := self._next(search)) is not None:
            suite = SuiteRun.reserve(self.suite.folder, "llm", f"{len(self._rows):02}-{probe.load:g}")
            run = ProbeRun(suite, started, self._with_own_seed(plan), self._argv, self._question, probe, self._loads)
            try:
                with suite:
                    row = await run.probed()
            except Interrupted as interrupted:
                row, self.status = run.unjudged("interrupted"), 128 + interrupted.number
            if row.unjudged == "interrupted":
                self.status = self.status or interrupt_status()
            elif not await drain.drained():
                row = run.unjudged("server")
            self._keep(row)
            if row.unjudged:
                return row.unjudged
            search.tell(row.probe())
            self._say(
                f"{self._question.load_text(row.load)}: {1 - row.missed:.2%} of {row.judged} {self._question.judged} met every level: "
                f"{row.outcome}{f' ({row.note})' if row.note else ''}"
            )
        return search.stopped_because() or "requests"

    def _with_own_seed(self, plan: Plan) -> Plan:
        """With a seed of the next probe's own, so that neither arrivals nor prompts repeat."""
        return replace(plan, load=replace(plan.load, seed=plan.load.seed + len(self._rows)))

    def _next(self, search: Search) -> ProbePlan | None:
        confirm = confirmation(self._asked, self._question.goal)
        return search.plan() or (search.confirming(confirm) if confirm else None)
