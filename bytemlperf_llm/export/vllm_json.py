"""A result file with the keys and the meaning of `vllm bench serve --save-result`.

For tools that already read those files. The meaning is vLLM's, not ours: latencies run from the
moment a request was sent, so time spent waiting in the client is left out; `itl` is the gap
between chunks, however many tokens a chunk carries; percentiles are linear (numpy's default);
standard deviations are of the population; rates divide by the whole duration. Keys, their order and
formulas follow `vllm/benchmarks/serve.py` of vLLM 0.33. summary.json has our definitions.

    tokenizer_id     what --tokenizer names, else the model
    start_times      seconds of the client's monotonic clock (vLLM's time.perf_counter)
    queue_times      seconds from when a request was due to its sending; with a cap and no rate all are due at once
    request_goodput  null unless --goodput was given; a single token meets any TPOT
    rtfx             seconds of audio sent per second: 0 here
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from itertools import accumulate
from pathlib import Path
from typing import Any

import msgspec

from bytemlperf.arrivals import processes as arrivals
from bytemlperf.arrivals.processes import Ramp
from bytemlperf.lazy import numpy
from bytemlperf.runs.files import writing
from bytemlperf.statistics.statistics import parse_percentile
from bytemlperf.units import NS_PER_S
from bytemlperf_llm.metrics.definitions import chunk_gaps_ns, last_ns, token_times
from bytemlperf_llm.metrics.facts import RunFacts
from bytemlperf_llm.record.record import RequestRecord

MS_PER_S = 1_000
DEFAULT_PERCENTILES = ("99",)
DATE_FORMAT = "%Y%m%d-%H%M%S"
METRICS = ("ttft", "tpot", "itl", "e2el", "client_queue_time", "e2el_including_client_queue")
DETAILED_KEYS = ("input_lens", "output_lens", "start_times", "ttfts", "itls", "generated_texts", "errors")
"""Lists that only --save-detailed keeps; vLLM keeps latencies and queue_times in any case."""


class VllmSetup(msgspec.Struct, frozen=True, kw_only=True):
    """The file's set-up keys that records don't hold. `date` is the run's start as
    %Y%m%d-%H%M%S; `metadata` becomes keys of its own, as `--metadata KEY=VALUE` does."""

    date: str
    backend: str
    model_id: str
    tokenizer_id: str | None
    label: str | None = None
    num_prompts: int | None = None  # the records' number, where None
    metadata: dict[str, str] = {}
    clock_origin_ns: int = 0
    ramp: Ramp | None = None


class _Output(msgspec.Struct, kw_only=True):
    """One request as vLLM's client sees it; seconds."""

    success: bool
    prompt_len: int
    output_len: int
    start_s: float
    queue_s: float = 0.0
    ttft_s: float = 0.0
    latency_s: float = 0.0
    itl_s: list[float] = []
    text: str = ""
    error: str = ""


def vllm_result(
    records: Iterable[RequestRecord],
    facts: RunFacts,
    setup: VllmSetup,
    *,
    percentiles: Sequence[str] = DEFAULT_PERCENTILES,
    detailed: bool = False,
) -> dict[str, Any]:
    """The content of the file. `detailed` adds the per-request lists of `--save-detailed`."""
    kept = sorted(records, key=lambda record: (record.index, record.id))
    outputs = [_output(record, setup.clock_origin_ns) for record in kept]
    duration_s = max((record.end_ns for record in kept), default=0) / NS_PER_S
    result = {**_setup_keys(facts, setup, len(kept)), **_result_keys(outputs, facts, duration_s)}
    if setup.ramp is not None:
        result["rps_change_events"] = _rate_changes(kept, setup)
    for name, values in _latencies(outputs, facts).items():
        result.update(_statistic_keys(name, values, percentiles))
    return result if detailed else {key: value for key, value in result.items() if key not in DETAILED_KEYS}


def _latencies(outputs: Sequence[_Output], facts: RunFacts) -> dict[str, list[float]]:
    """Values of each metric that vLLM gives statistics of, seconds."""
    answered = [output for output in outputs if output.success]
    latencies = {
        "ttft": [output.ttft_s for output in answered],
        "tpot": [_tpot_s(output) for output in answered if output.output_len > 1],
        "itl": [gap for output in answered for gap in output.itl_s],
        "e2el": [output.latency_s for output in answered],
    }
    if facts.max_concurrency is not None:
        latencies["client_queue_time"] = [output.queue_s for output in answered]
        if facts.requested_rate is not None:
            latencies["e2el_including_client_queue"] = [output.latency_s + output.queue_s for output in answered]
    return latencies


def write_vllm_json(path: Path, result: dict[str, Any]) -> None:
    """Write the file. Raises UserError where it can't be written."""
    with writing(path, "give another --result-dir or --result-filename"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(msgspec.json.encode(result) + b"\n")


def _output(record: RequestRecord, origin_ns: int) -> _Output:
    times = token_times(record)
    output = _Output(success=False, prompt_len=record.prompt_tokens or 0, output_len=0, start_s=0.0, text=record.output or "")
    if record.sent_ns is not None:
        output.start_s = (origin_ns + record.sent_ns) / NS_PER_S
        output.queue_s = max(0, record.sent_ns - (record.planned_ns or 0)) / NS_PER_S
    end_ns = last_ns(record)
    if record.outcome != "ok" or end_ns is None or record.sent_ns is None:
        output.error = record.error_detail or record.error_class or record.outcome
        return output
    output.success, output.output_len = True, record.output_tokens
    first_ns = times.stamps_ns[0] if times.stamps_ns else end_ns  # as vLLM has it where there are no tokens
    output.ttft_s, output.latency_s = ((stamp_ns - record.sent_ns) / NS_PER_S for stamp_ns in (first_ns, end_ns))
    output.itl_s = [gap / NS_PER_S for gap in chunk_gaps_ns(times)]
    return output


def _tpot_s(output: _Output) -> float:
    """vLLM's, per request: 0 for a single token, which can't miss a target."""
    return (output.latency_s - output.ttft_s) / (output.output_len - 1) if output.output_len > 1 else 0.0


def _setup_keys(facts: RunFacts, setup: VllmSetup, count: int) -> dict[str, Any]:
    return {
        "date": setup.date,
        "endpoint_type": setup.backend,
        "backend": setup.backend,
        "label": setup.label,
        "model_id": setup.model_id,
        "tokenizer_id": setup.tokenizer_id,
        "num_prompts": count if setup.num_prompts is None else setup.num_prompts,
        **setup.metadata,
        "request_rate": "inf" if facts.requested_rate is None else facts.requested_rate,
        "burstiness": "inf" if facts.process == "constant" else facts.burstiness,
        "max_concurrency": facts.max_concurrency,
        **({} if setup.ramp is None else _ramp_keys(setup.ramp)),
    }


def _ramp_keys(ramp: Ramp) -> dict[str, Any]:
    keys = {"ramp_up_start_rps": ramp.start_rate, "ramp_up_end_rps": ramp.end_rate}
    return {"ramp_up_strategy": ramp.strategy, **{key: int(rate) if rate.is_integer() else rate for key, rate in keys.items()}}


def _rate_changes(records: Sequence[RequestRecord], setup: VllmSetup) -> list[dict[str, Any]]:
    """When the ramp reached each whole rate above its start: {rps, local ISO time}."""
    assert setup.ramp is not None
    start = datetime.strptime(setup.date, DATE_FORMAT)
    reached = int(setup.ramp.start_rate)
    changes = [{"rps": reached, "timestamp": start.isoformat()}]
    for record in records:
        at_ns = record.planned_ns or 0
        when = (start + timedelta(seconds=at_ns / NS_PER_S)).isoformat()
        rate = int(arrivals.ramp_rate(setup.ramp, record.index, at_ns))
        changes += [{"rps": whole, "timestamp": when} for whole in range(reached + 1, rate + 1)]
        reached = max(reached, rate)
    return changes


def _result_keys(outputs: Sequence[_Output], facts: RunFacts, duration_s: float) -> dict[str, Any]:
    answered = [output for output in outputs if output.success]
    total_input = sum(output.prompt_len for output in answered)
    total_output = sum(output.output_len for output in answered)
    peak_tokens, peak_requests = _peaks(answered)

    def rate(count: int) -> float:
        return count / duration_s if duration_s > 0 else 0.0

    return {
        "duration": duration_s,
        "completed": len(answered),
        "failed": len(outputs) - len(answered),
        "total_input_tokens": total_input,
        "total_output_tokens": total_output,
        "request_throughput": rate(len(answered)),
        "request_goodput": _goodput(answered, facts, rate),
        "output_throughput": rate(total_output),
        "total_token_throughput": rate(total_input + total_output),
        "input_lens": [output.prompt_len for output in outputs],
        "output_lens": [output.output_len for output in outputs],
        "ttfts": [output.ttft_s for output in outputs],
        "itls": [output.itl_s for output in outputs],
        "latencies": [output.latency_s for output in outputs],
        "start_times": [output.start_s for output in outputs],
        "queue_times": [output.queue_s for output in outputs],
        "generated_texts": [output.text for output in outputs],
        "errors": [output.error for output in outputs],
        "max_output_tokens_per_s": peak_tokens,
        "max_concurrent_requests": peak_requests,
        "rtfx": 0.0,
    }


def _goodput(answered: Sequence[_Output], facts: RunFacts, rate: Any) -> float | None:
    limits = (facts.slo_ms.ttft, facts.slo_ms.tpot, facts.slo_ms.e2e)
    if limits == (None, None, None):
        return None
    good = 0
    for output in answered:
        measured = (output.ttft_s, _tpot_s(output), output.latency_s)
        good += all(limit is None or value <= limit / MS_PER_S for value, limit in zip(measured, limits, strict=True))
    found: float = rate(good)
    return found


def _peaks(answered: Sequence[_Output]) -> tuple[float, int]:
    """Most chunks in any second, and most requests alive in any second, seconds counted from the
    first send: vLLM's own coarse measure."""
    if not answered:
        return 0.0, 0
    origin = min(output.start_s for output in answered)
    seconds = math.ceil(max(output.start_s + output.latency_s for output in answered) - origin) + 1
    chunks, alive = [0] * seconds, [0] * seconds
    for output in answered:
        for stamp in accumulate(output.itl_s, initial=output.start_s + output.ttft_s):
            chunks[int(stamp - origin)] += 1
        for second in range(int(output.start_s - origin), int(output.start_s + output.latency_s - origin) + 1):
            alive[second] += 1
    return float(max(chunks)), max(alive)


def _statistic_keys(name: str, values: list[float], percentiles: Sequence[str]) -> dict[str, float]:
    kept = numpy.array(values or [0.0])  # as vLLM computes them
    keys = {f"{what}_{name}_ms": float(getattr(numpy, what)(kept)) for what in ("mean", "median", "std")}
    for text in percentiles:
        percent = float(parse_percentile(text) * 100)
        word = str(int(percent)) if percent.is_integer() else str(percent)
        keys[f"p{word}_{name}_ms"] = float(numpy.percentile(kept, percent))
    return {key: value * MS_PER_S for key, value in keys.items()}
