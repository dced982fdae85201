"""`bmp-llm sweep`: every point an ordinary run on an engine that starts once, below one folder that tells of them all."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

import msgspec

from bytemlperf.errors import UserError
from bytemlperf.runs.records import grouped
from bytemlperf.runs.suite import SuiteRun
from bytemlperf_llm.plan.flags import Flags
from bytemlperf_llm.plan.plan import Plan, resolve, with_server
from bytemlperf_llm.points.driver import Driver
from bytemlperf_llm.points.flags import comparable
from bytemlperf_llm.points.point import Drain, PointRun, rate_found
from bytemlperf_llm.run import preflight
from bytemlperf_llm.run.started import Started, started_engine
from bytemlperf_llm.sweep.auto import MOST_RATES, next_rate
from bytemlperf_llm.sweep.axes import AUTO_LEVEL, Axes, CurveAxes, Level, axes_of
from bytemlperf_llm.sweep.flags import SweepFlags
from bytemlperf_llm.sweep.kind import rows_of
from bytemlperf_llm.sweep.row import PointRow, row_of

KIND_NAME = "sweep"
LEAST_REQUESTS = 60
"""Of a point at what the server carries: enough to tell an overload from a queue that wanders."""
LEAST_OF_ANY = 12
"""Expected requests of any point: enough for a median, also where fewer come than expected."""


def sweep(flags: Flags, given: SweepFlags, argv: list[str]) -> int:
    """Measure every point, and leave the folder; its path is the last line on standard output. Returns the exit status. Raises UserError
    before the first point."""
    axes = axes_of(given)
    flags = with_server(flags)
    plans = {curve.name: resolve(curve.flags(flags)) for curve in axes.curves}
    scenario = plans[axes.curves[0].name].load.scenario
    if scenario.prompts.sessions is not None and not (axes.loads and axes.loads[0].concurrency):
        raise UserError(
            f"rates are of requests, and scenario '{scenario.name}' has sessions", "give --concurrency 1,2,4,8: numbers of users"
        )
    for curve in axes.curves:
        for load in axes.loads:
            load.planned(curve.flags(flags))
    return Sweep(flags, given, axes, plans, argv).published()


class Sweep(Driver):
    def __init__(self, flags: Flags, given: SweepFlags, axes: Axes, plans: dict[str, Plan], argv: list[str]) -> None:
        super().__init__(KIND_NAME, list(plans.values()), argv, given.resume)
        self._flags, self._given, self._axes, self._plans = flags, given, axes, plans
        self._rows: list[PointRow] = []
        self._tried: set[tuple[str, Level]] = set()

    def _config(self) -> dict[str, Any]:
        axes = {name: self._redactor.deep(value) for name, value in self._given.recorded().items() if name != "resume"}
        return {"flags": comparable(self._flags.recorded(), self._redactor), "axes": axes}

    def _begin(self, started: Started) -> None:
        """Write the folder, where it isn't yet. Raises UserError."""
        if not self.suite.begun:
            one_engine = len({curve.engine_options for curve in self._axes.curves}) == 1  # others may mean another dtype
            self._open(started, self._config(), one_engine=one_engine)

    def _add(self, row: PointRow) -> None:
        """Keep a point. Raises UserError."""
        self.suite.append(row)
        self._rows.append(row)
        self._tried.add((row.curve, row.load))
        self._say(_sentence(row))

    async def run(self) -> None:
        """All curves, those of the same engine options on one started engine. Raises UserError before the first point."""
        if self._resumed:
            self._refuse_other_flags(self.suite.run.get("config"), self._config())
            self._rows = rows_of(self.suite.records())
        left = (curve for curve in self._axes.curves if not self._whole(curve))
        groups = grouped(left, lambda curve: curve.engine_options)
        if not groups:
            raise UserError(f"{self._given.resume} has every point", "show it with: bmp report")
        self._say(self._length())
        for curves in groups.values():
            async with AsyncExitStack() as stack:
                try:
                    engine = started_engine(self._plans[curves[0].name], self._redactor, self._say, self.suite.folder)
                    started = await stack.enter_async_context(engine)
                except UserError as error:
                    self._skip(curves, error)
                    continue
                await self._measured(started, curves)
            if self.status:
                return

    def _length(self) -> str:
        """How much there is to do, for a person."""
        curves, until = len(self._axes.curves), self._plan.load.scenario
        auto = f"{f'{curves} curves of ' if curves > 1 else ''}8 to {MOST_RATES} points of at least"
        points = f"{len(self._axes.loads) * curves} points of" if self._axes.loads else auto
        bounds = [f"{bound:g} {unit}" for bound, unit in ((until.duration_s, "s"), (until.num_requests, "requests")) if bound is not None]
        return f"{points} {' or '.join(bounds) or 'the whole trace'} each; between them the queue drains"

    async def _measured(self, started: Started, curves: list[CurveAxes]) -> None:
        for place, curve in enumerate(curves):
            try:
                plan = await started.ready(self._plans[curve.name])
                drain = await Drain.of(started, plan)
                ceiling_rps = None if self._axes.loads else await self._ceiling(started, curve, plan)
            except UserError as error:
                if len(self._axes.curves) > 1:
                    self._begin(started)
                self._skip([curve], error)
                continue
            self._begin(started)
            if not await self._curve(started, curve, drain, ceiling_rps):
                if not self.status:
                    self._skip(curves[place:], UserError("the server no longer responds", "resume with --resume once it does"))
                return

    def _skip(self, curves: list[CurveAxes], error: UserError) -> None:
        """Rows for points that can't be measured. Raises the error where nothing was before."""
        if not self.suite.begun:
            raise error
        for curve in curves:
            kept = {row.load for row in self._rows if row.curve == curve.name and row.folder}
            for load in self._axes.loads or (AUTO_LEVEL,):
                if load not in kept:
                    self._add(PointRow(curve=curve.name, load=load, state="skipped", why=self._redactor(f"{error.cause}: {error.fix}")))

    def _done(self, curve: CurveAxes) -> dict[Level, PointRow]:
        """Points whose figures are the server's, and those that this command has tried."""
        rows = [row for row in self._rows if row.curve == curve.name]
        return {row.load: row for row in rows if (row.curve, row.load) in self._tried or (row.state == "measured" and not row.of_client)}

    def _whole(self, curve: CurveAxes) -> bool:
        return bool(self._axes.loads) and self._done(curve).keys() >= set(self._axes.loads)

    async def _curve(self, started: Started, curve: CurveAxes, drain: Drain, ceiling_rps: float | None) -> bool:
        """Whether the server still answers after it, and nobody stopped the sweep."""
        while (load := self._next(curve, ceiling_rps)) is not None:
            row = await self._point(started, curve, load, ceiling_rps)
            if row.state == "measured" and not await drain.drained():
                row = msgspec.structs.replace(row, state="interrupted", why="the server died: it no longer responds")
            self._add(row)
            if row.state == "interrupted":
                return False
        return True

    def _next(self, curve: CurveAxes, ceiling_rps: float | None) -> Level | None:
        done = self._done(curve)
        if ceiling_rps is None:
            return next((load for load in self._axes.loads if load not in done), None)
        rate = next_rate(ceiling_rps, {load.rate_rps: row.verdict for load, row in done.items() if load.rate_rps is not None})
        return None if rate is None else Level(rate_rps=rate)

    async def _ceiling(self, started: Started, curve: CurveAxes, plan: Plan) -> float:
        """Requests/s that a closed loop carried; of a curve that goes on, as it was found."""
        kept = next((row.ceiling_rps for row in self._rows if row.curve == curve.name and row.ceiling_rps is not None), None)
        if kept is not None:
            return kept
        found = await rate_found(started, plan)
        return found.rate_per_s / found.share

    async def _point(self, started: Started, curve: CurveAxes, load: Level, ceiling_rps: float | None) -> PointRow:
        folder = self.suite.folder
        place = len(list(folder.glob("*/run.json")))
        flags = curve.flags(self._flags).changed(seed=self._flags.seed + place + 1, label=f"{place:02}-{load.short}")
        plan = preflight.fit_prompts(_long_enough(load.planned(flags), flags, load, ceiling_rps), started.model, started.info)
        suite = SuiteRun.reserve(folder, "llm", plan.output.label)
        try:
            summary, self.status = await PointRun(suite, started, plan, self._argv, quiet=plan.output.run.quiet).ended()
        except UserError as error:
            if not suite.run.get("config"):
                return PointRow(curve=curve.name, load=load, state="skipped", why=f"{error.cause}: {error.fix}")
            raise
        if self.status:
            return PointRow(curve=curve.name, load=load, state="interrupted", why="stopped by the user", folder=suite.folder.name)
        row = row_of(curve.name, suite.folder.name, suite.run, summary, suite.records())
        return msgspec.structs.replace(row, load=load, ceiling_rps=ceiling_rps)


def _long_enough(plan: Plan, flags: Flags, load: Level, ceiling_rps: float | None) -> Plan:
    """Of a slow server the points last longer than its scenario has it, where no flag says how long."""
    duration_s = plan.load.scenario.duration_s
    given = flags.num_prompts is not None or flags.duration_s is not None
    if given or ceiling_rps is None or load.rate_rps is None or duration_s is None:
        return plan
    return plan.with_scenario({"duration_s": max(duration_s, LEAST_REQUESTS / ceiling_rps, LEAST_OF_ANY / load.rate_rps)})


def _sentence(row: PointRow) -> str:
    head = ", ".join(part for part in (row.curve, str(row.load)) if part)
    if row.state != "measured":
        return f"{head}: {row.state}: {row.why}"
    figures = (
        ("request_throughput", "{:.4g} requests/s"),
        ("ttft p50", "TTFT {:.4g} ms"),
        ("tpot p50", "TPOT {:.4g} ms"),
        ("e2e p50", "E2E {:.4g} ms"),
    )
    shown = [text.format(row.figures[metric].value) for metric, text in figures if metric in row.figures]
    return f"{head}: {row.verdict}: {', '.join(shown)} (p50)" if shown else f"{head}: {row.verdict}: {row.why}"
