"""Everything between a resolved plan and the first measured request: model, engine, one untimed
request, warm-up, probe. Whatever fails here ends the command with one line."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from importlib.util import find_spec
from itertools import count, islice
from pathlib import Path
from statistics import fmean
from typing import Any

import msgspec

from bytemlperf.errors import UserError
from bytemlperf.models import DEFAULT_MODEL, resolve
from bytemlperf.models.forms import converted
from bytemlperf.redaction import Redactor
from bytemlperf.units import NS_PER_S
from bytemlperf_llm.loadgen.deadlines import Timeouts
from bytemlperf_llm.loadgen.pacer import Pacer
from bytemlperf_llm.loadgen.probe import Probe, ProbeResult
from bytemlperf_llm.loadgen.recorder import monotonic_ns
from bytemlperf_llm.loadgen.worker import Worker, WorkerConfig
from bytemlperf_llm.plan.plan import Plan
from bytemlperf_llm.plan.scenario import Prompts, Scenario, Task
from bytemlperf_llm.record.record import RequestRecord
from bytemlperf_llm.workload import Workload
from bytemlperf_llm.workload.salt import SALT_TOKENS
from bytemlperf_llm.workload.schedule import Schedule
from bytemlperf_llm.workload.token_counter import WORDS_RULE
from engines.contract import Api, Engine, EngineError, EngineInfo, EngineUnavailable, Model, Request, TrafficClass, availability_of

MEAN_SAMPLE_REQUESTS = 1_000
MEAN_SAMPLE_SESSIONS = 200
WARMUP_CONCURRENCY = 4
READY_POLL_S = 0.5
NOT_READY = ("http_5xx", "http_429", "connection_refused", "connection_reset")
MAX_READY_DETAIL_CHARS = 4000  # what is wrong with a request may be told behind much else
Say = Callable[[str], None]
TASKS: dict[Api, Task] = {"embeddings": "embed", "rerank": "rerank"}

_FIXES = {
    "http_4xx": "check --model, --endpoint and the key",
    "context_length": "use a model with a longer context, or a scenario with shorter prompts (--output-len shortens responses)",
    "connection_refused": "start the server, or give its address with --base-url",
    "name_not_found": "check --base-url",
    "connect_timeout": "check --base-url",
    "connection_reset": "look at the engine's own log, and check --base-url (http:// or https://?)",
    "malformed_stream": "look at the engine's own log, and check --base-url (http:// or https://?)",
    "not_a_stream": "check --base-url and --endpoint",
    "invalid_output": "check --model and --endpoint",
    "client_limit": "raise that limit",
    "redirect": "follow redirects with --engine-option transport=aiohttp",
}


def check_available(engine: type[Engine], name: str, scenario: Scenario) -> None:
    """Whether the engine could start at all, and takes what the scenario's classes ask for, before anything is fetched for it. Raises
    UserError."""
    available = availability_of(engine)
    if available.missing:
        raise UserError(f"engine '{name}': {available.missing}", available.fix)
    takes: Collection[str] = getattr(engine, "takes", ())
    for class_name, keys in scenario.classes.items():
        for key in ("priority", "headers", "model"):
            if getattr(keys, key) not in (None, {}) and key not in takes:
                fix = "leave it out, or measure a server with --engine openai"
                raise UserError(f"class '{class_name}' of the scenario sets {key}, which engine '{name}' doesn't take", fix)


def resolve_model(engine: type[Engine], name: str | None, options: Mapping[str, str], say: Say) -> Model | None:
    """What `start` gets: weights on this machine, in the form that the engine asks for, a served name, or nothing. Raises UserError."""
    if engine.weights == "none":
        if name is not None:
            raise UserError("this engine has no model", "leave out --model")
        return None
    if engine.weights == "remote":
        return None if name is None else Model(name=name)
    model, conversion = resolve(name or DEFAULT_MODEL, say), getattr(engine, "conversion", None)
    try:
        form = conversion(options) if conversion is not None else None
    except EngineUnavailable as error:
        raise UserError(error.cause, error.fix) from None
    return model if form is None else converted(model, form, say)


class Kept:
    """A sink of a few records."""

    def __init__(self) -> None:
        self.records: list[RequestRecord] = []
        self.ended = self.records.append

    def started(self) -> None:
        """Nothing to count."""


async def ready_check(
    engine: Engine, info: EngineInfo, request: Request, timeouts: Timeouts, redactor: Redactor, patience_s: float = 0.0
) -> dict[str, str]:
    """One untimed request, as the run will send them, with the longest prompt and under the run's own time limits; again for
    `patience_s` while the server says that it is not ready. What the engine changes about its requests when the server says so
    comes back as engine options. Raises UserError."""
    clock = asyncio.get_running_loop().time
    changed, until_s = dict[str, str](), clock() + patience_s
    for attempt in count():
        record = await _one(engine, msgspec.structs.replace(request, id=f"{request.id}-ready-{attempt}"), timeouts, redactor)
        if record.outcome == "ok":
            break
        error = EngineError(record.error_class or "engine_failed", record.error_detail)
        adapted: dict[str, str] = getattr(engine, "adapt", lambda _: {})(error)
        changed |= adapted
        waits = error.error_class in NOT_READY and clock() < until_s
        if not (adapted or waits or (error.error_class == "stale_connection" and not attempt)):
            raise _not_ready(engine, error, timeouts, redactor, _which(engine, request))
        await asyncio.sleep(READY_POLL_S if waits else 0)
    info.notes += [f"the server requires {name}={value}, which is sent from now on" for name, value in changed.items()]
    _check_context(info, request, record.prompt_tokens)
    return changed


async def _one(engine: Engine, request: Request, timeouts: Timeouts, redactor: Redactor) -> RequestRecord:
    """A request on its own, with the time limits and the judgement of a measured one."""
    kept, whole = Kept(), redactor.copy(MAX_READY_DETAIL_CHARS)
    worker = Worker(engine, kept, Pacer(monotonic_ns), WorkerConfig(timeouts=timeouts), redactor=whole)
    await worker.run_closed(iter([request]), 1, monotonic_ns())
    return kept.records[0]


def _which(engine: Engine, request: Request) -> str:
    """Of which class it is, and where it went, where there are several."""
    where = getattr(engine, "endpoint_of", lambda _: None)(request)
    of = f" of class '{request.class_name}'" if request.class_name else ""
    return f"the first request{of}" + (f" to {where}" if where else "")


def _not_ready(engine: Engine, error: EngineError, timeouts: Timeouts, redactor: Redactor, first: str) -> UserError:
    said = error.error_class.replace("_", " ")
    cause, fix = f"{first} fails: {said}: {error.detail}", _FIXES.get(error.error_class, "look at the engine's own log")
    if error.error_class.endswith("_timeout"):
        limit_ns = getattr(timeouts, error.error_class.removesuffix("timeout") + "ns")
        cause = f"no response to {first}: {said} of {limit_ns / NS_PER_S:g} s"
        fix = f"{fix}, or raise --{error.error_class.replace('_', '-')}"
    advice = getattr(engine, "advise", lambda _: None)(error)
    return UserError(redactor.clean(cause), redactor.clean(advice or fix))


def _check_context(info: EngineInfo, request: Request, prompt_tokens: int | None) -> None:
    if info.max_model_len is None or prompt_tokens is None:
        return
    needed = prompt_tokens + request.max_tokens
    if needed > info.max_model_len:
        raise UserError(
            f"request {request.index} needs {needed} tokens of context ({prompt_tokens} prompt + {request.max_tokens} output), "
            f"and {info.model} has {info.max_model_len}",
            _FIXES["context_length"],
        )


async def send_aside(engine: Engine, requests: Sequence[Request], timeouts: Timeouts) -> int:
    """Send unmeasured requests, a few at a time; how many were answered. The ready check has shown that they can work, and what fails of
    them will fail in the measured run too."""
    kept = Kept()
    worker = Worker(engine, kept, Pacer(monotonic_ns), WorkerConfig(timeouts=timeouts))
    await worker.run_closed(iter(requests), min(WARMUP_CONCURRENCY, len(requests)), monotonic_ns())
    return sum(record.outcome == "ok" for record in kept.records)


async def resolve_rate(
    plan: Plan, engine: Engine, workload: Workload, pacer: Pacer, redactor: Redactor
) -> tuple[Scenario, ProbeResult | None]:
    """The scenario with its rate as a number: of sessions, as many as have the turns that are carried. Raises UserError when the probe
    got no answer."""
    scenario = plan.load.scenario
    if scenario.arrival.rate != "auto":
        return scenario, None
    mean = fmean(request.max_tokens for request in islice(workload, MEAN_SAMPLE_REQUESTS))
    probe = Probe(engine, (workload.aside(index, "probe") for index in count(scenario.warmup_requests)), pacer)
    try:
        found = await probe.find(scenario.auto.probe_s, scenario.auto.share, mean, scenario.arrival.max_concurrency)
    except EngineError as error:
        cause = redactor.clean(f"probing for a rate failed: {error.error_class}: {error.detail}")
        raise UserError(cause, "give a rate with --request-rate") from None
    if workload.sessions is not None:
        found = found._replace(turns=workload.sessions.mean_turns(MEAN_SAMPLE_SESSIONS))
    return scenario.override({"arrival.rate": found.arrivals_per_s}), found


def first_requests(schedule: Schedule, workload: Workload, endpoints: int) -> list[Request]:
    """For each class (one without any) the request with the longest prompt among those that a run of this scenario may send, or one as
    long where its prefix would be cached; each for every endpoint."""
    scenario = schedule.scenario
    limit = min(workload.prompt_count or MEAN_SAMPLE_REQUESTS, scenario.num_requests or MEAN_SAMPLE_REQUESTS, MEAN_SAMPLE_REQUESTS)
    requests: Iterator[Request] = iter(workload)
    if scenario.arrival.process == "trace":  # the run may end long before the trace does
        requests = (planned.request for planned in schedule.planned(workload=workload))
    longest: dict[TrafficClass | None, Request] = {}
    for request in islice(requests, limit):
        known = longest.get(request.traffic_class)
        if known is None or (request.text_length(), request.max_tokens) > (known.text_length(), known.max_tokens):
            longest[request.traffic_class] = request
    if not longest:
        raise empty_schedule(scenario)
    first = [workload.unmeasured(request) for request in longest.values()]
    if endpoints == 1:
        return first
    return [msgspec.structs.replace(request, index=place, session=None) for request in first for place in range(endpoints)]


def places_before(schedule: Schedule, asides: int) -> tuple[tuple[int, int], ...]:
    """Places in the schedule, [from, to), whose prompts the ready check and so many requests aside have sent. Of a trace or sessions there
    are none: what is sent aside has other words."""
    workload = schedule.workload()
    count = workload.prompt_count
    ready = [request.index for request in first_requests(schedule, workload, 1) if request.id == workload.request_id(request.index)]
    dealt = [] if count is None or not asides else [(max(count - asides, 0), count)]
    return (*((index, index + 1) for index in ready), *dealt)


def empty_schedule(scenario: Scenario) -> UserError:
    """The error for a run without a request."""
    fix = "raise --duration or --request-rate"
    if scenario.prompts.trace is not None:
        fix = "widen --trace-window, raise --duration or --max-model-len, or take --on-too-long truncate"
    return UserError("the schedule is empty: no request falls into the run", fix)


def fit_prompts(plan: Plan, model: Model | None, info: EngineInfo) -> Plan:
    """The plan with what prompts made to length must know of the model: its tokenizer, whether its chat
    template is used, its context. What the user gave goes before what is found; the shorter context holds. Raises UserError where the
    engine doesn't take such prompts."""
    changes: dict[str, Any] = _fit_task(plan, info)
    template = "chat" if info.api in ("chat", "responses") else "plain"
    salt_tokens = SALT_TOKENS if plan.load.scenario.cache == "cold" else 0
    for key, prompts in plan.load.scenario.all_prompts().items():
        _check_accepted(prompts, info)
        fitted = {f"{key}.template": template, f"{key}.task": TASKS.get(info.api, "generate")}
        changes |= {} if (prompts.template, prompts.task) == tuple(fitted.values()) else fitted
        recorded = "trace" if prompts.trace is not None else "sessions"
        if prompts.tokenizer is None and (tokenizer := _tokenizer_of(model, info)) is not None:
            changes[f"{key}.tokenizer"] = tokenizer
        if (source := prompts.trace or prompts.sessions) is not None:
            contexts = (info.max_model_len, model.max_model_len if model else None)
            known = [source.max_model_len, *(context - salt_tokens for context in contexts if context is not None)]
            changes[f"{key}.{recorded}.max_model_len"] = min((each for each in known if each is not None), default=None)
    return plan.with_scenario(changes) if changes else plan


def _check_accepted(prompts: Prompts, info: EngineInfo) -> None:
    """Raises UserError for prompts that can't be asked so."""
    generates = info.api not in TASKS
    if prompts.token_ids and "token_ids" not in info.accepts:
        raise UserError("this endpoint takes text, not token ids", "add --endpoint /v1/completions, or leave out --tokenize-prompt")
    if prompts.images is not None and "images" not in info.accepts:
        raise UserError("this endpoint takes no images", "add --endpoint /v1/chat/completions, or leave out --images")
    if prompts.batch_size > 1 and generates:
        raise UserError(
            "several inputs a request are for embeddings and rerank", "add --endpoint /v1/embeddings, or leave out --batch-size"
        )
    if not generates and (prompts.sessions is not None or prompts.drawn is not None):
        raise UserError(f"a conversation has no {info.api}", "take another scenario, or --input-len")


def check_images(scenario: Scenario, workload: Workload, info: EngineInfo) -> None:
    """Of the first requests, where files show some. Raises UserError where the engine takes none; what the server fetches is noted."""
    if not any(prompts.files or (prompts.sessions and prompts.sessions.file) for prompts in scenario.all_prompts().values()):
        return
    images = {image for request in islice(workload, MEAN_SAMPLE_REQUESTS) for image in request.images() if isinstance(image, str)}
    if images and "images" not in info.accepts:
        raise UserError("the prompts have images, and this endpoint takes none", "add --endpoint /v1/chat/completions")
    if any(image.startswith("http") for image in images):
        info.notes.append("images are given by their address: the server fetches them, and the time it takes is in the latency")


def _fit_task(plan: Plan, info: EngineInfo) -> dict[str, Any]:
    """What service levels there are where nothing is generated. Raises UserError for others that were asked for."""
    if info.api not in TASKS:
        return {}
    if (until := plan.load.until) and until.metric != "e2e":
        raise UserError(f"{info.api} have no {until.metric}", "give --until of e2el")
    if any(level.startswith(("ttft", "tpot")) for level in " ".join(plan.flags.get("goodput") or ()).split()):
        raise UserError(f"{info.api} have no TTFT and no TPOT", "give --goodput e2el:MS")
    return {"slo.ttft_ms": None, "slo.tpot_ms": None}


def answer_tokenizer(scenario: Scenario, model: Model | None, info: EngineInfo) -> str | None:
    """By which answers can be counted again: what the user gave, else the model's own; None where none is known."""
    return scenario.prompts.tokenizer or _tokenizer_of(model, info)


def _tokenizer_of(model: Model | None, info: EngineInfo) -> str | None:
    """A folder with tokenizer.json, or the engine's own rule; None where none is known or the package isn't there."""
    if info.tokenizer == WORDS_RULE:
        return WORDS_RULE
    folders = (model.path if model else None, info.tokenizer)
    found = next((folder for folder in folders if folder and (Path(folder) / "tokenizer.json").is_file()), None)
    return found if find_spec("tokenizers") and find_spec("jinja2") else None
