"""One `serve-bench`, start to end: plan → engine ready → measured run → records → summary, page, exports, table.

The measured part is `_measure`; around it everything is set-up and tear-down. What the run folder needs is `SuiteRun`'s: the summary
is computed from the records on disk, by the same code as `bmp summarize`.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from time import time_ns
from typing import Any, NamedTuple

import msgspec

from bytemlperf.checked import plain
from bytemlperf.command.signals import Interrupted, draining
from bytemlperf.command.waiting import waiting
from bytemlperf.export.prometheus import serving
from bytemlperf.export.push import pushing, receiver_secrets
from bytemlperf.redaction import Redactor, option_secrets
from bytemlperf.report.dashboard import dashboard
from bytemlperf.runs.files import RECOUNT, damage_said
from bytemlperf.runs.folder import part, write_json
from bytemlperf.runs.suite import SuiteRun
from bytemlperf.runs.verdicts import EXIT_INVALID
from bytemlperf.units import NS_PER_S
from bytemlperf_llm.calibration.first import calibrate_first
from bytemlperf_llm.launch.server import launched
from bytemlperf_llm.live.in_order import UntilNarrow
from bytemlperf_llm.live.metrics import LlmMetrics
from bytemlperf_llm.live.targets import targets_of
from bytemlperf_llm.live.view import LoadView
from bytemlperf_llm.loadgen.engine_start import engine_class
from bytemlperf_llm.loadgen.fleet import Fleet, log_name
from bytemlperf_llm.loadgen.loops import loop_factory
from bytemlperf_llm.loadgen.messages import MemberSpec
from bytemlperf_llm.loadgen.pacer import Pacer, real_pacer
from bytemlperf_llm.loadgen.processes import process_fleet
from bytemlperf_llm.loadgen.ray_fleet import cluster_size, connect, disconnect, ray_fleet
from bytemlperf_llm.loadgen.recorder import monotonic_ns
from bytemlperf_llm.loadgen.replay import Replay, open_log, work_of, worker_config
from bytemlperf_llm.loadgen.sizing import check_splittable, local_size
from bytemlperf_llm.metrics.recount import Counted, merged, read_recount
from bytemlperf_llm.plan.plan import Output, Plan, plan_for
from bytemlperf_llm.plan.scenario import Scenario, folder_of
from bytemlperf_llm.record.gauges import GaugeLog
from bytemlperf_llm.run import preflight
from bytemlperf_llm.run.cache import prepare_cache
from bytemlperf_llm.run.counters import EngineCounters
from bytemlperf_llm.run.description import described, finish_facts, first_requests, reschedule
from bytemlperf_llm.run.devices import Devices
from bytemlperf_llm.run.network import Network
from bytemlperf_llm.run.repeat import same_flags
from bytemlperf_llm.run.resume import Remainder, changed_schedule, extend, read_remainder
from bytemlperf_llm.run.started import start
from bytemlperf_llm.run.trust import refuse_other_engine, unconfirmed
from bytemlperf_llm.spans.receiver import Receiver, receiving
from bytemlperf_llm.spans.traces import Traces
from bytemlperf_llm.workload.schedule import ALL, Schedule, ScheduleFacts
from engines.contract import Engine, EngineInfo, Model

LoadSource = Replay | Fleet
TICK_S = 1.0
LOOK_S = 0.1


class Ending(NamedTuple):
    """How the measured part ended."""

    stopped: bool
    facts: dict[str, Any]


@dataclass(frozen=True)
class Ready:
    """All that the measured part needs: engine started, first requests answered, rate found."""

    plan: Plan
    schedule: Schedule
    requests: int | None
    workers: int
    model: Model | None
    tokenizer: str | None


def resume(
    folder: Path, headers: Sequence[str], base_url: str | None, argv: list[str], *, trust: bool, quiet: bool, requests: int | None = None
) -> int:
    """Send what a stopped run has not sent, of `requests` in all where that is given; then as `serve_bench`."""
    run = SuiteRun.open(folder, "llm")
    with damage_said(folder):
        flags = same_flags(run.run, tuple(headers), base_url, trust=trust)
        if requests is not None:
            extend(run, requests)
            flags = flags.changed(until=None)
        remainder = read_remainder(run)
    return serve_bench(plan_for(flags.changed(quiet=quiet), remainder.scenario), argv, remainder)


def serve_bench(plan: Plan, argv: list[str], remainder: Remainder | None = None) -> int:
    """Run it, or the rest of one, and leave its results; the exit status. The run folder's path is the last line on standard output.
    Raises UserError before the first request, or Interrupted."""
    engine, load, output = plan.engine, plan.load, plan.output
    engine_type = engine_class(engine.name)
    check_splittable(engine_type, engine.name, load.workers, load.ray)
    receivers = receiver_secrets(output.metrics.push_gateway, output.metrics.otlp)
    metrics = LlmMetrics() if load.until is None else UntilNarrow(load.until)
    redactor = Redactor([*option_secrets(engine.options), *receivers])

    def say(sentence: str) -> None:
        if not output.run.quiet:
            print(redactor(sentence), file=sys.stderr, flush=True)

    Schedule(load.scenario, load.seed).workload()  # prompt files are read before anything slow starts
    if remainder is None:
        calibrate_first(plan, say)
    with ExitStack() as around:  # what can't be had is said before there is a run folder
        around.enter_context(serving(metrics.exporter, output.metrics, say))
        show = around.enter_context(dashboard(output.metrics, say))
        spans = around.enter_context(receiving(output.trace_port, say))
        if load.ray is not None:
            connect(load.ray)
            say("WARNING: Ray listens on every interface, in this process too: use a trusted network")
            around.callback(disconnect)
        run = SuiteRun.reserve(output.run.runs_dir, "llm", output.label) if remainder is None else remainder.run
        around.enter_context(run)
        command = ["bmp-llm", *argv[1:]]
        if spans is not None:
            plan = replace(plan, engine=plan.engine.traced(run.folder.name, spans.url))
        bench = Bench(run, plan, engine_type, command, metrics, redactor, say, quiet=output.run.quiet, remainder=remainder, spans=spans)
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            ending = runner.run(bench.measured(show))
        return _publish(run, output, ending)


def _publish(run: SuiteRun, output: Output, ending: Ending) -> int:
    """Summary, page and exports. What can't be written is printed all the same, and said."""
    from bytemlperf.report.terminal import publish
    from bytemlperf_llm.export.files import Exports

    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # nothing here needs BLAS, and its threads cost a tenth of a short run
    exports = Exports(run.folder, output.files, ending.facts["issued_requests"])
    summary = run.end(stopped=ending.stopped, report=output.report, hears=exports.add if exports else None, **ending.facts)
    unwritten = bool(run.unwritten) or exports.close(run.run)
    shown: dict[str, Any] = {"verbose": output.verbose, "files": exports.said}
    status = publish(run.folder, summary, output.run, run=run.run, records=run.records(), **shown)
    return EXIT_INVALID if unwritten else status


class Bench:
    """The pieces of one run, so that each step below can be read alone. A run whose `enough` says so while it goes on ends, and is one of
    the requests that were sent, or of the sessions that had begun: `ended_early`."""

    ended_early = False

    def __init__(
        self,
        run: SuiteRun,
        plan: Plan,
        engine_type: type[Engine],
        argv: list[str],
        metrics: LlmMetrics,
        redactor: Redactor,
        say: Callable[[str], None],
        *,
        quiet: bool,
        remainder: Remainder | None = None,
        enough: Callable[[], bool] | None = None,
        spans: Receiver | None = None,
    ) -> None:
        self._traces = Traces(spans, run, plan.engine.options.get("trace_key", ""), redactor, say)
        self._run, self._plan, self._remainder, self._enough = run, plan, remainder, enough
        self._engine_type, self._argv, self._quiet = engine_type, argv, quiet
        self._metrics, self._redactor, self._say = metrics, redactor, say

    async def measured(self, show: Callable[[Path], None]) -> Ending:
        """All but the results; `show` gets the folder once it tells of a run. Whatever ends it early after the first record leaves
        run.json with how it ended."""
        async with AsyncExitStack() as stack:
            stack.enter_context(pushing(self._metrics.exporter, self._plan.output.metrics, self._run.folder.name, self._warn))
            server = await stack.enter_async_context(launched(self._plan, self._run.folder, self._redactor, self._say))
            engine = self._engine_type()
            stack.push_async_callback(engine.close)
            pacer = real_pacer()
            stack.callback(pacer.close)
            ready = await self._prepare(engine, pacer)
            show(self._run.folder)
            try:
                return await self._measure(ready, engine, pacer)
            finally:
                if server is not None:
                    server.look()
                    self._run.run["launched"] = msgspec.to_builtins(server.facts)

    async def _prepare(self, engine: Engine, pacer: Pacer) -> Ready:
        """Engine, first request, warm-up, rate; ends with run.json as it stands at the start."""
        seed, started = self._plan.load.seed, await start(engine, self._plan, self._redactor, self._say, self._run.folder)
        info, model = started.info, started.model
        if self._remainder is not None:
            refuse_other_engine(self._run.run, info)
        with waiting("waiting for the first response", quiet=self._quiet):
            plan = await started.ready(self._plan)
        for note in info.notes:
            self._say(f"note: {note}")
        scenario = plan.load.scenario
        workload = Schedule(scenario, seed).workload()
        with waiting("finding a rate that the engine carries", quiet=self._quiet):
            resolved, probed = await preflight.resolve_rate(plan, engine, workload, pacer, self._redactor)
        if probed is not None:
            self._say(probed.sentence())
            await asyncio.sleep(0.5)
        left = None if self._remainder is None else self._remainder.left()
        with waiting("preparing the prefix cache", quiet=self._quiet):
            resolved, cache = await prepare_cache(engine, resolved, seed, self._say, left)
        if cache.state == "as-is":
            asides = scenario.warmup_requests + (0 if probed is None else probed.requests)
            cache = msgspec.structs.replace(cache, own=preflight.places_before(Schedule(scenario, seed), asides))
        schedule = Schedule(resolved, seed)
        planned = schedule.describe()
        if planned.requests == 0:
            raise preflight.empty_schedule(resolved)
        for sentence in planned.sentences(resolved.arrivals):
            self._say(sentence)
        workers = self._worker_count(resolved, planned.requests)
        if self._remainder is None:
            described_run = described(plan, resolved, info, planned, probed, cache, model)
            self._run.describe(**described_run, command=self._argv, redactor=self._redactor, log=None)
        else:
            self._go_on(self._remainder, info, planned, workers)
        self._look_for_narrow()
        self._metrics.targets = targets_of(resolved)
        self._metrics.exporter.name_run(self._run.folder.name, self._run.run)
        self._metrics.exporter.set("bmp_requests_planned", planned.requests or 0)
        return Ready(plan, schedule, planned.requests, workers, model, preflight.answer_tokenizer(scenario, model, info))

    def _look_for_narrow(self) -> None:
        """From now on, where `--until` says so; of a run that goes on, with the records that there are."""
        metrics = self._metrics
        if isinstance(metrics, UntilNarrow):
            metrics.budget = part(self._run.run, "config", "until").get("budget")
            for record in () if self._remainder is None else self._run.records():
                metrics.add(record)
            self._enough = metrics.enough

    def _go_on(self, left: Remainder, info: EngineInfo, planned: ScheduleFacts, workers: int) -> None:
        """Raises UserError when the run's schedule is not the one that can be made here."""
        run = self._run
        if planned.sha256 != run.run["schedule_sha256"]:
            raise changed_schedule(run)
        if run.run["scheduled_requests"] is None:
            run.run["facts"]["scheduled_requests"] = None
        run.go_on(command=self._argv, more=left.part(info, workers), redactor=self._redactor, log=None)

    async def _measure(self, ready: Ready, engine: Engine, pacer: Pacer) -> Ending:
        """The measured part. Where it raises, run.json says how it ended."""
        left, run = self._remainder, self._run
        begin_ns, done = (0, 0) if left is None else (left.begin_ns, len(left.done))
        part: dict[str, Any] = run.run if left is None else run.run["resumed"][-1]
        scheduled, scenario = ready.requests, ready.schedule.scenario
        title = f"{ready.plan.engine.name} · {scenario.name} · {scenario.arrival.sentence(sessions=scenario.prompts.sessions is not None)}"
        with LoadView(title, scheduled and scheduled - done, self._metrics, quiet=self._quiet) as view:
            devices = Devices(engine, self._run.run["engine"]["device"], launched=ready.plan.engine.launch is not None)
            source = self._load_source(ready, engine, pacer)
            self._counts = (Network(engine), EngineCounters(engine), devices, self._traces)
            try:
                await source.start()
                for counts in self._counts:
                    await counts.begin()
            except BaseException:
                await source.close()
                run.fail("the load did not start")
                run.end(summarise=False)
                raise
            origin_ns = monotonic_ns() + source.start_delay_ns - begin_ns
            part["clock_origin_ns"] = origin_ns
            part["clock_origin_unix_ns"] = time_ns() - monotonic_ns() + origin_ns
            asked = engine if isinstance(source, Replay) or engine.weights == "remote" else None
            gauges = GaugeLog(asked, run.folder, self._say, devices.seen)
            beside = [asyncio.ensure_future(self._tick(view, gauges, origin_ns, begin_ns)), asyncio.ensure_future(self._look(source))]
            try:
                with draining(source.stop, lambda: source.stopped, self._say):
                    await source.replay(origin_ns)
            except BaseException as error:
                if isinstance(error, Interrupted):
                    trust = " --trust" if unconfirmed(ready.plan.flags, run.run["config"]) else ""
                    error.hint = f"the records so far are kept; resume with: bmp-llm resume {run.folder}{trust}"
                ending = await self._ended(source, gauges, beside, part, done, origin_ns)
                run.end(stopped=ending.stopped, summarise=False, **ending.facts)
                raise
            return await self._ended(source, gauges, beside, part, done, origin_ns)

    async def _ended(
        self, source: LoadSource, gauges: GaugeLog, beside: Sequence[asyncio.Future[None]], part: dict[str, Any], done: int, origin_ns: int
    ) -> Ending:
        """Everything closed; what run.json says of the part that has ended."""
        duration_ns = monotonic_ns() - origin_ns
        run = self._run.run
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
        await source.close()
        for counts in self._counts:
            await counts.end(run)
        gauges.close()
        self._metrics.flush()
        _keep_recount(self._run.folder, source.counted, self._say)
        finish_facts(run, done + source.issued, source.loop_utilisation)
        if workers := source.described():
            run.setdefault("workers", workers)
            part["workers"] = workers
        if source.failure:
            self._run.fail(source.failure)
        issued = done + source.issued
        early = self.ended_early and not (source.stopped and self._plan.load.scenario.prompts.sessions)  # those that are begun go on
        if early:
            reschedule(run, first_requests(run, issued))
        stopped = source.stopped and not source.failure and not early
        return Ending(stopped, {"issued_requests": issued, "duration_ns": duration_ns})

    def _load_source(self, ready: Ready, engine: Engine, pacer: Pacer) -> LoadSource:
        """One worker in this process, or a fleet. Raises UserError."""
        scenario, load, left = ready.schedule.scenario, ready.plan.load, self._remainder
        if ready.workers > 1 or load.ray is not None:
            return self._fleet(ready)
        return Replay(
            engine,
            pacer,
            open_log(self._run.folder / ("records.jsonl" if left is None else log_name(left.next_log()))),
            self._metrics,
            work_of(ready.schedule, ALL, None if left is None else left.left()),
            worker_config(scenario, ALL, keep_output=ready.plan.output.keep_output),
            max_error_rate=load.max_error_rate,
            redactor=self._redactor,
            tokenizer=ready.tokenizer,
        )

    def _worker_count(self, scenario: Scenario, scheduled: int | None) -> int:
        """How many workers; of a run that goes on, by what is left. Raises UserError."""
        load = self._plan.load
        chosen = local_size if load.ray is None else cluster_size
        requests = scheduled if scheduled is None or self._remainder is None else scheduled - len(self._remainder.done)
        workers, why = chosen(load.workers, scenario, requests)
        if why:
            self._say(why)
        return workers

    def _fleet(self, ready: Ready) -> Fleet:
        """Raises UserError."""
        plan, load, left = ready.plan, ready.plan.load, self._remainder
        common = MemberSpec(
            engine=plan.engine.name,
            engine_options=plan.engine.options,
            model=ready.model,
            scenario=plain(ready.schedule.scenario),
            scenario_folder=folder_of(ready.schedule.scenario),
            seed=load.seed,
            workers=ready.workers,
            keep_output=plan.output.keep_output,
            live=not self._quiet,
            left=None if left is None else left.left(),
            tokenizer=ready.tokenizer,
        )
        make = process_fleet if load.ray is None else ray_fleet
        return make(common, self._run.folder, self._metrics, self._say, load.max_error_rate, 0 if left is None else left.next_log())

    async def _tick(self, view: LoadView, gauges: GaugeLog, origin_ns: int, begin_ns: int) -> None:
        gauges.sample(begin_ns)  # an engine that asks a server has its first answer later
        while True:
            await asyncio.sleep(TICK_S)
            now_ns = monotonic_ns() - origin_ns
            gauges.sample(now_ns)
            self._metrics.flush()
            view.tick(max(0.0, (now_ns - begin_ns) / NS_PER_S))

    async def _look(self, source: LoadSource) -> None:
        while self._enough is not None and not source.stopped:
            await asyncio.sleep(LOOK_S)
            if not source.stopped and self._enough():
                self.ended_early = True
                source.finish()
                return

    def _warn(self, sentence: str) -> None:
        print(f"warning: {self._redactor(sentence)}", file=sys.stderr, flush=True)


def _keep_recount(folder: Path, counted: list[Counted], say: Callable[[str], None]) -> None:
    """A resumed part's is added to what is there."""
    if not counted:
        return
    before, _ = read_recount(folder)
    whole = merged([*([before] if before is not None else []), *counted])
    try:
        write_json(folder / RECOUNT, msgspec.to_builtins(whole))
    except OSError as error:
        say(f"{RECOUNT} could not be written: {error.strerror}; the summary will have no recount")
