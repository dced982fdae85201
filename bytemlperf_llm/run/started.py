"""An engine that was started, and what it takes until it is asked for the first measured request."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from bytemlperf.command.waiting import printed_to, waiting
from bytemlperf.redaction import Redactor
from bytemlperf_llm.conformance.card import Subject, card_of, server_version, subject_of
from bytemlperf_llm.launch.server import launched
from bytemlperf_llm.loadgen.engine_start import engine_class, start_engine
from bytemlperf_llm.loadgen.replay import worker_config
from bytemlperf_llm.plan.plan import Plan
from bytemlperf_llm.run import preflight
from bytemlperf_llm.workload.schedule import ALL, Schedule
from engines.contract import Engine, EngineInfo, Model

LOG = "logs/engine.log"


@dataclass(frozen=True)
class Started:
    """`model` is what it was started with: None where it has none, or a server has its own."""

    engine: Engine
    info: EngineInfo
    model: Model | None
    redactor: Redactor
    say: preflight.Say

    async def ready(self, plan: Plan) -> Plan:
        """The plan fitted to the engine, which has answered a first request as the plan's and the warm-up by then. Raises UserError."""
        plan = preflight.fit_prompts(plan, self.model, self.info)
        await self._quote_card(plan.engine.name)
        scenario = plan.load.scenario
        schedule, timeouts = Schedule(scenario, plan.load.seed), worker_config(scenario, ALL, keep_output=False).timeouts
        workload = schedule.workload()
        preflight.check_images(scenario, workload, self.info)
        endpoints: Callable[[], int] = getattr(self.engine, "endpoints", lambda: 1)
        changed: dict[str, str] = {}
        for first in preflight.first_requests(schedule, workload, endpoints()):
            patience_s = plan.engine.ready_timeout_s
            changed |= await preflight.ready_check(self.engine, self.info, first, timeouts, self.redactor, patience_s)
        await preflight.send_aside(self.engine, [workload.aside(index) for index in range(scenario.warmup_requests)], timeouts)
        return replace(plan, engine=plan.engine.with_options(changed))

    async def _quote_card(self, name: str) -> None:
        """A note of what this engine or server was found not to tell, where it has a card in this version."""
        card = card_of(subject_of(name, self.info, address_of(self.engine)))
        if card is not None and card.missing() and card.subject.version == (await subject(self.engine, self.info, name)).version:
            self.info.notes.append(card.missing())


async def start(engine: Engine, plan: Plan, redactor: Redactor, say: preflight.Say, folder: Path | None = None) -> Started:
    """Start the engine of the plan; what its libraries print meanwhile goes to a log in the run's `folder`. Raises UserError."""
    choice = plan.engine
    preflight.check_available(type(engine), choice.name, plan.load.scenario)
    model = preflight.resolve_model(type(engine), choice.model, choice.options, say)
    begun_s = time.monotonic()
    say(sentence := f"starting engine {choice.name}" + (f" with {model.name}" if model else ""))
    with ExitStack() as stack:
        if folder is not None and engine.weights != "remote":
            stderr = stack.enter_context(printed_to(folder / LOG, redactor, say))
            stack.enter_context(waiting(sentence, stderr, quiet=plan.output.run.quiet))
        info = await start_engine(engine, model, choice.options, redactor)
    say(f"engine started in {time.monotonic() - begun_s:.1f} s")
    return Started(engine, info, model, redactor, say)


async def subject(engine: Engine, info: EngineInfo, name: str) -> Subject:
    """Whose card this started engine has; a server is asked for its version."""
    version = await server_version(engine) if hasattr(engine, "exchange") else ""
    return subject_of(name, info, address_of(engine), version)


def address_of(engine: Engine) -> str:
    """Of the servers that are asked; "" for an engine in this process."""
    places: list[tuple[str, int]] = getattr(engine, "addresses", list)()
    return " ".join(f"{host}:{port}" for host, port in places)


@asynccontextmanager
async def started_engine(plan: Plan, redactor: Redactor, say: preflight.Say, folder: Path | None = None) -> AsyncIterator[Started]:
    """The engine of the plan, for several runs; closed again whatever happens. A server that it starts has its log in `folder`. Raises
    UserError."""
    engine = engine_class(plan.engine.name)()
    async with launched(plan, folder, redactor, say):
        try:
            yield await start(engine, plan, redactor, say, folder)
        finally:
            await engine.close()
