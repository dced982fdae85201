"""`bmp-llm capacity`: probes on one started engine, under one folder, until the search is over; then a confirming run and an answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from bytemlperf.command.console import print_sections, sayer, terminal
from bytemlperf.command.signals import Interrupted, interrupt_status
from bytemlperf.errors import UserError
from bytemlperf.redaction import Redactor, option_secrets
from bytemlperf.runs.folder import create_run_folder
from bytemlperf.runs.suite import SuiteRun
from bytemlperf.units import NS_PER_MS
from bytemlperf_llm.capacity.flags import CapacityFlags
from bytemlperf_llm.capacity.probing import Probed, ProbeRun, levels_of, meets
from bytemlperf_llm.capacity.result import Capacity, ProbeRow, read_capacity
from bytemlperf_llm.capacity.search import Goal
from bytemlperf_llm.engine_registry import engine_class
from bytemlperf_llm.loadgen.loops import loop_factory
from bytemlperf_llm.loadgen.pacer import real_pacer
from bytemlperf_llm.plan.flags import Flags
from bytemlperf_llm.plan.plan import Plan, resolve
from bytemlperf_llm.points.point import lone
from bytemlperf_llm.run import preflight
from bytemlperf_llm.run.started import Started, start
from bytemlperf_llm.workload.schedule import Schedule

LONE_REQUESTS = 3
FIRST_OF_AUTO = 0.5
"""Of the rate that `auto` would run at, for the first probe."""
EXIT_NOTHING, EXIT_INTERRUPTED = 1, 130
LEVELS = {"ttft": "ttft_ms", "tpot": "tpot_ms", "e2el": "e2e_ms"}


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


def confirmation(asked: CapacityFlags, goal: Goal) -> int:
    return goal.needed if asked.confirm is None else asked.confirm


def capacity(flags: Flags, asked: CapacityFlags, argv: list[str]) -> int:
    """Search, and leave the folder; its path is the last line on standard output. Returns the exit status. Raises UserError."""
    goal = goal_of(asked)
    if flags.base_url is not None and flags.engine == Flags().engine:
        flags = flags.changed(engine="openai")
    plan = resolve(flags)
    slo_ms = {name: limit for name, key in LEVELS.items() if (limit := getattr(plan.load.scenario.slo, key)) is not None}
    if not slo_ms:
        raise UserError("a capacity needs service levels, and the scenario has none", "give --goodput ttft:500 tpot:50, in milliseconds")
    hunt = Hunt(flags, asked, goal, slo_ms, ["bmp-llm", *argv[1:]])
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(hunt.run(plan))
    except KeyboardInterrupt:  # between two probes
        if hunt.found is None:
            raise
        hunt.status = interrupt_status()
        hunt.found.concluded(hunt.found.search(), "interrupted").write(hunt.folder)
    assert hunt.found is not None
    found = hunt.found
    if not flags.quiet:
        print_sections(terminal(), found.sections())
    print(hunt.folder)
    if found.stopped_because == "interrupted":
        return hunt.status
    return EXIT_NOTHING if found.holds_at_rps is None else 0


class Hunt:
    """One search on real load."""

    found: Capacity | None = None
    folder: Path
    status = EXIT_INTERRUPTED

    def __init__(self, flags: Flags, asked: CapacityFlags, goal: Goal, slo_ms: dict[str, float], argv: list[str]) -> None:
        self._flags, self._asked, self._goal, self._slo_ms, self._argv = flags, asked, goal, slo_ms, argv
        self._redactor = Redactor()
        say = sayer(quiet=flags.quiet)
        self._say: Callable[[str], None] = lambda text: say(self._redactor(text))

    async def run(self, plan: Plan) -> None:
        """Engine, first rate, probes, confirming run. Raises UserError before the first probe."""
        before = None if self._asked.resume is None else self._before(self._asked.resume)
        engine_type = engine_class(plan.engine.name)
        self._redactor = Redactor(option_secrets(plan.engine.options))
        async with AsyncExitStack() as stack:
            engine = engine_type()
            stack.push_async_callback(engine.close)
            started = await start(engine, plan, self._redactor, self._say)
            plan = await started.ready(plan)
            await self._lone_requests_meet(started, plan)
            if before is None:
                first_rate = await self._first_rate(started, plan)
                self.folder = create_run_folder(plan.output.runs_dir, "capacity", plan.output.label)
                about = {"name": plan.engine.name, "model": started.info.model, "versions": started.info.versions}
                self.found = Capacity(
                    command=self._redactor.command(self._argv),
                    flags=self._recorded(),
                    engine=about,
                    goal=self._goal,
                    slo_ms=self._slo_ms,
                    first_rate_rps=first_rate,
                )
            else:
                self.folder, self.found = before
            await self._search(started, plan)

    async def _lone_requests_meet(self, started: Started, plan: Plan) -> None:
        """Raises UserError where requests on their own miss a level: no rate can hold then."""
        records = [await lone(started, plan, place) for place in range(LONE_REQUESTS)]
        for name, limit_ms in self._slo_ms.items():
            if records and not any(meets(record, {name: limit_ms})[name] for record in records):
                reached = [level / NS_PER_MS for record in records if (level := levels_of(record).get(name)) is not None]
                best = f"{min(reached):.4g} ms at best" if reached else "none of them was answered"
                raise UserError(
                    f"even a lone request misses {name}:{limit_ms:g}: {best} of {len(records)}", "give a longer level, or shorter requests"
                )

    async def _first_rate(self, started: Started, plan: Plan) -> float:
        load = plan.load
        rate = load.scenario.arrival.rate
        if isinstance(rate, float):
            return rate
        auto = load.scenario.override({"arrival": {"process": "poisson", "rate": "auto", "max_concurrency": None}})
        plan = replace(plan, load=replace(load, scenario=auto))
        workload = Schedule(auto, load.seed).workload()
        with closing(real_pacer()) as pacer:
            resolved, found = await preflight.resolve_rate(plan, started.engine, workload, pacer, self._redactor)
        if found is not None:
            self._say(found.sentence())
        return float(f"{float(resolved.arrival.rate or 1.0) * FIRST_OF_AUTO:.3g}")  # type: ignore[arg-type]

    def _recorded(self) -> dict[str, Any]:
        """Of the flags, what another search must have in common with this one."""
        aside = ("headers", "quiet", "runs_dir", "label", "api_key_file")
        flags = {name: value for name, value in self._flags.recorded().items() if name not in aside}
        return self._redactor.deep(flags)  # type: ignore[return-value]

    def _before(self, folder: Path) -> tuple[Path, Capacity]:
        found = read_capacity(folder)
        asked = (self._recorded(), self._slo_ms, self._goal.share, self._goal.confidence)
        if (found.flags, found.slo_ms, found.goal.share, found.goal.confidence) != asked:
            raise UserError(f"{folder} is a search with other flags", "give those of its own command again; see its capacity.json")
        found.goal = self._goal
        return folder, found

    async def _search(self, started: Started, plan: Plan) -> None:
        found = self.found
        assert found is not None
        search, reason = found.search(), None
        while reason is None:
            probe = search.plan() or (search.confirming(confirm) if (confirm := confirmation(self._asked, self._goal)) else None)
            if probe is None:
                reason = search.stopped_because() or "requests"
                break
            run = SuiteRun.reserve(self.folder, "llm", f"{len(search.probes):02}-{probe.rate:g}rps")
            try:
                with run:
                    probed = await ProbeRun(run, started, plan, self._argv, self._slo_ms, probe, search).probed()
            except Interrupted as interrupted:
                probed, self.status = Probed(None, {}, stopped_by_user=True), 128 + interrupted.number
            if probed.stopped_by_user:
                reason = "interrupted"
            elif (await lone(started, plan, 100 + len(search.probes))).outcome != "ok":
                reason = "server"
            elif probed.probe is None:
                reason = "client"
            else:
                search.tell(probed.probe)
                row = ProbeRow.of(run.folder.name, probed.probe, probed.met)
                found.probes.append(row)
                note = row.client_limited or ("" if row.steady else "unsteady")
                self._say(
                    f"{row.rate_rps:g} requests/s: {1 - row.missed:.2%} of {row.judged} requests met every level: "
                    f"{row.outcome}{f' ({note})' if note else ''}"
                )
            found.concluded(search, reason or "").write(self.folder)
        found.concluded(search, reason).write(self.folder)
