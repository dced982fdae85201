"""What run.json says: the whole configuration, secrets redacted, and the facts a summary needs."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from bytemlperf.hardware.discover import discover, git_state, package_versions
from bytemlperf.redaction import Redactor
from bytemlperf.runs.folder import FORMAT_VERSION
from bytemlperf.version import __version__
from bytemlperf_llm.calibration.cache import client_section
from bytemlperf_llm.engine_registry import engine_class
from bytemlperf_llm.loadgen.probe import ProbeResult
from bytemlperf_llm.metrics.facts import RunFacts, SloMs
from bytemlperf_llm.plan.plan import Plan
from bytemlperf_llm.plan.scenario import Scenario, folder_of
from bytemlperf_llm.workload.schedule import ScheduleFacts
from engines.contract import EngineInfo

REPORTED_PACKAGES = ("bytemlperf-llm", "aiohttp", "uvloop", "msgspec", "numpy", "pydantic", "prometheus-client")


def describe_run(
    plan: Plan,
    scenario: Scenario,
    info: EngineInfo,
    planned: ScheduleFacts,
    probed: ProbeResult | None,
    command: list[str],
    redactor: Redactor,
) -> dict[str, Any]:
    """run.json as it stands before the first measured request."""
    flags = {name: value for name, value in plan.flags.recorded().items() if name != "headers"}
    engine = msgspec.to_builtins(info) | {"remote": engine_class(plan.flags.engine).weights == "remote"}
    description = {
        "format_version": FORMAT_VERSION,
        "kind": "llm",
        "label": plan.label,
        "started_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "command": command,
        "config": {
            "flags": flags,
            "scenario": scenario.model_dump(mode="json"),
            "scenario_folder": folder_of(scenario),
            "header_names": sorted(json.loads(plan.engine_options.get("headers", "{}"))),
            "engine_options": {key: value for key, value in plan.engine_options.items() if key != "headers"},
            "probe": None if probed is None else _probe(probed),
            "metadata": plan.metadata,
        },
        "seed": plan.flags.seed,
        "schedule_sha256": planned.sha256,
        "scheduled_requests": planned.requests,
        "prompts": {"lengths": planned.prompt_lengths, "trace": msgspec.to_builtins(planned.trace)},
        "environment": {
            "bytemlperf_llm": __version__,
            "python": sys.version.split()[0],
            "packages": package_versions(REPORTED_PACKAGES) | info.versions,
            "hardware": discover(),
            "git": git_state(Path.cwd()),
        },
        "engine": engine | {"name": plan.flags.engine},
        "client": client_section(),
        "facts": msgspec.to_builtins(facts_of(scenario, planned.requests, info)),
    }
    redacted = redactor.deep(description)
    assert isinstance(redacted, dict)
    return redacted


class Part(NamedTuple):
    """What a resumed part adds: its logs' names, what is added to planned times, where the time axis goes on."""

    logs: list[str]
    shift_ns: int
    begin_ns: int
    records_before: int


def resumed(run_json: dict[str, Any], info: EngineInfo, part: Part, command: list[str], redactor: Redactor) -> dict[str, Any]:
    """run.json of a run that goes on: one more entry in `resumed`, which also keeps the ending before."""
    entry = {
        "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "command": command,
        "logs": part.logs,
        "shift_ns": part.shift_ns,
        "begin_ns": part.begin_ns,
        "records_before": part.records_before,
        "end_before": run_json.get("end"),
        "engine": msgspec.to_builtins(info),
    }
    facts = run_json["facts"] | ({"scheduled_requests": None} if run_json["scheduled_requests"] is None else {})
    goes_on = {key: value for key, value in run_json.items() if key != "end"}
    return goes_on | {"facts": facts, "resumed": [*run_json.get("resumed", []), redactor.deep(entry)]}


def facts_of(scenario: Scenario, scheduled_requests: int | None, info: EngineInfo) -> RunFacts:
    """What the metrics need to know besides the records."""
    arrival = scenario.arrival
    return RunFacts(
        open_loop=arrival.process != "closed",
        process=arrival.process,
        burstiness=arrival.burstiness,
        requested_rate=float(arrival.rate) if isinstance(arrival.rate, int | float) else None,
        scheduled_requests=scheduled_requests,
        max_concurrency=arrival.max_concurrency,
        slo_ms=SloMs(ttft=scenario.slo.ttft_ms, tpot=scenario.slo.tpot_ms, e2e=scenario.slo.e2e_ms),
        engine_reports=tuple(info.reports),
        ignore_eos=scenario.sampling.ignore_eos,
    )


def finished(
    run_json: dict[str, Any], issued: int, loop_utilisation: float, stopped: bool, failure: str, duration_ns: int
) -> dict[str, Any]:
    """run.json with how the run ended. `issued` and `duration_ns` are of all its parts."""
    busiest = max(loop_utilisation, run_json["facts"].get("loop_utilisation") or 0.0)
    facts = run_json["facts"] | {"loop_utilisation": round(busiest, 4)}
    if facts["scheduled_requests"] is None:
        facts["scheduled_requests"] = issued
    end = {"issued_requests": issued, "stopped_by_user": stopped and not failure, "failure": failure, "duration_ns": duration_ns}
    return run_json | {"facts": facts, "end": end}


def _probe(probed: ProbeResult) -> dict[str, Any]:
    return {
        "steps": [step._asdict() for step in probed.steps],
        "best_concurrency": probed.best.concurrency,
        "tokens_per_s": probed.best.tokens_per_s,
        "mean_output_tokens": probed.mean_output_tokens,
        "share": probed.share,
        "chosen_rate_per_s": probed.rate_per_s,
        "ceiling_found": probed.ceiling_found,
        "requests": probed.requests,
        "seconds": probed.seconds,
        "why": probed.sentence(),
    }
