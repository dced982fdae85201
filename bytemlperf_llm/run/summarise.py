"""From a run folder to its summary: records and run.json in, summary.json out. The same code at the
end of a run and in `bmp summarize`, so that a published figure is always one from the records."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from bytemlperf.lazy import numpy
from bytemlperf.runs.folder import part
from bytemlperf.runs.records import RunRecords, once
from bytemlperf.statistics.columns import ABSENT, Column
from bytemlperf_llm.calibration.cache import client_error_of
from bytemlperf_llm.causes.evidence import evidence_of
from bytemlperf_llm.causes.judge import Causes, causes_of
from bytemlperf_llm.metrics.accumulator import Accumulator, accumulated, request_column
from bytemlperf_llm.metrics.bound import bound_of
from bytemlperf_llm.metrics.counted import counted_of
from bytemlperf_llm.metrics.energy import energy_of
from bytemlperf_llm.metrics.facts import facts_from
from bytemlperf_llm.metrics.prefix import PrefixFacts, prefix_of, prefix_warnings, server_counts
from bytemlperf_llm.metrics.queue_estimate import queue_estimate_of
from bytemlperf_llm.metrics.recount import read_recount
from bytemlperf_llm.metrics.server import network_of, network_warnings, server_of
from bytemlperf_llm.metrics.speculation import speculation_of
from bytemlperf_llm.metrics.summary import summary_of
from bytemlperf_llm.metrics.until import last_look, parse_until
from bytemlperf_llm.mlperf.loadgen import loadgen_result
from bytemlperf_llm.mlperf.samples import samples_of
from bytemlperf_llm.plan.scenario import scenario_of
from bytemlperf_llm.record.gauges import Sample, read_gauges
from bytemlperf_llm.record.record import RequestRecord
from bytemlperf_llm.run.network import MEANWHILE
from bytemlperf_llm.run.rebuild import AS_IS, cache_of
from bytemlperf_llm.spans.facts import span_facts_of, span_warnings


def summarise(run: dict[str, Any], records: Iterable[RequestRecord]) -> dict[str, Any]:
    """`metrics.summary.Summary` as JSON has it, with what run.json tells. Raises UserError when that is of no LLM run."""
    folder = records.folder if isinstance(records, RunRecords) else Path("run")
    facts = facts_from(run, folder)
    acc = once(records, accumulated, facts)
    summary = summary_of(acc, facts)
    if "input_throughput" not in summary.rates:
        summary.client_error = client_error_of(run, summary)
    problem = read_recount(folder)[1]
    before = cache_of(run) or AS_IS
    counted = part(run, "config", "scenario", "prompts").get("tokenizer") is not None
    told = counted_of(run)
    summary.prefix = prefix_of(acc, PrefixFacts(counted=counted, own=before.own, server=server_counts(told)))
    summary.speculation = speculation_of(acc, facts, told)
    summary.warnings += [*([problem] if problem else []), *_resumptions(run), *_probe(run), *_launched(run)]
    summary.warnings += prefix_warnings(summary.prefix, before.state)
    found: dict[str, Any] = msgspec.to_builtins(summary)
    network, spans = network_of(run, found), span_facts_of(run)
    samples = read_gauges(records.folder).samples if isinstance(records, RunRecords) else []
    server = server_of(run, found)
    beside = {
        "server": server,
        "queue_estimate": queue_estimate_of(acc, samples, 0 if server is None else server.other_requests),
        "network": network,
        "spans": spans,
        "bound": bound_of(run, found),
        "energy": energy_of(run, found),
        "causes": _causes(samples, acc, facts.max_concurrency, run.get(MEANWHILE)),
    }
    for name, part_of_it in beside.items():
        if part_of_it is not None:
            found[name] = msgspec.to_builtins(part_of_it)
    found["warnings"] += [*network_warnings(network), *span_warnings(spans)]
    if until := part(run, "config", "until"):
        found["until"] = _until(until, acc)
    if part(run, "config", "scenario").get("mlperf") is not None:
        loadgen = loadgen_result(scenario_of(run), once(records, samples_of), summary.scheduled, facts.slo_ms)
        found["mlperf"] = msgspec.to_builtins(loadgen)
    return found


def _causes(samples: list[Sample], acc: Accumulator, cap: int | None, connects: object) -> Causes | None:
    """Of records and, where the run kept them, the server's gauges and the connections opened meanwhile."""
    return causes_of(evidence_of(acc, cap, samples, msgspec.convert(connects or [], list[tuple[int, int]])))


def _until(asked: dict[str, Any], acc: Accumulator) -> dict[str, Any]:
    """What `--until` saw, from the records alone."""
    budget = asked.get("budget")
    until = parse_until(str(asked.get("asked")), budget if isinstance(budget, int) else None)
    reached = last_look(until, in_order(acc.columns, until.metric, acc.rows("ok")))
    return {"sentence": reached.sentence(), **msgspec.to_builtins(reached)}


def _probe(run: dict[str, Any]) -> list[str]:
    """What `rate: auto` could not find out."""
    probe = part(run, "config", "probe")
    return [str(probe["why"])] if probe.get("ceiling_found") is False and "why" in probe else []


def _launched(run: dict[str, Any]) -> list[str]:
    """How a server that the run started ended by itself."""
    server = part(run, "launched")
    return [f"the server that was started ended during the run: {server['ended']}; see {server['log']}"] if server.get("ended") else []


def _resumptions(run: dict[str, Any]) -> list[str]:
    parts = run.get("resumed", [])
    if not parts:
        return []
    before = ", ".join(str(part["records_before"]) for part in parts)
    return [
        f"the run was resumed, {'once' if len(parts) == 1 else f'{len(parts)} times'}, after {before} records: the pause is excluded, "
        "the system was idle in it, and requests lost in flight were sent again"
    ]


def in_order(columns: dict[str, Column], metric: str, ok: Column) -> Column:
    """A figure of the first requests of the schedule without a gap, from the rows of all records: ABSENT of those not in `ok`."""
    rows = numpy.argsort(columns["index"], kind="stable")
    gaps = numpy.flatnonzero(columns["index"][rows] != numpy.arange(len(rows)))
    values = request_column(columns, metric, rows)
    values[~numpy.isin(rows, ok)] = ABSENT
    return values[: int(gaps[0]) if len(gaps) else len(values)]
