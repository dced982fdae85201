"""What run.json says: the whole configuration, secrets redacted, and the facts a summary needs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec

from bytemlperf.checked import plain
from bytemlperf_llm.calibration.cache import client_section
from bytemlperf_llm.live.targets import slo_ms
from bytemlperf_llm.loadgen.engine_start import engine_class
from bytemlperf_llm.loadgen.probe import ProbeResult
from bytemlperf_llm.metrics.facts import ClassFacts, RunFacts, SessionFacts
from bytemlperf_llm.plan.plan import Plan, roles_of
from bytemlperf_llm.plan.scenario import Scenario, folder_of, scenario_of, seed_of
from bytemlperf_llm.run.limits import limits_of
from bytemlperf_llm.run.rebuild import AS_IS, CacheBefore
from bytemlperf_llm.workload.schedule import Schedule, ScheduleFacts
from engines.contract import EngineInfo, Model

REPORTED_PACKAGES = ("aiohttp", "uvloop", "msgspec", "numpy", "prometheus-client")


def described(
    plan: Plan,
    scenario: Scenario,
    info: EngineInfo,
    planned: ScheduleFacts,
    probed: ProbeResult | None,
    cache: CacheBefore = AS_IS,
    model: Model | None = None,
) -> dict[str, Any]:
    """What `SuiteRun.describe` takes: run.json as it stands before the first measured request. `model` is what the engine loaded."""
    flags = {name: value for name, value in plan.flags.items() if name != "headers"}
    choice = plan.engine
    described_run: dict[str, Any] = {
        "config": {
            "flags": flags | {"seed": plan.load.seed},
            "scenario": plain(scenario),
            "scenario_folder": folder_of(scenario),
            "header_names": sorted(json.loads(choice.options.get("headers", "{}"))),
            "engine_options": {key: value for key, value in choice.options.items() if key != "headers"},
            "probe": None if probed is None else _probe(probed),
            "metadata": plan.output.metadata,
            "until": None if plan.load.until is None else {"asked": plan.load.until.text, "budget": planned.requests},
        },
        "seed": plan.load.seed,
        "packages": REPORTED_PACKAGES,
        "versions": info.versions,
        "more": {
            "schedule_sha256": planned.sha256,
            "scheduled_requests": planned.requests,
            "prompts": {"lengths": planned.prompt_lengths, "trace": msgspec.to_builtins(planned.trace), **planned.of_sessions()},
            "engine": described_engine(info, choice.name),
            "cache": msgspec.to_builtins(cache),
            "client": client_section(),
            "facts": msgspec.to_builtins(facts_of(scenario, planned.requests, choice.options)),
        },
    }
    limits = limits_of({"config": described_run["config"], "engine": described_run["more"]["engine"]}, model)
    if limits is not None:
        described_run["more"]["limits"] = msgspec.to_builtins(limits)
    return described_run


def described_engine(info: EngineInfo, name: str) -> dict[str, Any]:
    """`engine` of run.json."""
    engine: dict[str, Any] = msgspec.to_builtins(info)
    return engine | {"remote": engine_class(name).weights == "remote", "name": name}


def facts_of(scenario: Scenario, scheduled_requests: int | None, engine_options: Mapping[str, str]) -> RunFacts:
    """What the metrics need to know besides the records."""
    arrival, sessions = scenario.arrival, scenario.prompts.sessions
    rate = float(arrival.rate) if isinstance(arrival.rate, int | float) else None
    return RunFacts(
        open_loop=arrival.process != "closed",
        process=arrival.process,
        burstiness=arrival.burstiness,
        requested_rate=None if sessions else rate,
        scheduled_requests=scheduled_requests,
        max_concurrency=None if sessions and arrival.process == "closed" else arrival.max_concurrency,
        slo_ms=slo_ms(scenario.slo),
        ignore_eos=scenario.sampling.ignore_eos,
        sessions=SessionFacts(answers=sessions.answers, requested_rate=rate) if sessions else None,
        classes=tuple(
            ClassFacts(name=name, share=keys.share, slo_ms=slo_ms(keys.slo or scenario.slo)) for name, keys in scenario.classes.items()
        ),
        roles=roles_of(engine_options),
    )


def finish_facts(run: dict[str, Any], issued: int, loop_utilisation: float) -> None:
    """What is known at the end alone. `issued` is of all parts of the run."""
    facts = run["facts"]
    facts["loop_utilisation"] = round(max(loop_utilisation, facts.get("loop_utilisation") or 0.0), 4)
    if facts["scheduled_requests"] is None:
        facts["scheduled_requests"] = issued


def first_requests(run: dict[str, Any], requests: int) -> dict[str, Any]:
    """What `reschedule` takes, of a run of so many requests, which are whole sessions where it has some."""
    sessions = Schedule(scenario_of(run), seed_of(run)).workload().sessions
    return {"num_requests": requests} if sessions is None else {"num_sessions": sessions.number(requests - 1) + 1, "duration_s": None}


def reschedule(run: dict[str, Any], changes: dict[str, Any]) -> None:
    """run.json of a run with another number of requests, whose schedule begins as this one's does."""
    scenario = scenario_of(run).override(changes)
    planned = Schedule(scenario, seed_of(run)).describe()
    run["config"]["scenario"] |= {name: getattr(scenario, name) for name in changes}
    run["prompts"] |= {"trace": msgspec.to_builtins(planned.trace), **planned.of_sessions()}
    run["facts"]["scheduled_requests"] = planned.requests
    run |= {"schedule_sha256": planned.sha256, "scheduled_requests": planned.requests}


def _probe(probed: ProbeResult) -> dict[str, Any]:
    return {
        "steps": [step._asdict() for step in probed.steps],
        "best_concurrency": probed.best.concurrency,
        "tokens_per_s": probed.best.tokens_per_s,
        "mean_output_tokens": probed.mean_output_tokens,
        "share": probed.share,
        "chosen_rate_per_s": probed.arrivals_per_s,
        "ceiling_found": probed.ceiling_found,
        "requests": probed.requests,
        "seconds": probed.seconds,
        "why": probed.sentence(),
    }
