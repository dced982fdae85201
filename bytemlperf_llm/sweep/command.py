"""`bmp-llm sweep`: every point an ordinary run on an engine that starts once, below one folder that tells of them all."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any

import msgspec

from bytemlperf.command.console import sayer
from bytemlperf.command.signals import interrupt_status
from bytemlperf.errors import UserError
from bytemlperf.redaction import Redactor, option_secrets
from bytemlperf.report.terminal import publish
from bytemlperf.runs.suite import SuiteRun
from bytemlperf_llm.loadgen.loops import loop_factory
from bytemlperf_llm.plan.flags import Flags
from bytemlperf_llm.plan.plan import Plan, resolve, with_server
from bytemlperf_llm.points.flags import comparable
from bytemlperf_llm.points.point import Drain, PointRun, rate_found
from bytemlperf_llm.run import preflight
from bytemlperf_llm.run.description import described_engine
from bytemlperf_llm.run.started import Started, started_engine
from bytemlperf_llm.run.trust import refuse_other_engine
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
    with ExitStack() as stack:
        under_way = Sweep(stack, flags, given, axes, plans, ["bmp-llm", *argv[1:]])
        try:
            with asyncio.Runner(loop_factory=loop_factory()) as runner:
                runner.run(under_way.run())
        except KeyboardInterrupt:  # between two points
            if under_way.suite is None:
                raise
            under_way.status = interrupt_status()
        except UserError as error:
            if under_way.suite is not None:
                under_way.suite.fail(error.cause)
            raise
        return under_way.ended()


class Sweep:
    """One sweep on real load. `suite` is its folder, from the first engine's start on; `status` the exit status of a stop by the user."""

    suite: SuiteRun | None = None
    status = 0

    def __init__(self, stack: ExitStack, flags: Flags, given: SweepFlags, axes: Axes, plans: dict[str, Plan], argv: list[str]) -> None:
        self._stack = stack
        self._flags, self._given, self._axes, self._plans, self._argv = flags, given, axes, plans, argv
        self._redactor = Redactor(secret for plan in plans.values() for secret in option_secrets(plan.engine.options))
        self._say = sayer(quiet=flags.quiet, clean=self._redactor)
        self._rows: list[PointRow] = []
        self._before: SuiteRun | None = None
        self._tried: set[tuple[str, Level]] = set()

    # -- the folder -----------------------------------------------------------------------------

    def _config(self) -> dict[str, Any]:
        axes = {name: self._redactor.deep(value) for name, value in self._given.recorded().items() if name != "resume"}
        return {"flags": comparable(self._flags.recorded(), self._redactor), "axes": axes}

    def _stopped(self, folder: Path) -> SuiteRun:
        """A sweep that is to go on, as it was left. Raises UserError."""
        run = self._stack.enter_context(SuiteRun.open(folder, KIND_NAME))
        if run.run.get("config") != self._config():
            raise UserError(f"{folder} is a sweep with other flags", "give those of its own command again; see its run.json")
        self._rows = rows_of(run.records())
        return run

    def _opened(self, started: Started) -> SuiteRun:
        """The folder, to be written from now on. Raises UserError."""
        if self._before is not None:
            if len({curve.engine_options for curve in self._axes.curves}) == 1:  # others may mean another dtype
                refuse_other_engine(self._before.run, started.info)
            self._before.go_on(command=self._argv, redactor=self._redactor)
            return self._before
        output = self._plans[self._axes.curves[0].name].output
        run = self._stack.enter_context(SuiteRun.reserve(output.run.runs_dir, KIND_NAME, output.label))
        engine = described_engine(started.info, self._flags.engine)
        about: dict[str, Any] = {"versions": started.info.versions, "more": {"engine": engine}, "redactor": self._redactor}
        run.describe(self._config(), command=self._argv, seed=self._flags.seed, **about)
        return run

    def _add(self, row: PointRow) -> None:
        """Keep a point. Raises UserError."""
        self._suite().append(row)
        self._rows.append(row)
        self._tried.add((row.curve, row.load))
        self._say(_told(row))

    def _suite(self) -> SuiteRun:
        assert self.suite is not None
        return self.suite

    def ended(self) -> int:
        """Summary, page, and what is printed; the exit status."""
        run, output = self._suite(), self._plans[self._axes.curves[0].name].output
        summary = run.end(stopped=bool(self.status), report=output.report)
        status = publish(run.folder, summary, output.run, run=run.run, records=run.records())
        return self.status or status

    # -- the points -----------------------------------------------------------------------------

    async def run(self) -> None:
        """All curves, those of the same engine options on one started engine. Raises UserError before the first point."""
        if self._given.resume is not None:
            self._before = self._stopped(self._given.resume)
        groups: dict[tuple[str, ...], list[CurveAxes]] = {}
        for curve in self._axes.curves:
            if not self._whole(curve):
                groups.setdefault(curve.engine_options, []).append(curve)
        if not groups:
            raise UserError(f"{self._given.resume} has every point", "show it with: bmp report")
        self._say(self._length())
        for curves in groups.values():
            async with AsyncExitStack() as stack:
                try:
                    engine = started_engine(self._plans[curves[0].name], self._redactor, self._say)
                    started = await stack.enter_async_context(engine)
                except UserError as error:
                    self._skip(curves, error)
                    continue
                await self._measured(started, curves)
            if self.status:
                return

    def _length(self) -> str:
        """How much there is to do, for a person."""
        curves, until = len(self._axes.curves), self._plans[self._axes.curves[0].name].load.scenario
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
                self.suite = self.suite or (self._opened(started) if len(self._axes.curves) > 1 else None)
                self._skip([curve], error)
                continue
            self.suite = self.suite or self._opened(started)
            if not await self._curve(started, curve, drain, ceiling_rps):
                if not self.status:
                    self._skip(curves[place:], UserError("the server no longer answers", "go on with --resume once it does"))
                return

    def _skip(self, curves: list[CurveAxes], error: UserError) -> None:
        """Rows for points that can't be measured. Raises the error where nothing was before."""
        if self.suite is None:
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
                row = msgspec.structs.replace(row, state="interrupted", why="the server died: it no longer answers")
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
        folder = self._suite().folder
        place = sum(path.is_dir() for path in folder.iterdir())
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


def _told(row: PointRow) -> str:
    """A point in a line."""
    head = ", ".join(part for part in (row.curve, str(row.load)) if part)
    if row.state != "measured":
        return f"{head}: {row.state}: {row.why}"
    figures = (
        ("request_throughput", "{:.4g} requests/s"),
        ("ttft p50", "TTFT {:.4g} ms"),
        ("tpot p50", "TPOT {:.4g} ms"),
        ("e2e p50", "E2E {:.4g} ms"),
    )
    told = [text.format(row.figures[metric].value) for metric, text in figures if metric in row.figures]
    return f"{head}: {row.verdict}: {', '.join(told)} (p50)" if told else f"{head}: {row.verdict}: {row.why}"
