"""Everything between a resolved plan and the first measured request: model, engine, one untimed
request, warm-up, probe. Whatever fails here ends the command with one line."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from itertools import count, islice
from pathlib import Path
from typing import Any

import msgspec

from bytemlperf_llm import schedule
from bytemlperf_llm.errors import UserError
from bytemlperf_llm.loadgen.pacer import Pacer
from bytemlperf_llm.loadgen.probe import Probe, ProbeResult
from bytemlperf_llm.loadgen.recorder import RequestRecorder
from bytemlperf_llm.plan import Plan
from bytemlperf_llm.redaction import Redactor
from bytemlperf_llm.scenario import Scenario
from bytemlperf_llm.workload import Workload
from bytemlperf_llm.workload.token_counter import WORDS_RULE
from engines.contract import Engine, EngineError, EngineInfo, EngineUnavailable, Model, Request, Usage

MEAN_SAMPLE_REQUESTS = 1_000
WARMUP_CONCURRENCY = 4
Say = Callable[[str], None]

_FIXES = {
    "http_4xx": "check --model, --endpoint and the key",
    "context_length": "take a model with a longer context, or a scenario with shorter prompts (--output-len shortens answers)",
    "connection_refused": "start the server, or give its address with --base-url",
    "name_not_found": "check --base-url",
    "tls": "check --base-url and the certificate (--insecure skips the check)",
    "not_a_stream": "check --base-url and --endpoint",
    "redirect": "follow redirects with --engine-option transport=aiohttp",
}


def check_available(engine: type[Engine], name: str) -> None:
    """Whether the engine could start at all, before anything is fetched for it. Raises UserError."""
    ask = getattr(engine, "requirements", None)
    missing = ask() if ask is not None else None
    if missing is not None and missing.missing:
        raise UserError(f"engine '{name}': {missing.missing}", missing.fix)


def resolve_model(engine: type[Engine], name: str | None, say: Say) -> Model | None:
    """What `start` gets: weights on this machine, a served name, or nothing. Raises UserError."""
    if engine.weights == "none":
        if name is not None:
            raise UserError("this engine has no model", "leave out --model")
        return None
    if engine.weights == "remote":
        return None if name is None else Model(name=name)
    from bytemlperf_llm.models import DEFAULT_MODEL, resolve

    return resolve(name or DEFAULT_MODEL, say)


async def start_engine(engine: Engine, model: Model | None, options: dict[str, str], redactor: Redactor) -> EngineInfo:
    """Start it, learn its secrets. Raises UserError."""
    try:
        info = await engine.start(model, options)
    except EngineUnavailable as error:
        redactor.add(_secrets(engine))
        raise UserError(redactor(error.cause), redactor(error.fix)) from None
    redactor.add(_secrets(engine))
    if model is not None and model.random_weights and not any("random weights" in note for note in info.notes):
        info.notes.append("random weights: speed is that of this architecture, answers mean nothing")
    return info


def _secrets(engine: Engine) -> tuple[str, ...]:
    tell = getattr(engine, "secrets", None)
    return tuple(tell()) if tell is not None else ()


async def ready_check(engine: Engine, info: EngineInfo, request: Request, timeout_s: float, redactor: Redactor) -> None:
    """One untimed request with the longest prompt and one token of answer. Raises UserError."""
    short = msgspec.structs.replace(request, max_tokens=1, id=f"{request.id}-ready")
    recorder = RequestRecorder()
    try:
        async with asyncio.timeout(timeout_s):
            finish = await engine.generate(short, recorder)
        decoded = engine.decode(recorder.payloads)
        if decoded.error_class is not None:
            raise EngineError(decoded.error_class, decoded.error_detail)
    except EngineError as error:
        cause = redactor(f"the first request fails: {error.error_class.replace('_', ' ')}: {error.detail}")
        raise UserError(" ".join(cause.split()), _FIXES.get(error.error_class, "look at the engine's own log")) from None
    except TimeoutError:
        raise UserError(
            f"the first request got no answer in {timeout_s:g} s", "look at the engine's own log, or raise --first-token-timeout"
        ) from None
    _check_context(info, request, finish.usage or decoded.usage)


def _check_context(info: EngineInfo, request: Request, usage: Usage | None) -> None:
    if info.max_model_len is None or usage is None or usage.prompt_tokens is None:
        return
    needed = usage.prompt_tokens + request.max_tokens
    if needed > info.max_model_len:
        raise UserError(
            f"request {request.index} needs {needed} tokens of context ({usage.prompt_tokens} prompt + {request.max_tokens} answer), "
            f"and {info.model} has {info.max_model_len}",
            _FIXES["context_length"],
        )


async def warm_up(engine: Engine, workload: Workload, requests: int) -> None:
    """Unmeasured requests, a few at a time; the ready check has shown that they can work."""
    waiting = iter(range(requests))

    async def lane() -> None:
        for index in waiting:
            try:
                await engine.generate(workload.aside(index), RequestRecorder())
            except EngineError:
                continue  # the measured run will count the same failure

    await asyncio.gather(*(lane() for _ in range(min(WARMUP_CONCURRENCY, requests))))


async def resolve_rate(plan: Plan, engine: Engine, workload: Workload, pacer: Pacer) -> tuple[Scenario, ProbeResult | None]:
    """The scenario with its rate as a number. Raises UserError when the probe got no answer."""
    scenario = plan.scenario
    if scenario.arrival.rate != "auto":
        return scenario, None
    probe = Probe(engine, _aside(workload, scenario.warmup_requests), pacer)
    try:
        found = await probe.find(
            scenario.auto.probe_s, scenario.auto.share, mean_output_tokens(scenario, plan.flags.seed), scenario.arrival.max_concurrency
        )
    except EngineError as error:
        raise UserError(f"probing for a rate failed: {error.error_class}: {error.detail}", "give a rate with --request-rate") from None
    return scenario.override({"arrival.rate": found.rate_per_s}), found


def _aside(workload: Workload, first: int) -> Iterator[Request]:
    return (workload.aside(index, "probe") for index in count(first))


def mean_output_tokens(scenario: Scenario, seed: int) -> float:
    """Mean `max_tokens` of the first requests."""
    sample = [request.max_tokens for request in islice(Workload(scenario, seed), MEAN_SAMPLE_REQUESTS)]
    return sum(sample) / max(1, len(sample))


def longest_request(scenario: Scenario, seed: int) -> Request:
    """The request with the longest prompt among those that a run of this scenario may send; of a
    trace, one as long with other words, so that no prefix is cached before it is measured."""
    workload = Workload(scenario, seed)
    limit = min(workload.prompt_count or MEAN_SAMPLE_REQUESTS, scenario.num_requests or MEAN_SAMPLE_REQUESTS, MEAN_SAMPLE_REQUESTS)
    requests: Iterator[Request] = iter(workload)
    if scenario.arrival.process == "trace":  # the run may end long before the trace does
        requests = (planned.request for planned in schedule.open_schedule(scenario, workload, seed))
    longest = max(islice(requests, limit), key=lambda request: (request.text_length(), request.max_tokens), default=None)
    if longest is None:
        raise empty_schedule(scenario)
    return longest if scenario.prompts.trace is None else workload.aside(longest.index, "ready")


def empty_schedule(scenario: Scenario) -> UserError:
    """The error for a run without a request."""
    fix = "raise --duration or --request-rate"
    if scenario.prompts.trace is not None:
        fix = "widen --trace-window, raise --duration or --max-model-len, or take --on-too-long truncate"
    return UserError("the schedule is empty: no request falls into the run", fix)


def fit_prompts(plan: Plan, model: Model | None, info: EngineInfo) -> Plan:
    """The plan with what prompts made to length must know of the model: its tokenizer, whether its chat
    template is used, its context. What the user gave goes before what is found; the shorter context holds."""
    prompts = plan.scenario.prompts
    changes: dict[str, Any] = {}
    if prompts.tokenizer is None:
        changes["prompts.tokenizer"] = _tokenizer_of(model, info)
    if not plan.engine_options.get("endpoint", "/chat/completions").endswith("/chat/completions"):
        changes["prompts.template"] = "plain"
    if prompts.trace is not None:
        known = (prompts.trace.max_model_len, info.max_model_len, model.max_model_len if model else None)
        changes["prompts.trace.max_model_len"] = min((each for each in known if each is not None), default=None)
    elif prompts.synthetic is None or prompts.synthetic.tokens is None:
        return plan
    return replace(plan, scenario=plan.scenario.override(changes))


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
