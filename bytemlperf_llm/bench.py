"""One `serve-bench`, start to end: plan → engine ready → measured run → records → summary.

The measured part is `_measure`; around it everything is set-up and tear-down. The summary is
computed from the records on disk, by the same code as `bmp-llm summarize`.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bytemlperf_llm import preflight, schedule
from bytemlperf_llm.engine_registry import engine_class
from bytemlperf_llm.errors import UserError
from bytemlperf_llm.export.llm_metrics import LlmMetrics
from bytemlperf_llm.loadgen.deadlines import Timeouts
from bytemlperf_llm.loadgen.pacer import Pacer, real_pacer
from bytemlperf_llm.loadgen.recorder import monotonic_ns
from bytemlperf_llm.loadgen.worker import Worker, WorkerConfig
from bytemlperf_llm.plan import Flags, Plan, plan_for, resolve
from bytemlperf_llm.redaction import Redactor
from bytemlperf_llm.report.live import LiveView
from bytemlperf_llm.runs.checksums import write_checksums
from bytemlperf_llm.runs.describe import Part, describe_run, finished, resumed
from bytemlperf_llm.runs.folder import create_run_folder, write_json
from bytemlperf_llm.runs.log import LogFull, RecordLog
from bytemlperf_llm.runs.record import RequestRecord
from bytemlperf_llm.runs.remainder import Remainder
from bytemlperf_llm.scenario import Scenario
from bytemlperf_llm.stop_signals import Interrupted, draining
from bytemlperf_llm.workload import Workload
from engines.contract import Engine, EngineInfo

if TYPE_CHECKING:
    from rich.console import Console

NS_PER_S = 1_000_000_000
START_DELAY_NS = 50_000_000  # between the last preparation and the first planned instant
TICK_S = 1.0
MIN_ENDED_FOR_ERROR_RATE = 20  # fewer say nothing about a rate
GC_THRESHOLD = 50_000  # young objects between collections; a request in flight is a few dozen


class _Sink:
    """Where ended requests go: first into the log, then to the live metrics."""

    def __init__(self, log: RecordLog, metrics: LlmMetrics, max_error_rate: float | None, stop: Callable[[], None]) -> None:
        self._log, self._metrics = log, metrics
        self._max_error_rate, self._stop = max_error_rate, stop
        self.started = metrics.started
        self.failure = ""

    def ended(self, record: RequestRecord) -> None:
        try:
            self._log.append(record)
        except LogFull as full:
            self.fail(f"records can't be written any more ({full}); what was written is kept")
        metrics, limit = self._metrics, self._max_error_rate
        metrics.ended(record)
        if limit is not None and metrics.ended_requests >= MIN_ENDED_FOR_ERROR_RATE:
            failed, ended = metrics.failed_requests, metrics.ended_requests
            if failed > limit * ended:
                self.fail(f"{failed} of {ended} requests failed, more than --max-error-rate {limit:g} allows")

    def fail(self, reason: str) -> None:
        """End the run; the first reason counts."""
        if not self.failure:
            self.failure = reason
            self._stop()


class Ended(NamedTuple):
    """A run that has ended. `run_json` is what run.json says, or would say if it could be written."""

    folder: Path
    run_json: dict[str, Any]


def serve_bench(flags: Flags, argv: list[str], console: Console, *, quiet: bool) -> Ended:
    """Run it. Raises UserError before the first request, or Interrupted."""
    return _run(resolve(flags), argv, console, quiet=quiet)


def resume(remainder: Remainder, flags: Flags, argv: list[str], console: Console, *, quiet: bool) -> Ended:
    """Send what is missing of a stopped run. Raises as `serve_bench` does."""
    return _run(plan_for(flags, remainder.scenario), argv, console, quiet=quiet, remainder=remainder)


def _run(plan: Plan, argv: list[str], console: Console, *, quiet: bool, remainder: Remainder | None = None) -> Ended:
    engine_type = engine_class(plan.flags.engine)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(Bench(plan, engine_type, argv, console, quiet=quiet, remainder=remainder).run())


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


class Bench:
    """The pieces of one run, so that each step below can be read alone."""

    def __init__(
        self, plan: Plan, engine_type: type[Engine], argv: list[str], console: Console, *, quiet: bool, remainder: Remainder | None = None
    ) -> None:
        self._remainder = remainder
        self._plan, self._engine_type, self._argv, self._console, self._quiet = plan, engine_type, argv, console, quiet
        self._redactor = Redactor(_header_values(plan))
        self._metrics = LlmMetrics()

    async def run(self) -> Ended:
        plan = self._plan
        Workload(plan.scenario, plan.flags.seed)  # prompt files are read before anything slow starts
        async with AsyncExitStack() as stack:
            self._serve_metrics(stack)
            folder = self._folder()
            stack.callback(_remove_if_empty, folder)
            engine = self._engine_type()
            stack.push_async_callback(engine.close)
            pacer = real_pacer()
            stack.callback(pacer.close)
            run_json = await self._prepare(engine, pacer)
            _write_run(folder, run_json)
            run_json = await self._measure(engine, pacer, folder, run_json)
        return Ended(folder, run_json)

    def _folder(self) -> Path:
        if self._remainder is not None:
            return self._remainder.folder
        return create_run_folder(self._plan.flags.runs_dir, "llm", self._plan.label)

    def _serve_metrics(self, stack: AsyncExitStack) -> None:
        flags = self._plan.flags
        if flags.prometheus_port is None:
            return
        if flags.prometheus_host not in ("127.0.0.1", "localhost", "::1"):
            self._say(f"WARNING: metrics are served on {flags.prometheus_host}, which other machines may reach")
        port = self._metrics.exporter.serve(flags.prometheus_port, flags.prometheus_host)
        stack.callback(self._metrics.exporter.close)
        self._say(f"metrics at http://{flags.prometheus_host}:{port}/metrics until the run ends")

    async def _prepare(self, engine: Engine, pacer: Pacer) -> dict[str, Any]:
        """Engine, first request, warm-up, rate; ends in what run.json says at the start."""
        plan, scenario, seed = self._plan, self._plan.scenario, self._plan.flags.seed
        model = preflight.resolve_model(self._engine_type, plan.flags.model, self._say)
        started_s = time.monotonic()
        self._say(f"starting engine {plan.flags.engine}" + (f" with {model.name}" if model else ""))
        info = await preflight.start_engine(engine, model, plan.engine_options, self._redactor)
        self._plan = plan = preflight.fit_prompts(plan, model, info)
        scenario = plan.scenario
        longest = preflight.longest_request(scenario, seed)
        await preflight.ready_check(engine, info, longest, scenario.timeouts.first_token_s, self._redactor)
        self._say(f"engine ready after {time.monotonic() - started_s:.1f} s")
        for note in info.notes:
            self._say(f"note: {note}")
        workload = Workload(scenario, seed)
        await preflight.warm_up(engine, workload, scenario.warmup_requests)
        self._scenario, probed = await preflight.resolve_rate(plan, engine, workload, pacer)
        if probed is not None:
            self._say(probed.sentence())
            await asyncio.sleep(0.5)
        self._schedule = schedule.describe(self._scenario, seed)
        if self._schedule.requests == 0:
            raise preflight.empty_schedule(self._scenario)
        for sentence in self._schedule.sentences(self._scenario.num_requests):
            self._say(sentence)
        command = self._redactor.command(self._argv)
        if self._remainder is not None:
            return self._go_on(self._remainder, info, command)
        return describe_run(plan, self._scenario, info, self._schedule, probed, command, self._redactor)

    def _go_on(self, left: Remainder, info: EngineInfo, command: list[str]) -> dict[str, Any]:
        """run.json of a run that is resumed. Raises UserError when its schedule is not the one that can be made here."""
        if self._schedule.sha256 != left.run["schedule_sha256"]:
            raise UserError(
                f"{left.folder} has another schedule than its configuration makes here", "its prompt files have changed; run again"
            )
        part = Part(left.next_log().name, left.shift_ns, left.begin_ns, len(left.done))
        left.forget_ending()
        return resumed(left.run, info, part, command, self._redactor)

    async def _measure(self, engine: Engine, pacer: Pacer, folder: Path, run_json: dict[str, Any]) -> dict[str, Any]:
        """The measured part; leaves run.json with how it ended."""
        left = self._remainder
        begin_ns, done = (0, 0) if left is None else (left.begin_ns, len(left.done))
        log = _open_log(folder / "records.jsonl" if left is None else left.next_log())
        scheduled = self._schedule.requests
        with LiveView(self._console, self._title(), scheduled and scheduled - done, self._metrics, self._quiet) as view:
            sink = _Sink(log, self._metrics, self._plan.flags.max_error_rate, lambda: worker.stop())
            worker = Worker(engine, sink, pacer, _worker_config(self._plan, self._scenario), redact=self._redactor)
            origin_ns = monotonic_ns() + START_DELAY_NS - begin_ns
            (run_json if left is None else run_json["resumed"][-1])["clock_origin_ns"] = origin_ns
            _write_run(folder, run_json)
            background = [
                asyncio.ensure_future(log.sync_forever(sink.fail)),
                asyncio.ensure_future(self._tick(view, origin_ns + begin_ns)),
            ]
            _settle_garbage()
            busy_ns, wall_ns = time.thread_time_ns(), monotonic_ns()
            try:
                with draining(worker.stop, lambda: worker.stopped, self._say):
                    await self._replay(worker, origin_ns)
            except Interrupted as interrupted:
                interrupted.hint = f"the records so far are kept; go on with: bmp-llm resume {folder}"
                raise
            finally:
                busy = (time.thread_time_ns() - busy_ns) / max(monotonic_ns() - wall_ns, 1)
                for task in background:
                    task.cancel()
                await asyncio.gather(*background, return_exceptions=True)
                with suppress(OSError):
                    log.close()
                self._metrics.flush()
                end = finished(run_json, done + worker.issued, busy, worker.stopped, sink.failure, monotonic_ns() - origin_ns)
                _keep(folder, end, self._say)
        return end

    async def _replay(self, worker: Worker, origin_ns: int) -> None:
        scenario, seed = self._scenario, self._plan.flags.seed
        workload = Workload(scenario, seed)
        left = self._remainder
        if not self._plan.closed:
            await worker.run_open(schedule.open_schedule(scenario, workload, seed) if left is None else left.planned(), origin_ns)
            return
        end_ns = None if scenario.duration_s is None else origin_ns + round(scenario.duration_s * NS_PER_S)
        requests = (planned.request for planned in (schedule.closed_schedule(scenario, workload) if left is None else left.planned()))
        assert scenario.arrival.max_concurrency is not None
        await worker.run_closed(requests, scenario.arrival.max_concurrency, origin_ns, end_ns)

    async def _tick(self, view: LiveView, origin_ns: int) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._metrics.flush()
            view.tick(max(0.0, (monotonic_ns() - origin_ns) / NS_PER_S))

    def _title(self) -> str:
        return f"{self._plan.flags.engine} · {self._scenario.name} · {_load_text(self._scenario)}"

    def _say(self, sentence: str) -> None:
        if not self._quiet:
            print(self._redactor(sentence), file=sys.stderr, flush=True)


def _settle_garbage() -> None:
    """What exists by now stays: keep the collector from walking it again in mid-run."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)


def _load_text(scenario: Scenario) -> str:
    arrival = scenario.arrival
    if arrival.process == "closed":
        return f"closed loop, {arrival.max_concurrency} in flight"
    if arrival.process == "at_once":
        return "all at once"
    if arrival.process == "trace":
        return "at the trace's own times"
    return f"{arrival.process}, " + (f"{arrival.rate:g} requests/s" if arrival.rate else "ramp")


def _worker_config(plan: Plan, scenario: Scenario) -> WorkerConfig:
    limits = scenario.timeouts
    seconds = (limits.connect_s, limits.first_token_s, limits.idle_s, limits.total_s)
    return WorkerConfig(
        timeouts=Timeouts(*(round(value * NS_PER_S) for value in seconds)),
        max_concurrency=None if plan.closed else scenario.arrival.max_concurrency,
        drain_ns=round(scenario.drain_s * NS_PER_S),
        keep_output=plan.flags.keep_output or plan.flags.save_detailed,
    )


def _header_values(plan: Plan) -> list[str]:
    import json

    return [str(value) for value in json.loads(plan.engine_options.get("headers", "{}")).values()]


def _write_run(folder: Path, run_json: dict[str, Any]) -> None:
    try:
        write_json(folder / "run.json", run_json)
    except OSError as error:
        raise UserError(f"can't write {folder}/run.json: {error.strerror}", "give a place with room with --runs-dir") from None


def _open_log(path: Path) -> RecordLog:
    try:
        return RecordLog(path)
    except OSError as error:
        raise UserError(f"can't write {path}: {error.strerror}", "give a place with room with --runs-dir") from None


def _keep(folder: Path, run_json: dict[str, Any], say: Callable[[str], None]) -> None:
    try:
        write_json(folder / "run.json", run_json)
    except OSError as error:
        say(f"run.json could not be completed: {error.strerror}; the records are kept")
    try:
        write_checksums(folder)
    except OSError as error:
        say(f"checksums.json could not be written: {error.strerror}; bmp-llm verify can't tell whether the run was changed later")


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()
