"""MLPerf Inference's scenarios by the rules of its LoadGen (mlcommons/inference, loadgen/results.cc and mlperf.conf).

Server: Poisson arrivals; the 99th percentile of TTFT and TPOT is within the service levels, certified at 99 % confidence. Offline: all
samples at once. SingleStream: one query after another, and its 90th percentile latency; MultiStream: queries of eight samples, a query
done when all of them are, and its 99th: both as early-stopping estimates. Each lasts 600 s and has its least number of queries.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from bytemlperf.lazy import numpy
from bytemlperf.runs.kinds import Section, Table
from bytemlperf.statistics.columns import Column
from bytemlperf.units import NS_PER_MS, NS_PER_S
from bytemlperf_llm.metrics.facts import SloMs
from bytemlperf_llm.mlperf.samples import Samples, certified, estimate
from bytemlperf_llm.plan.scenario import MLPERF_NAMES, MLPerf, Scenario

LEAST_S = 600
LEAST_QUERIES: dict[MLPerf, int] = {"server": 100, "offline": 24_576, "single_stream": 100, "multi_stream": 662}
"""Of Offline samples. LoadGen's own default is 100 queries; early stopping asks for more where the tail needs it."""
PERCENTILE: dict[MLPerf, str] = {"server": "99", "single_stream": "90", "multi_stream": "99"}
NOT_A_RESULT = "by LoadGen's rules, measured by this client: not a result of MLPerf"


class LoadGenResult(msgspec.Struct, kw_only=True):
    """`mlperf` of summary.json. `figures` are by name with their unit; the first is the scenario's own metric."""

    scenario: MLPerf
    result: Literal["VALID", "INVALID"]
    reasons: list[str]
    queries: int
    least_queries: int
    duration_s: float
    least_s: int = LEAST_S
    figures: dict[str, float | None]
    note: str = NOT_A_RESULT


def loadgen_result(scenario: Scenario, samples: Samples, scheduled: int, slo_ms: SloMs) -> LoadGenResult:
    """What LoadGen would say of these requests, of so many scheduled ones."""
    mode, together = scenario.mlperf, samples_per_query(scenario)
    assert mode is not None
    queries = samples.requests // together
    duration_ns = samples.whole_span_ns if mode == "offline" else int(samples.issued_ns[-1]) if samples.requests else 0
    figures, reasons = _judged(mode, samples, together, slo_ms)
    lost = scheduled - int((samples.ok == 1).sum())
    reasons += [f"{lost} of {scheduled} samples had no response: LoadGen counts every one"] if lost else []
    if duration_ns < LEAST_S * NS_PER_S:
        reasons.append(f"{duration_ns / NS_PER_S:.1f} s long, {LEAST_S} s is the least: {_LONGER[mode]}")
    if queries < LEAST_QUERIES[mode]:
        what = "samples" if mode == "offline" else "queries"
        reasons.append(f"{queries} {what}, {LEAST_QUERIES[mode]} are the least: {_LONGER[mode]}")
    return LoadGenResult(
        scenario=mode,
        result="INVALID" if reasons else "VALID",
        reasons=reasons,
        queries=queries,
        least_queries=LEAST_QUERIES[mode],
        duration_s=duration_ns / NS_PER_S,
        figures=figures,
    )


def samples_per_query(scenario: Scenario) -> int:
    """Of MultiStream those that are sent together; else one."""
    return (scenario.arrival.max_concurrency or 1) if scenario.mlperf == "multi_stream" else 1


def _judged(mode: MLPerf, samples: Samples, together: int, slo_ms: SloMs) -> tuple[dict[str, float | None], list[str]]:
    """Figures, and why they are not valid beside what every scenario asks for."""
    if mode == "server":
        return _server(samples, slo_ms)
    return (_offline(samples), []) if mode == "offline" else _stream(mode, samples, together)


def _server(samples: Samples, slo_ms: SloMs) -> tuple[dict[str, float | None], list[str]]:
    done_s = int(samples.ended_ns[-1]) / NS_PER_S if samples.requests else 0.0
    reasons = [] if slo_ms != SloMs() else ["no service level: a Server run needs --goodput ttft:MS tpot:MS, its benchmark's own"]
    limits = {"ttft": (samples.ttft_ns(), slo_ms.ttft), "tpot": (samples.tpot_ns(), slo_ms.tpot), "e2e": (samples.latency_ns(), slo_ms.e2e)}
    for name, (values, limit_ms) in limits.items():
        if limit_ms is not None and (reason := _over(values, limit_ms)):
            reasons.append(f"{name} above {limit_ms:g} ms: {reason}")
    rates = {"samples/s": (samples.requests - 1) / done_s, "tokens/s": samples.output_tokens / done_s} if done_s else {}
    return {"samples/s": rates.get("samples/s"), "tokens/s": rates.get("tokens/s")}, reasons


def _over(values: Column, limit_ms: float) -> str:
    """Why the 99th percentile isn't shown to be within the limit; empty where it is."""
    over, count = int((values > limit_ms * NS_PER_MS).sum()), len(values)
    if not count or int(numpy.sort(values)[int(count * 99 // 100)]) > limit_ms * NS_PER_MS:
        return f"{over} of {count} samples, so the 99th percentile is beyond it; lower the rate"
    return "" if certified(count, over, PERCENTILE["server"]) else f"{over} of {count} samples, insufficient to tell at 99 %; run longer"


def _offline(samples: Samples) -> dict[str, float | None]:
    seconds = samples.whole_span_ns / NS_PER_S
    rates = {"samples/s": samples.requests, "tokens/s": samples.output_tokens}
    return {name: count / seconds if seconds else None for name, count in rates.items()}


def _stream(mode: MLPerf, samples: Samples, together: int) -> tuple[dict[str, float | None], list[str]]:
    queries = samples.requests // together
    ended, issued = (column[: queries * together].reshape(queries, together) for column in (samples.ended_ns, samples.issued_ns))
    latencies = numpy.sort(ended.max(axis=1) - issued.min(axis=1)) if queries else samples.issued_ns[:0]
    percent = PERCENTILE[mode]
    bound = estimate(latencies, percent)
    plain = int(latencies[queries * int(percent) // 100]) if queries else None
    names = (f"p{percent} latency, ms (early-stopping estimate)", f"p{percent} latency, ms")
    figures = {name: None if value is None else value / NS_PER_MS for name, value in zip(names, (bound, plain), strict=True)}
    needed = {"90": 64, "99": 662}[percent]
    return figures, [] if bound is not None else [f"{queries} queries, {needed} are needed for an estimate of p{percent}: run longer"]


_LONGER: dict[MLPerf, str] = {
    "server": "give --duration 660 or a higher rate",
    "offline": "give more with --num-prompts",
    "single_stream": "give --duration 660 or more",
    "multi_stream": "give --duration 660 or more",
}


def loadgen_sections(summary: dict[str, Any]) -> Iterator[Section]:
    """The result in a table, where the run is of an MLPerf scenario."""
    kept = summary.get("mlperf")
    if kept is None:
        return
    found = msgspec.convert(kept, LoadGenResult)
    rows: list[tuple[str, str | float | None]] = [
        ("LoadGen's verdict", found.result),
        *((name, value) for name, value in found.figures.items()),
    ]
    rows += [
        ("queries", f"{found.queries:,} (least {found.least_queries:,})"),
        ("duration", f"{found.duration_s:.1f} s (least {found.least_s} s)"),
    ]
    rows += [("why", reason) for reason in found.reasons]
    yield Table(title=f"MLPerf {MLPERF_NAMES[found.scenario]}", columns=("", "value"), rows=rows, note=found.note)
