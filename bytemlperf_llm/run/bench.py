"""One `serve-bench`, start to end: plan → engine ready → measured run → records → summary.

The measured part is `_measure`; around it everything is set-up and tear-down. The summary is
computed from the records on disk, by the same code as `bmp-llm summarize`.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from bytemlperf.command.signals import Interrupted, draining
from bytemlperf.errors import UserError
from bytemlperf.export.push import pushing, receiver_secrets
from bytemlperf.export.serving import serving
from bytemlperf.redaction import Redactor, option_secrets
from bytemlperf.report.dashboard import dashboard
from bytemlperf.runs.checksums import write_checksums
from bytemlperf.runs.folder import create_run_folder, write_json
from bytemlperf.runs.lock import FolderLock
from bytemlperf.runs.names import RECOUNT
from bytemlperf_llm.engine_registry import engine_class
from bytemlperf_llm.live.metrics import LlmMetrics
from bytemlperf_llm.live.view import LoadView
from bytemlperf_llm.loadgen.engine_start import start_engine
from bytemlperf_llm.loadgen.fleet import Fleet, log_name
from bytemlperf_llm.loadgen.loops import loop_factory
from bytemlperf_llm.loadgen.messages import MemberSpec
from bytemlperf_llm.loadgen.pacer import Pacer, real_pacer
from bytemlperf_llm.loadgen.processes import process_fleet
from bytemlperf_llm.loadgen.ray_fleet import cluster_size, connect, disconnect, ray_fleet
from bytemlperf_llm.loadgen.recorder import monotonic_ns
from bytemlperf_llm.loadgen.replay import Crew, Replay, open_log, work_of, worker_config
from bytemlperf_llm.loadgen.sizing import check_splittable, local_size
from bytemlperf_llm.metrics.recount import Counted, merged, read_recount
from bytemlperf_llm.plan.flags import Flags
from bytemlperf_llm.plan.plan import Plan, plan_for, resolve
from bytemlperf_llm.plan.scenario import folder_of
from bytemlperf_llm.record.gauges import GaugeLog
from bytemlperf_llm.run import preflight
from bytemlperf_llm.run.description import Part, describe_run, finished, resumed
from bytemlperf_llm.run.resume import Remainder
from bytemlperf_llm.run.trust import refuse_other_engine, unconfirmed
from bytemlperf_llm.workload import Workload, schedule
from bytemlperf_llm.workload.dealing import Share, dealt
from engines.contract import Engine, EngineInfo

NS_PER_S = 1_000_000_000
TICK_S = 1.0


class Ended(NamedTuple):
    """A run that has ended, still locked. `run_json` is what run.json says, or would say if it could be written."""

    folder: Path
    run_json: dict[str, Any]
    lock: FolderLock


def serve_bench(flags: Flags, argv: list[str], *, quiet: bool) -> Ended:
    """Run it. Raises UserError before the first request, or Interrupted."""
    return _run(resolve(flags), argv, quiet=quiet)


def resume(remainder: Remainder, flags: Flags, argv: list[str], *, quiet: bool) -> Ended:
    """Send what is missing of a stopped run. Raises as `serve_bench` does."""
    return _run(plan_for(flags, remainder.scenario), argv, quiet=quiet, remainder=remainder)


def _run(plan: Plan, argv: list[str], *, quiet: bool, remainder: Remainder | None = None) -> Ended:
    engine_type = engine_class(plan.flags.engine)
    check_splittable(engine_type, plan.flags.engine, plan.flags.workers, plan.flags.ray)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(Bench(plan, engine_type, argv, quiet=quiet, remainder=remainder).run())


class Bench:
    """The pieces of one run, so that each step below can be read alone."""

    def __init__(self, plan: Plan, engine_type: type[Engine], argv: list[str], *, quiet: bool, remainder: Remainder | None = None) -> None:
        self._remainder = remainder
        self._plan, self._engine_type, self._argv, self._quiet = plan, engine_type, argv, quiet
        receivers = receiver_secrets(plan.flags.push_gateway, plan.flags.otlp)
        self._redactor = Redactor([*option_secrets(plan.engine_options), *receivers])
        self._metrics = LlmMetrics()

    async def run(self) -> Ended:
        plan = self._plan
        Workload(plan.scenario, plan.flags.seed)  # prompt files are read before anything slow starts
        async with AsyncExitStack() as stack:
            stack.enter_context(serving(self._metrics.exporter, plan.flags, self._say))
            show = stack.enter_context(dashboard(plan.flags, self._say))
            if plan.flags.ray is not None:
                connect(plan.flags.ray)
                self._say("WARNING: Ray listens on every interface, in this process too: use a trusted network")
                stack.callback(disconnect)
            folder = self._folder()
            lock = FolderLock(folder) if self._remainder is None else self._remainder.lock
            stack.callback(_remove_if_empty, folder)
            stack.enter_context(pushing(self._metrics.exporter, plan.flags, folder.name, self._warn))
            engine = self._engine_type()
            stack.push_async_callback(engine.close)
            pacer = real_pacer()
            stack.callback(pacer.close)
            run_json = await self._prepare(engine, pacer)
            _write_run(folder, run_json)
            show(folder)
            run_json = await self._measure(engine, pacer, folder, run_json)
        return Ended(folder, run_json, lock)

    def _folder(self) -> Path:
        if self._remainder is not None:
            return self._remainder.folder
        return create_run_folder(self._plan.flags.runs_dir, "llm", self._plan.label)

    async def _prepare(self, engine: Engine, pacer: Pacer) -> dict[str, Any]:
        """Engine, first request, warm-up, rate; ends in what run.json says at the start."""
        plan, scenario, seed = self._plan, self._plan.scenario, self._plan.flags.seed
        preflight.check_available(self._engine_type, plan.flags.engine)
        self._model = model = preflight.resolve_model(self._engine_type, plan.flags.model, self._say)
        started_s = time.monotonic()
        self._say(f"starting engine {plan.flags.engine}" + (f" with {model.name}" if model else ""))
        info = await start_engine(engine, model, plan.engine_options, self._redactor)
        if self._remainder is not None:
            refuse_other_engine(self._remainder.run, info)
        self._plan = plan = preflight.fit_prompts(plan, model, info)
        scenario = plan.scenario
        self._tokenizer = preflight.answer_tokenizer(scenario, model, info)
        longest, timeouts = preflight.longest_request(scenario, seed), worker_config(scenario, Share(), keep_output=False).timeouts
        changed = await preflight.ready_check(engine, info, longest, timeouts, self._redactor, plan.flags.ready_check_timeout_s)
        self._plan = plan = replace(plan, engine_options=plan.engine_options | changed)
        self._say(f"engine ready after {time.monotonic() - started_s:.1f} s")
        for note in info.notes:
            self._say(f"note: {note}")
        workload = Workload(scenario, seed)
        await preflight.warm_up(engine, workload, scenario.warmup_requests, timeouts)
        self._scenario, probed = await preflight.resolve_rate(plan, engine, workload, pacer, self._redactor)
        if probed is not None:
            self._say(probed.sentence())
            await asyncio.sleep(0.5)
        self._schedule = schedule.describe(self._scenario, seed)
        if self._schedule.requests == 0:
            raise preflight.empty_schedule(self._scenario)
        for sentence in self._schedule.sentences(self._scenario.num_requests):
            self._say(sentence)
        self._workers = self._crew_size()
        command = self._redactor.command(self._argv)
        if self._remainder is not None:
            return self._go_on(self._remainder, info, command)
        return describe_run(plan, self._scenario, info, self._schedule, probed, command, self._redactor)

    def _go_on(self, left: Remainder, info: EngineInfo, command: list[str]) -> dict[str, Any]:
        """run.json of a run that is resumed. Raises UserError when its schedule is not the one that can be made here."""
        if self._schedule.sha256 != left.run["schedule_sha256"]:
            raise UserError(
                f"{left.folder} has another schedule than its configuration makes here", "its prompt files have changed; start a new run"
            )
        logs = [log_name(left.next_log() + worker) for worker in range(self._workers)]
        part = Part(logs, left.shift_ns, left.begin_ns, len(left.done))
        left.forget_ending()
        return resumed(left.run, info, part, command, self._redactor)

    async def _measure(self, engine: Engine, pacer: Pacer, folder: Path, run_json: dict[str, Any]) -> dict[str, Any]:
        """The measured part; leaves run.json with how it ended."""
        left = self._remainder
        begin_ns, done = (0, 0) if left is None else (left.begin_ns, len(left.done))
        scheduled = self._schedule.requests
        view = LoadView(self._title(), scheduled and scheduled - done, self._metrics, quiet=self._quiet)
        with view:
            crew = self._crew(engine, pacer, folder)
            try:
                await crew.start()
            except BaseException:
                await crew.close()
                raise
            origin_ns = monotonic_ns() + crew.start_delay_ns - begin_ns
            (run_json if left is None else run_json["resumed"][-1])["clock_origin_ns"] = origin_ns
            writing = asyncio.ensure_future(asyncio.to_thread(_write_run, folder, run_json))  # a busy disk must not delay the first request
            asked = engine if isinstance(crew, Replay) or engine.weights == "remote" else None
            gauges = GaugeLog(asked, folder, self._say)
            ticking = asyncio.ensure_future(self._tick(view, gauges, origin_ns, begin_ns))
            try:
                with draining(crew.stop, lambda: crew.stopped, self._say):
                    await crew.replay(origin_ns)
            except Interrupted as interrupted:
                trust = " --trust" if unconfirmed(self._plan.flags, run_json["config"]) else ""
                interrupted.hint = f"the records so far are kept; resume with: bmp-llm resume {folder}{trust}"
                raise
            finally:
                duration_ns = monotonic_ns() - origin_ns
                ticking.cancel()
                await asyncio.gather(ticking, writing, return_exceptions=True)
                await crew.close()
                gauges.close()
                self._metrics.flush()
                _keep_recount(folder, crew.counted, self._say)
                end = finished(run_json, done + crew.issued, crew.loop_utilisation, crew.stopped, crew.failure, duration_ns)
                if workers := crew.described():
                    end.setdefault("workers", workers)
                    if left is not None:
                        end["resumed"][-1]["workers"] = workers
                _keep(folder, end, self._say)
        return end

    def _crew(self, engine: Engine, pacer: Pacer, folder: Path) -> Crew:
        """One worker in this process, or a fleet. Raises UserError."""
        scenario, flags, left = self._scenario, self._plan.flags, self._remainder
        keep_output = flags.keep_output or flags.save_detailed
        if self._workers > 1 or flags.ray is not None:
            return self._fleet(folder, keep_output=keep_output)
        planned = dealt(scenario, flags.seed, Share(), None if left is None else left.left())
        return Replay(
            engine,
            pacer,
            open_log(folder / ("records.jsonl" if left is None else log_name(left.next_log()))),
            self._metrics,
            work_of(scenario, planned, Share()),
            worker_config(scenario, Share(), keep_output=keep_output),
            max_error_rate=flags.max_error_rate,
            redactor=self._redactor,
            tokenizer=self._tokenizer,
        )

    def _crew_size(self) -> int:
        """How many workers; of a run that goes on, by what is left. Raises UserError."""
        flags, scheduled = self._plan.flags, self._schedule.requests
        chosen = local_size if flags.ray is None else cluster_size
        requests = scheduled if scheduled is None or self._remainder is None else scheduled - len(self._remainder.done)
        workers, why = chosen(flags.workers, self._scenario, requests)
        if why:
            self._say(why)
        return workers

    def _fleet(self, folder: Path, *, keep_output: bool) -> Fleet:
        """Raises UserError."""
        flags, scenario, workers, left = self._plan.flags, self._scenario, self._workers, self._remainder
        common = MemberSpec(
            engine=flags.engine,
            engine_options=self._plan.engine_options,
            model=self._model,
            scenario=scenario.model_dump(mode="json"),
            scenario_folder=folder_of(scenario),
            seed=flags.seed,
            workers=workers,
            keep_output=keep_output,
            live=not self._quiet,
            left=None if left is None else left.left(),
            tokenizer=self._tokenizer,
        )
        make = process_fleet if flags.ray is None else ray_fleet
        return make(common, folder, self._metrics, self._say, flags.max_error_rate, 0 if left is None else left.next_log())

    async def _tick(self, view: LoadView, gauges: GaugeLog, origin_ns: int, begin_ns: int) -> None:
        gauges.sample(begin_ns)  # an engine that asks a server has its first answer later
        while True:
            await asyncio.sleep(TICK_S)
            now_ns = monotonic_ns() - origin_ns
            gauges.sample(now_ns)
            self._metrics.flush()
            view.tick(max(0.0, (now_ns - begin_ns) / NS_PER_S))

    def _title(self) -> str:
        return f"{self._plan.flags.engine} · {self._scenario.name} · {self._scenario.arrival.sentence()}"

    def _warn(self, sentence: str) -> None:
        print(f"warning: {self._redactor(sentence)}", file=sys.stderr, flush=True)

    def _say(self, sentence: str) -> None:
        if not self._quiet:
            print(self._redactor(sentence), file=sys.stderr, flush=True)


def _write_run(folder: Path, run_json: dict[str, Any]) -> None:
    try:
        write_json(folder / "run.json", run_json)
    except OSError as error:
        raise UserError(f"can't write {folder}/run.json: {error.strerror}", "free disk space, or choose another --runs-dir") from None


def _keep(folder: Path, run_json: dict[str, Any], say: Callable[[str], None]) -> None:
    try:
        write_json(folder / "run.json", run_json)
    except OSError as error:
        say(f"run.json could not be completed: {error.strerror}; the records are kept")
    try:
        write_checksums(folder)
    except OSError as error:
        say(f"checksums.json could not be written: {error.strerror}; bmp-llm verify can't tell whether the run was changed later")


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


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()
