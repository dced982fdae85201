"""A run as llm-d's Benchmark Report v0.2 (llm-d/llm-d-benchmark, benchmark_report/schema_v0_2.py): one YAML file.

Latencies are ours: from when a request was due, so that a queue in the client counts, as `load.metadata.description` says. A percentile
that the sample can't carry is left out. An engine in this process is an `inference_engine`; of a server over HTTP neither replicas nor
parallelism are known, so it is a `generic` component.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from bytemlperf.errors import UserError
from bytemlperf.hardware import measured
from bytemlperf.runs.files import UNREADABLE, json_of, why
from bytemlperf.runs.folder import part, write_text
from bytemlperf.units import NS_PER_S
from bytemlperf.version import __version__
from bytemlperf_llm.plan.scenario import Constant, Lengths, Normal, Scenario, Uniform, scenario_of
from bytemlperf_llm.record.record import RequestRecord

NAME = "llm-d-report.yaml"
TOOL = "bytemlperf-llm"
FROM_DUE = "latencies run from when a request was due (closed loop: sent)"
LATENCIES = {
    "time_to_first_token": ("ttft", "s"),
    "time_per_output_token": ("tpot", "s/token"),
    "normalized_time_per_output_token": ("ntpot", "s/token"),
    "inter_token_latency": ("itl", "s/token"),
    "request_latency": ("e2e", "s"),
}
RATES = {
    "request_rate": (("request_throughput",), "queries/s"),
    "input_token_rate": (("input_token_throughput",), "tokens/s"),
    "output_token_rate": (("output_token_throughput",), "tokens/s"),
    "total_token_rate": (("input_token_throughput", "output_token_throughput"), "tokens/s"),
}
PARALLELISM = {"tp": "tensor_parallel_size", "pp": "pipeline_parallel_size", "dp": "data_parallel_size"}


class LlmDReport:
    """Takes the records for the lengths, and the rest from run.json and the summary."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._prompts: list[int] = []
        self._outputs: list[int] = []

    def add(self, record: RequestRecord) -> None:
        if record.outcome == "ok":
            self._outputs += [] if record.inputs else [record.output_tokens]
            if record.prompt_tokens is not None:
                self._prompts.append(record.prompt_tokens)

    def close(self, run: dict[str, Any]) -> None:
        try:
            summary = json_of(self._folder / "summary.json")
        except UNREADABLE as error:
            raise UserError(
                f"{self._folder / 'summary.json'} can't be read: {why(error)}", f"write it with: bmp summarize {self._folder}"
            ) from None
        report = report_of(self._folder.name, run, summary, self._prompts, self._outputs)
        try:
            write_text(self._folder / NAME, yaml.safe_dump(report, sort_keys=False, allow_unicode=True))
        except OSError as error:
            raise UserError(f"can't write {self._folder / NAME}: {error.strerror}", "free disk space") from None


def report_of(
    uid: str, run: Mapping[str, Any], summary: Mapping[str, Any], prompts: Sequence[int], outputs: Sequence[int]
) -> dict[str, Any]:
    """The whole report; `prompts` and `outputs` are the answers' lengths in tokens. Raises UserError where run.json holds no scenario."""
    end, scenario = part(run, "end"), scenario_of(dict(run))
    time = {"start": run.get("started_at"), "end": end.get("at"), "duration": f"PT{(end.get('duration_ns') or 0) / NS_PER_S:.6f}S"}
    about = {"uid": uid, "time": _there(time), "description": f"{run.get('label')}: {summary['verdict']}", "keywords": [scenario.name]}
    return {
        "version": "0.2",
        "run": about,
        "scenario": {"stack": [_engine(run)], "load": _load(run, scenario, prompts)},
        "results": {"request_performance": {"aggregate": _aggregate(summary, prompts, outputs)}},
    }


def _there(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _identity(config: object) -> str:
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:32]


def _engine(run: Mapping[str, Any]) -> dict[str, Any]:
    engine, options = part(run, "engine"), part(run, "config", "engine_options")
    name = str(engine.get("name"))
    versions = engine.get("versions") if isinstance(engine.get("versions"), dict) else {}
    described: dict[str, Any] = {"tool": name, "tool_version": str((versions or {}).get(name, "not known"))}
    if measured.is_remote(run):
        described |= {"kind": "generic", "model": engine.get("model"), "device": measured.device_text(run, engine)}
    else:
        hardware = measured.hardware_of(run)
        gpus = hardware.get("gpus") or []
        cpu = part(hardware, "cpu")
        model, count = (str(gpus[0].get("name")), len(gpus)) if gpus else (str(cpu.get("model") or "CPU"), int(cpu.get("sockets") or 1))
        sizes = {short: int(options[key]) for short, key in PARALLELISM.items() if str(options.get(key, "")).isdigit()}
        described |= {
            "kind": "inference_engine",
            "role": "replica",
            "replicas": 1,
            "model": {"name": str(engine.get("model"))},
            "accelerator": {"model": model, "count": count, "parallelism": sizes},
        }
    native = {"args": options, "config": {"dtype": engine.get("dtype"), "versions": versions}}
    return {"metadata": {"label": name, "cfg_id": _identity([described, native])}, "standardized": described, "native": native}


def _load(run: Mapping[str, Any], scenario: Scenario, prompts: Sequence[int]) -> dict[str, Any]:
    arrival, synthetic = scenario.arrival, scenario.prompts.synthetic
    open_loop = arrival.process != "closed"
    asked = None if synthetic is None else synthetic.tokens or synthetic.words
    standardized = {
        "tool": TOOL,
        "tool_version": __version__,
        "parallelism": max(1, len(run.get("workers") or [])),
        "source": "random" if synthetic is not None else "sampled",
        "input_seq_len": _length(asked) or _measured_length(prompts),
        "output_seq_len": _length(scenario.output_tokens) if scenario.prompts.task == "generate" else None,
        "rate_qps": arrival.rate if isinstance(arrival.rate, float) else None,
        "concurrency": arrival.max_concurrency or (math.inf if open_loop else None),
    }
    config = part(run, "config", "scenario")
    metadata = {"cfg_id": _identity(config), "description": f"{scenario.description}; {arrival.sentence()}; {FROM_DUE}"}
    return {"metadata": metadata, "standardized": _there(standardized), "native": {"config": config}}


def _length(lengths: Lengths | None) -> dict[str, Any] | None:
    """A distribution as the report has it; None where it has no such one."""
    if isinstance(lengths, Constant):
        return {"distribution": "fixed", "value": lengths.value}
    if isinstance(lengths, Normal):
        return {"distribution": "gaussian", "value": lengths.mean, "std_dev": lengths.std, "min": lengths.min, "max": lengths.max}
    if isinstance(lengths, Uniform):
        return {"distribution": "uniform", "value": (lengths.min + lengths.max) / 2, "min": lengths.min, "max": lengths.max}
    mean = getattr(lengths, "mean", None)
    return None if mean is None else {"distribution": "other", "value": mean, **_there({"max": getattr(lengths, "max", None)})}


def _measured_length(tokens: Sequence[int]) -> dict[str, Any]:
    return {"distribution": "other", "value": sum(tokens) / len(tokens) if tokens else 0} | ({"max": max(max(tokens), 1)} if tokens else {})


def _aggregate(summary: Mapping[str, Any], prompts: Sequence[int], outputs: Sequence[int]) -> dict[str, Any]:
    outcomes, metrics, rates = summary["outcomes"], summary["metrics"], summary["rates"]
    requests = {
        "total": summary["scheduled"] - outcomes["dropped"],
        "failures": outcomes["failed"],
        "incomplete": outcomes["in_flight"] + outcomes["cancelled"],
        "input_length": _counts(prompts),
        "output_length": _counts(outputs),
    }
    latency = {name: _statistics(metrics[key], units) for name, (key, units) in LATENCIES.items() if key in metrics}
    sums = {name: [rates.get(key, {}).get("value") for key in keys] for name, (keys, _) in RATES.items()}
    throughput = {name: {"units": RATES[name][1], "mean": sum(values)} for name, values in sums.items() if None not in values}
    return {"requests": _there(requests), "latency": latency, "throughput": throughput}


def _statistics(metric: Mapping[str, Any], units: str) -> dict[str, Any]:
    """In seconds; percentiles as claimed."""
    claimed = {f"p{text.replace('.', 'p')}": at for text, at in metric["percentiles"].items() if isinstance(at, int | float)}
    values = {"mean": metric["mean"], "stddev": metric["std"], "min": metric["min"], **claimed, "max": metric["max"]}
    return {"units": units, **{name: value / NS_PER_S for name, value in values.items() if value is not None}}


def _counts(tokens: Sequence[int]) -> dict[str, Any] | None:
    return {"units": "count", "mean": sum(tokens) / len(tokens), "min": min(tokens), "max": max(tokens)} if tokens else None
