"""`bmp-llm sweep`: every point an ordinary run on an engine that starts once, below one folder that tells of them all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack, closing
from typing import Any

import msgspec

from bytemlperf.command.console import sayer, terminal
from bytemlperf.command.signals import Interrupted, interrupt_status
from bytemlperf.errors import UserError
from bytemlperf.redaction import Redactor, option_secrets
from bytemlperf.report.terminal import print_run
from bytemlperf.runs.folder import write_json
from bytemlperf.runs.suite import SuiteRun
from bytemlperf_llm.engine_registry import engine_class
from bytemlperf_llm.loadgen.loops import loop_factory
from bytemlperf_llm.loadgen.pacer import real_pacer
from bytemlperf_llm.plan.flags import Flags
from bytemlperf_llm.plan.plan import Plan, resolve
from bytemlperf_llm.points.point import Drain, PointRun
from bytemlperf_llm.run import preflight
from bytemlperf_llm.run.started import Started, start
from bytemlperf_llm.sweep.auto import next_rate
from bytemlperf_llm.sweep.axes import AUTO_LEVEL, Axes, CurveAxes, Level, axes_of, with_scenario
from bytemlperf_llm.sweep.flags import SweepFlags
from bytemlperf_llm.sweep.kind import KIND, rows_of
from bytemlperf_llm.sweep.row import PointRow, row_of
from bytemlperf_llm.workload.schedule import Schedule

NAME = "sweep.json"
LEAST_REQUESTS = 60
"""Of a point at what the server carries: enough to tell an overload from a queue that wanders."""
NOT_COMPARED = ("headers", "quiet", "runs_dir", "label", "api_key_file", "report")


def sweep(flags: Flags, given: SweepFlags, argv: list[str]) -> int:
    """Measure every point, and leave the folder; its path is the last line on standard output. Returns the exit status. Raises UserError
    before the first point."""
    axes = axes_of(given)
    if flags.base_url is not None and flags.engine == Flags().engine:
        flags = flags.changed(engine="openai")
    plans = {curve.name: resolve(curve.flags(flags)) for curve in axes.curves}
    for curve in axes.curves:
        for load in axes.loads:
            load.planned(curve.flags(flags))
    under_way = Sweep(flags, given, axes, plans, ["bmp-llm", *argv[1:]])
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(under_way.run())
    except KeyboardInterrupt:  # between two points
        if under_way.suite is None:
            raise
        under_way.status = interrupt_status()
    finally:
        if under_way.suite is not None:
            under_way.end()
    assert under_way.suite is not None
    return under_way.shown()


class Sweep:
    """One sweep on real load. `suite` is its folder, from the first engine's start on; `status` the exit status of a stop by the user."""

    suite: SuiteRun | None = None
    status = 0

    def __init__(self, flags: Flags, given: SweepFlags, axes: Axes, plans: dict[str, Plan], argv: list[str]) -> None:
        self._flags, self._given, self._axes, self._plans, self._argv = flags, given, axes, plans, argv
        self._redactor = Redactor(secret for plan in plans.values() for secret in option_secrets(plan.engine.options))
        say = sayer(quiet=flags.quiet)
        self._say: Callable[[str], None] = lambda text: say(self._redactor(text))
        self._rows: list[PointRow] = []

    # -- the folder -----------------------------------------------------------------------------

    def _opened(self, started: Started) -> SuiteRun:
        """A new folder, or the one that goes on. Raises UserError."""
        config = {
            "flags": self._redactor.deep(self._flags.recorded() | {"headers": None}),
            "axes": self._redactor.deep(self._given.recorded()),
        }
        if self._given.resume is not None:
            run = SuiteRun.open(self._given.resume, "sweep")
            if _compared(run.run.get("config", {})) != _compared(config):
                raise UserError(f"{run.folder} is a sweep with other flags", "give those of its own command again; see its run.json")
            self._rows = rows_of(run.records())
            run.go_on(command=self._argv, redactor=self._redactor)
            return run
        plan = self._plans[self._axes.curves[0].name]
        run = SuiteRun.reserve(plan.output.runs_dir, "sweep", plan.output.label)
        engine = msgspec.to_builtins(started.info) | {"name": self._flags.engine, "remote": type(started.engine).weights == "remote"}
        more = {"engine": engine}
        run.describe(config, command=self._argv, seed=self._flags.seed, versions=started.info.versions, more=more, redactor=self._redactor)
        return run

    def _add(self, row: PointRow) -> None:
        """Keep a point, and what all of them say so far."""
        assert self.suite is not None
        self.suite.append(row)
        self._rows.append(row)
        write_json(self.suite.folder / NAME, KIND.summarise(self.suite.run, self._rows))
        self._say(_told(row))

    def end(self) -> None:
        """Summary and page."""
        assert self.suite is not None
        self.suite.end(stopped=bool(self.status), report=self._flags.report)
        write_json(self.suite.folder / NAME, KIND.summarise(self.suite.run, self.suite.records()))

    def shown(self) -> int:
        """Print it; the exit status."""
        run = self.suite
        assert run is not None
        summary = run.end()
        if not self._flags.quiet:
            print_run(terminal(), run.folder, run.run, summary, run.records())
        print(run.folder)
        return self.status or KIND.exit_status(summary)

    # -- the points -----------------------------------------------------------------------------

    async def run(self) -> None:
        """All curves, those of the same engine options on one started engine. Raises UserError before the first point."""
        groups: dict[tuple[str, ...], list[CurveAxes]] = {}
        for curve in self._axes.curves:
            groups.setdefault(curve.engine_options, []).append(curve)
        for curves in groups.values():
            if self.suite is not None and all(self._whole(curve) for curve in curves):
                continue
            async with AsyncExitStack() as stack:
                engine = engine_class(self._flags.engine)()
                stack.push_async_callback(engine.close)
                try:
                    started = await start(engine, self._plans[curves[0].name], self._redactor, self._say)
                except UserError as error:
                    self._skip(curves, error)
                    continue
                await self._measured(started, curves)
            if self.status:
                return

    async def _measured(self, started: Started, curves: list[CurveAxes]) -> None:
        for place, curve in enumerate(curves):
            try:
                plan = await started.ready(self._plans[curve.name])
            except UserError as error:
                self.suite = self.suite or (self._opened(started) if len(self._axes.curves) > 1 else None)
                self._skip([curve], error)
                continue
            self.suite = self.suite or self._opened(started)
            if not await self._curve(started, curve, plan):
                left = [] if self.status else curves[place:]
                self._skip(left, UserError("the server no longer answers", "go on with --resume once it does"))
                return

    def _skip(self, curves: list[CurveAxes], error: UserError) -> None:
        """Rows for points that can't be measured. Raises the error where nothing was before."""
        if self.suite is None:
            raise error
        for curve in curves:
            kept = {row.load for row in self._done(curve)}
            loads = [load for load in self._axes.loads or (AUTO_LEVEL,) if load not in kept]
            for load in loads:
                self._add(PointRow(curve=curve.name, load=load, state="skipped", why=self._redactor(f"{error.cause}: {error.fix}")))

    def _done(self, curve: CurveAxes) -> list[PointRow]:
        return [row for row in self._rows if row.curve == curve.name and row.state == "measured"]

    def _whole(self, curve: CurveAxes) -> bool:
        return bool(self._axes.loads) and {row.load for row in self._done(curve)} >= set(self._axes.loads)

    async def _curve(self, started: Started, curve: CurveAxes, plan: Plan) -> bool:
        """Whether the server still answers after it, and nobody stopped the sweep."""
        drain = await Drain.of(started, plan)
        ceiling_rps = None if self._axes.loads else await self._ceiling(started, curve, plan)
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
            seen = {row.load for row in self._rows if row.curve == curve.name and row.state == "measured"}
            return next((load for load in self._axes.loads if load not in seen), None)
        rate = next_rate(ceiling_rps, {row.load.rate_rps: row.verdict for row in done if row.load.rate_rps is not None})
        return None if rate is None else Level(rate_rps=rate)

    async def _ceiling(self, started: Started, curve: CurveAxes, plan: Plan) -> float:
        """Requests/s that a closed loop carried; of a curve that goes on, as it was found."""
        kept = next((row.ceiling_rps for row in self._done(curve) if row.ceiling_rps is not None), None)
        if kept is not None:
            return kept
        auto = with_scenario(plan, {"arrival": {"process": "poisson", "rate": "auto", "max_concurrency": None}})
        with closing(real_pacer()) as pacer:
            workload = Schedule(auto.load.scenario, auto.load.seed).workload()
            _, found = await preflight.resolve_rate(auto, started.engine, workload, pacer, self._redactor)
        assert found is not None
        self._say(found.sentence())
        return found.rate_per_s / found.share

    async def _point(self, started: Started, curve: CurveAxes, load: Level, ceiling_rps: float | None) -> PointRow:
        assert self.suite is not None
        place = len([path for path in self.suite.folder.iterdir() if path.is_dir()])
        flags = curve.flags(self._flags).changed(seed=self._flags.seed + place + 1, label=f"{place:02}-{load.short}")
        plan = preflight.fit_prompts(_long_enough(load.planned(flags), flags, ceiling_rps), started.model, started.info)
        suite = SuiteRun.reserve(self.suite.folder, "llm", plan.output.label)
        stopped, status = False, 0
        try:
            with suite:
                ending = await PointRun(suite, started, plan, self._argv).sent()
                summary = suite.end(stopped=ending.stopped, report=self._flags.report, **ending.facts)
                stopped = ending.stopped
        except Interrupted as interrupted:
            stopped, status = True, 128 + interrupted.number
        except UserError as error:
            if not suite.run.get("config"):
                return PointRow(curve=curve.name, load=load, state="skipped", why=f"{error.cause}: {error.fix}")
            raise
        if stopped:
            self.status = status or interrupt_status()
            return PointRow(curve=curve.name, load=load, state="interrupted", why="stopped by the user", folder=suite.folder.name)
        row = row_of(curve.name, suite.folder.name, suite.run, summary, suite.records())
        return msgspec.structs.replace(row, load=load, ceiling_rps=ceiling_rps)


def _long_enough(plan: Plan, flags: Flags, ceiling_rps: float | None) -> Plan:
    """Of a slow server the points last longer than its scenario has it, where no flag says how long."""
    duration_s = plan.load.scenario.duration_s
    given = flags.num_prompts is not None or flags.duration_s is not None
    if given or ceiling_rps is None or duration_s is None or duration_s * ceiling_rps >= LEAST_REQUESTS:
        return plan
    return with_scenario(plan, {"duration_s": LEAST_REQUESTS / ceiling_rps})


def _compared(config: dict[str, Any]) -> list[dict[str, Any]]:
    """Of the flags, what a sweep that goes on must have in common with this one."""
    parts = (config.get("flags", {}), config.get("axes", {}))
    return [{name: value for name, value in part.items() if name not in (*NOT_COMPARED, "resume")} for part in parts]


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
