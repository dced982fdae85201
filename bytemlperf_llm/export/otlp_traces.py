"""A run's requests as traces by OTLP, under OpenTelemetry's conventions for generative AI: made from the records
when the run has ended, so that no span is ever in the way of a stamp.

A request is one trace: a client span `chat MODEL` from sent to end, and below it, where the engine gives its
own stamps, spans for its queue, prefill and decode. Very many requests are thinned evenly, failures all kept
first; the number left out is said. Prompts and answers are never sent.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from bytemlperf.errors import UserError
from bytemlperf.export.http import TIMEOUT_S, authorization
from bytemlperf.export.otlp import SERVICE, endpoint_of, need_exporter, resource_attributes
from bytemlperf_llm.record.record import RequestRecord
from bytemlperf_llm.run.rebuild import clock_origin_ns, trace_key_of
from engines.trace_context import trace_ids

MAX_TRACES = 10_000
BATCH = 125
"""Requests of one message, each with four spans at most."""
STAGES = (
    ("queue", "queued_ns", "scheduled_ns"),
    ("prefill", "scheduled_ns", "first_token_ns"),
    ("decode", "first_token_ns", "last_token_ns"),
)


class TraceFacts(NamedTuple):
    """What the spans of a run share. `epoch_ns` is the wall-clock time of the run's origin."""

    run: str
    provider: str
    model: str
    epoch_ns: int
    server: str | None = None
    key: str = ""

    @property
    def trace_key(self) -> str:
        """What the ids are made from: as they were sent, where they were."""
        return self.key or self.run


class Choice:
    """Which of `count` requests are sent: all, or failures as long as there is room and an even choice of the rest."""

    def __init__(self, count: int, most: int = MAX_TRACES) -> None:
        self._step, self._room = max(1, -(-count // most)), most // 10

    def __call__(self, record: RequestRecord) -> bool:
        failed = record.outcome == "failed" and self._room > 0
        self._room -= failed
        return record.sent_ns is not None and (failed or record.index % self._step == 0)


def send_traces(url: str, facts: TraceFacts, records: Iterable[RequestRecord]) -> int:
    """Send the spans of these records; returns how many requests that were. Raises UserError."""
    endpoint = endpoint_of(url, "traces")
    need_exporter()
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import SpanExportResult

    exporter = OTLPSpanExporter(endpoint=endpoint, timeout=TIMEOUT_S, headers=authorization() or None)
    sent, left = 0, iter(records)
    while batch := list(islice(left, BATCH)):
        if exporter.export([span for record in batch for span in spans_of(record, facts)]) is not SpanExportResult.SUCCESS:
            raise UserError("the OTLP receiver rejected the traces", "see its message; the run's own records are complete")
        sent += len(batch)
    exporter.shutdown()  # type: ignore[no-untyped-call]
    return sent


def facts_of(folder: Path, run: dict[str, Any]) -> TraceFacts:
    """Raises UserError where nothing was sent."""
    engine, origin_ns = run.get("engine", {}), clock_origin_ns(run)
    if origin_ns is None:
        raise UserError("the run has no clock origin, so its requests have no time of day", "it never began to send")
    base = run.get("config", {}).get("engine_options", {}).get("base_url")
    model = str(engine.get("model") or "none")
    epoch_ns = clock_origin_ns(run, "clock_origin_unix_ns")
    if epoch_ns is None:  # an older run, of the same boot's monotonic clock
        epoch_ns = time.time_ns() - time.monotonic_ns() + origin_ns
    only = str(base) if base and " " not in str(base) else ""
    return TraceFacts(folder.name, str(engine.get("name")), model, epoch_ns, urlsplit(only).hostname if only else None, trace_key_of(run))


def spans_of(record: RequestRecord, facts: TraceFacts) -> list[Any]:
    """The spans of one request that was sent."""
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

    assert record.sent_ns is not None
    resource, scope = Resource(resource_attributes(facts.run)), InstrumentationScope(SERVICE)
    trace_id, client_id = trace_ids(facts.trace_key, record.id)

    def span(name: str, part: str, kind: Any, start_ns: int, end_ns: int, attributes: dict[str, Any], parent: Any = None) -> Any:
        failed = record.outcome != "ok" and parent is None
        return ReadableSpan(
            name=name,
            context=SpanContext(
                trace_id,
                trace_ids(facts.trace_key, f"{record.id}/{part}")[1] if part else client_id,
                is_remote=False,
                trace_flags=TraceFlags(TraceFlags.SAMPLED),
            ),
            parent=parent,
            kind=kind,
            resource=resource,
            instrumentation_scope=scope,
            attributes=attributes,
            status=Status(StatusCode.ERROR) if failed else Status(StatusCode.UNSET),
            start_time=facts.epoch_ns + start_ns,
            end_time=facts.epoch_ns + max(start_ns, end_ns),
        )

    whole = span(f"{_operation(record)} {facts.model}", "", SpanKind.CLIENT, record.sent_ns, record.end_ns, _attributes(record, facts))
    stages = record.stages
    below = [] if stages is None else [(name, getattr(stages, start), getattr(stages, end)) for name, start, end in STAGES]
    return [
        whole,
        *(
            span(name, name, SpanKind.INTERNAL, start, end, {}, whole.context)
            for name, start, end in below
            if start is not None and end is not None
        ),
    ]


def _operation(record: RequestRecord) -> str:
    return "embeddings" if record.inputs else "chat"


def _attributes(record: RequestRecord, facts: TraceFacts) -> dict[str, Any]:
    """By the conventions; what has no name there begins with `bmp.`. Absent values are left out."""
    assert record.sent_ns is not None
    first = next(iter(record.chunk_ns), None)
    found: dict[str, Any] = {
        "gen_ai.operation.name": _operation(record),
        "gen_ai.provider.name": facts.provider,
        "gen_ai.request.model": facts.model,
        "gen_ai.request.max_tokens": record.max_tokens or None,
        "gen_ai.request.stream": not record.inputs,
        "gen_ai.usage.input_tokens": record.prompt_tokens,
        "gen_ai.usage.output_tokens": record.output_tokens,
        "gen_ai.response.finish_reasons": None if record.finish_reason is None else (record.finish_reason,),
        "gen_ai.response.time_to_first_chunk": None if first is None else (first - record.sent_ns) / 1e9,
        "gen_ai.conversation.id": record.session,
        "server.address": facts.server,
        "error.type": record.error_class,
        "bmp.outcome": record.outcome,
        "bmp.request.index": record.index,
        "bmp.schedule.lateness": None if record.planned_ns is None else (record.sent_ns - record.planned_ns) / 1e9,
    }
    return {name: value for name, value in found.items() if value is not None}
