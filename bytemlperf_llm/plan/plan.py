"""From flags and a scenario file to one resolved plan. Everything that can be checked before
anything starts is checked here; what a flag means is written once, in `_overrides`."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from bytemlperf.command.flags import MetricsOutput, RunOutput, pairs
from bytemlperf.errors import UserError
from bytemlperf_llm.launch.presets import command_of, needs_model
from bytemlperf_llm.metrics.until import Until, parse_until
from bytemlperf_llm.plan import dataset as dataset_flags
from bytemlperf_llm.plan import scenario as scenarios
from bytemlperf_llm.plan.files import Files, files_of
from bytemlperf_llm.plan.flags import Engine, Flags, Limits
from bytemlperf_llm.plan.flags import Load as LoadFlags
from bytemlperf_llm.plan.scenario import Scenario
from engines.untrusted import decode_json

DEFAULT_TRACE_PORT = 4318
"""OTLP's own for HTTP."""
OPEN_PROCESSES = ("poisson", "constant", "gamma")
SLO_KEYS = {"ttft": "ttft_ms", "tpot": "tpot_ms", "e2el": "e2e_ms", "session": "session_ms"}


@dataclass(frozen=True, kw_only=True)
class EngineChoice:
    """What is measured. `options` are all of the engine's, by whatever flag they were given; `model` None is the engine's default, `launch`
    the command line or preset that starts the server, `otlp` where that is to send its spans."""

    name: str
    model: str | None
    options: dict[str, str]
    ready_timeout_s: float
    launch: str | None = None
    otlp: str = ""

    def with_options(self, options: dict[str, str]) -> EngineChoice:
        """With more of them."""
        return replace(self, options=self.options | options)

    def traced(self, trace_key: str, otlp: str) -> EngineChoice:
        """With a traceparent on every request; a server that is started sends its spans to `otlp`."""
        return replace(self.with_options({"trace_key": trace_key}), otlp=otlp)


@dataclass(frozen=True, kw_only=True)
class Load:
    """What is sent, and by whom. `scenario` has every override in it; `workers` None is as many as there is room for, `ray` the address
    of the cluster that they are on, `max_error_rate` the share of failed requests that ends the run, `until` what ends it early."""

    scenario: Scenario
    seed: int
    workers: int | None
    ray: str | None
    max_error_rate: float | None
    until: Until | None = None


@dataclass(frozen=True, kw_only=True)
class Output:
    """What is left, and shown meanwhile. `label` is of the run folder's name; on `trace_port` the server's spans are
    received, where that is asked for."""

    run: RunOutput
    label: str
    metadata: dict[str, str]
    keep_output: bool
    verbose: bool
    report: bool
    calibrate: bool
    files: Files
    metrics: MetricsOutput
    trace_port: int | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What will be run. `flags` are those that it was made of, as run.json has them; nothing is decided by them any more."""

    engine: EngineChoice
    load: Load
    output: Output
    flags: dict[str, Any]

    def with_scenario(self, changes: Mapping[str, Any]) -> Plan:
        """The plan with these keys of its scenario changed. Raises UserError."""
        return replace(self, load=replace(self.load, scenario=self.load.scenario.override(changes)))


def with_server(flags: Flags) -> Flags:
    """An address, or a server to start, without an engine is an OpenAI-compatible server's. One that is started with a checkpoint of this
    machine has its tokenizer."""
    if flags.launch is not None and flags.tokenizer is None and needs_model(command_of(flags.launch)):
        from bytemlperf.models.resolve import DEFAULT_MODEL  # here, so that a plan of no such server is quick

        flags = flags.changed(tokenizer=flags.model or DEFAULT_MODEL)
    is_server = (flags.base_url is not None or flags.launch is not None) and flags.engine == Flags().engine
    return flags.changed(engine="openai") if is_server else flags


def resolve(flags: Flags) -> Plan:
    """Raises UserError for the first thing that is wrong."""
    flags = with_server(flags)
    _check_flags(flags)
    scenario = scenarios.load(flags.scenario)
    return plan_for(flags, scenario.override(_overrides(flags, scenario)))


def plan_again(flags: Flags, changes: Flags, scenario: Scenario) -> Plan:
    """The plan of a run's resolved scenario, with what `changes` alone says of it. Raises UserError."""
    _check_flags(changes)
    return plan_for(flags, scenario.override(_overrides(changes, scenario)))


def plan_for(flags: Flags, scenario: Scenario) -> Plan:
    """The plan of a scenario that is resolved already. Raises UserError."""
    options = _engine_options(flags, scenario)
    engine = EngineChoice(
        name=flags.engine, model=flags.model, options=options, ready_timeout_s=flags.ready_check_timeout_s, launch=flags.launch
    )
    load = Load(
        scenario=scenario,
        seed=flags.seed,
        workers=_workers(flags, scenario),
        ray=flags.ray,
        max_error_rate=flags.max_error_rate,
        until=_until(flags, scenario),
    )
    output = Output(
        run=flags.part(RunOutput),
        label=flags.label or f"{flags.engine}-{scenario.name}",
        metadata=pairs("--metadata", flags.metadata),
        keep_output=flags.keep_output or flags.save_detailed,
        verbose=flags.verbose,
        report=flags.report,
        calibrate=flags.calibrate,
        files=files_of(flags),
        metrics=flags.part(MetricsOutput),
        trace_port=_trace_port(flags),
    )
    return Plan(engine=engine, load=load, output=output, flags=flags.recorded())


# -- checks ----------------------------------------------------------------------


def _check_flags(flags: Flags) -> None:
    if flags.device is not None:
        from bytemlperf.hardware import cards, measured  # reads the cards: only where one is named

        measured.parse_device(flags.device, cards.load())
    _check_ramp(flags)
    if flags.request_rate == "inf" and flags.num_prompts is None and flags.dataset_name is None:
        raise UserError("--request-rate inf sends all at once, and nothing says how many", "add --num-prompts")
    if flags.burstiness not in (None, 1.0) and flags.request_rate == "inf":
        raise UserError("--burstiness and --request-rate inf contradict each other", "give a finite --request-rate")


def _check_ramp(flags: Flags) -> None:
    given = [value is not None for value in (flags.ramp_up_strategy, flags.ramp_up_start_rps, flags.ramp_up_end_rps)]
    if not any(given):
        return
    if not all(given):
        raise UserError("a ramp needs three flags", "give --ramp-up-strategy, --ramp-up-start-rps and --ramp-up-end-rps together")
    if flags.request_rate is not None:
        raise UserError("--request-rate and --ramp-up-strategy contradict each other", "remove one of them")


def parse_rate(text: str) -> float | str:
    """`--request-rate`: a number above 0, `inf` for all at once, or `auto`. Raises UserError."""
    if text == "auto":
        return text
    try:
        rate = float(text)
    except ValueError:
        rate = math.nan
    if not rate > 0:
        raise UserError(f"--request-rate {text} is not a rate", "give requests per second above 0, 'inf' for all at once, or 'auto'")
    return rate


# -- what flags mean ----------------------------------------------------------------


def _overrides(flags: Flags, scenario: Scenario) -> dict[str, Any]:
    changes: dict[str, Any] = {"arrival": _arrival(flags, scenario), **dataset_flags.prompt_changes(flags, scenario)}
    if {flags.num_prompts, flags.num_sessions, flags.duration_s} != {None} or dataset_flags.names_bounded(flags):
        # the flag alone bounds the run: 1,000 prompts are asked for, not 1,000 within the file's 60 s;
        # and a trace that is named on the command line ends by itself
        changes["num_requests"], changes["num_sessions"] = flags.num_prompts, flags.num_sessions
        changes["duration_s"] = flags.duration_s
    if flags.output_len is not None:
        changes["output_tokens"] = dataset_flags.lengths(flags.output_len, flags.random_range_ratio)
    changes |= {key: value for part in (LoadFlags, Limits) for key, (_, value) in flags.settings(part).items()}
    changes |= _slo(flags.goodput)
    replaced = {"slo" if flags.goodput else "", *changes} & {"prompts", "output_tokens", "slo"}  # of every class: none keeps its own
    return changes | {f"classes.{name}.{key}": None for name in scenario.classes for key in replaced}


def _arrival(flags: Flags, scenario: Scenario) -> dict[str, Any]:
    arrival: dict[str, Any] = msgspec.to_builtins(scenario.arrival)
    timed = flags.request_rate is not None or flags.ramp_up_strategy is not None or dataset_flags.replays_times(flags)
    if timed and scenario.prompts.sessions is not None and arrival["process"] == "closed":
        arrival["max_concurrency"] = None  # so many users, and no limit on requests
    if dataset_flags.replays_times(flags) and flags.request_rate is None:
        arrival |= {"process": "trace", "rate": None, "ramp": None, "burstiness": 1.0}
    if flags.ramp_up_strategy is not None:
        arrival |= {"process": "poisson", "rate": None}
        arrival["ramp"] = {
            "strategy": flags.ramp_up_strategy,
            "start_rate": flags.ramp_up_start_rps,
            "end_rate": flags.ramp_up_end_rps,
        }
    elif flags.request_rate is not None:
        rate = parse_rate(flags.request_rate)
        if rate == math.inf:
            arrival |= {"process": "at_once", "rate": None, "ramp": None, "burstiness": 1.0}
        else:
            process = arrival["process"] if arrival["process"] in OPEN_PROCESSES else "poisson"
            arrival |= {"process": process, "rate": rate, "ramp": None}
    elif flags.max_concurrency is not None and arrival["rate"] == "auto" and arrival["max_concurrency"] is None:
        # a closed loop; a scenario with a rate, ramp, trace or cap of its own keeps them
        arrival |= {"process": "closed", "rate": None, "burstiness": 1.0}
    if flags.max_concurrency is not None:
        arrival["max_concurrency"] = flags.max_concurrency
    if flags.burstiness is not None and (flags.burstiness, arrival["process"]) != (1.0, "at_once"):
        if arrival["process"] not in OPEN_PROCESSES:
            raise UserError("--burstiness needs a rate, and closed loops and traces have none", "add --request-rate")
        arrival["process"] = {1.0: "poisson", math.inf: "constant"}.get(flags.burstiness, "gamma")  # as in vLLM
        arrival["burstiness"] = 1.0 if flags.burstiness == math.inf else flags.burstiness
    return arrival


def _slo(texts: tuple[str, ...]) -> dict[str, float | None]:
    """`--goodput ttft:500 tpot:50 e2el:10000`, milliseconds: these alone, as in vLLM."""
    slo: dict[str, float | None] = {f"slo.{key}": None for key in SLO_KEYS.values()} if texts else {}
    for word in " ".join(texts).split():
        name, colon, limit_ms = word.partition(":")
        try:
            value = float(limit_ms)
        except ValueError:
            value = math.nan
        if name not in SLO_KEYS or not colon or not value > 0:
            raise UserError(f"--goodput {word!r} is not a service level", "give ttft:MS, tpot:MS, e2el:MS or session:MS, in milliseconds")
        slo[f"slo.{SLO_KEYS[name]}"] = value
    return slo


def _engine_options(flags: Flags, scenario: Scenario) -> dict[str, str]:
    options = pairs("--engine-option", flags.engine_options)
    _check_headers(options.get("headers", "{}"))
    if not scenario.classes and any("{class}" in header for header in flags.headers):
        raise UserError(f"a --header names the {{class}}, and scenario '{scenario.name}' has no classes", "use {session} or {request}")
    given = flags.settings(Engine)
    twice = sorted(given.keys() & options.keys())
    if twice:
        raise UserError(f"{twice[0]} is given twice, as a flag and as --engine-option", "remove one of them")
    if given and flags.engine != "openai":
        flag = next(iter(given.values()))[0]
        raise UserError(f"{flag} is for servers, and engine '{flags.engine}' runs in process", "use --engine openai, or leave it out")
    return options | {key: _option_text(value) for key, (_, value) in given.items()}


def _option_text(value: Any) -> str:
    """A flag's value as an engine's option has it; headers as JSON."""
    return _headers(value) if isinstance(value, tuple) else str(value).lower() if isinstance(value, bool) else str(value)


def roles_of(engine_options: Mapping[str, str]) -> tuple[str, ...]:
    """The roles that addresses of `--base-url` have."""
    found = (re.match(r"([a-z]+)=", address) for address in engine_options.get("base_url", "").split())
    return tuple(match[1] for match in found if match)


def _headers(texts: tuple[str, ...]) -> str:
    headers: dict[str, str] = {}
    for text in texts:
        separator = ":" if ":" in text else "="  # vLLM's own form is KEY=VALUE
        name, found, value = text.partition(separator)
        if not found or not name.strip():
            raise UserError("a --header has no name or no value", "give it as 'NAME: VALUE'")
        headers[name.strip()] = value.strip()
    return json.dumps(headers)


def _check_headers(text: str) -> None:
    """Before anything looks for secrets in them. Their text is in no message. Raises UserError."""

    try:
        headers = decode_json(text)
    except ValueError:
        headers = None
    if not isinstance(headers, dict):
        raise UserError("--engine-option headers is not a JSON object", "give headers as --header 'NAME: VALUE'")


def _trace_port(flags: Flags) -> int | None:
    if not flags.trace_requests and flags.trace_port is None:
        return None
    if flags.engine != "openai":
        raise UserError(
            f"--trace-requests is for servers, and engine '{flags.engine}' runs in process", "leave it out: it has stamps itself"
        )
    return DEFAULT_TRACE_PORT if flags.trace_port is None else flags.trace_port


def _workers(flags: Flags, scenario: Scenario) -> int | None:
    workers = parse_workers(flags.workers) if flags.workers is not None else 1 if flags.ray is None else None
    if scenario.mlperf == "multi_stream" and (workers != 1 or flags.ray is not None):
        raise UserError("the samples of a MultiStream query are sent by one worker", "leave out --workers and --ray")
    return workers


def _until(flags: Flags, scenario: Scenario) -> Until | None:
    if flags.until is None:
        return None
    if scenario.arrival.ramp is not None:
        raise UserError("--until needs one load, and a ramp has many", "give --request-rate in its place")
    if _workers(flags, scenario) != 1 or flags.ray is not None:
        raise UserError("--until looks at the requests of one worker", "leave out --workers and --ray")
    return parse_until(flags.until)


def parse_workers(text: str) -> int | None:
    """`--workers`: a number from 1, or None for `auto`. Raises UserError."""
    if text == "auto":
        return None
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise UserError(f"--workers {text} is not a number of workers", "give 1 or more, or 'auto'")
    return int(text)
