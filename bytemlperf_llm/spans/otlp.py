"""Spans out of OTLP messages: names, times and what vLLM's tell of latency. No I/O, no clock; the messages are a stranger's.

vLLM (`--otlp-traces-endpoint`) sends a span `llm_request` per request, which begins when the request arrived and has its latencies as
attributes, in seconds (`vllm/tracing/utils.py`, SpanAttributes). Other spans have their own length.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import msgspec

from engines.untrusted import UntrustedJson, decode_json

LATENCIES = {
    "gen_ai.latency.time_in_queue": "queue",
    "gen_ai.latency.time_in_model_prefill": "prefill",
    "gen_ai.latency.time_in_model_decode": "decode",
    "gen_ai.latency.time_to_first_token": "ttft",
    "gen_ai.latency.e2e": "e2e",
}
MAX_LATENCY_S = 86_400.0
MAX_NS = 1 << 62


class Span(msgspec.Struct, frozen=True):
    """`latencies_ns` are those of `LATENCIES`; times are ns since 1970 by the server's clock."""

    trace_id: int
    name: str
    start_ns: int
    end_ns: int
    latencies_ns: dict[str, int]


class _Value(msgspec.Struct, rename="camel"):
    double_value: float | None = None
    int_value: int | str | None = None


class _Attribute(msgspec.Struct):
    key: str = ""
    value: _Value = msgspec.field(default_factory=_Value)


class _Span(msgspec.Struct, rename="camel"):
    trace_id: str = ""
    name: str = ""
    start_time_unix_nano: int | str = 0
    end_time_unix_nano: int | str = 0
    attributes: list[_Attribute] = []


class _Scope(msgspec.Struct):
    spans: list[_Span] = []


class _Resource(msgspec.Struct, rename="camel"):
    scope_spans: list[_Scope] = []


class _Export(msgspec.Struct, rename="camel"):
    resource_spans: list[_Resource] = []


def spans_in(body: bytes, *, is_json: bool) -> list[Span]:
    """The spans of one export, without those whose times can't be. Raises ValueError for a body that is none."""
    return [span for span in (_json_spans(body) if is_json else _protobuf_spans(body)) if 0 < span.start_ns <= span.end_ns < MAX_NS]


def _protobuf_spans(body: bytes) -> Iterator[Span]:
    from google.protobuf.message import DecodeError
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    try:
        export = ExportTraceServiceRequest.FromString(body)
    except DecodeError as error:
        raise ValueError(str(error)) from None
    for span in (span for resource in export.resource_spans for scope in resource.scope_spans for span in scope.spans):
        attributes = {each.key: _number(each.value) for each in span.attributes if each.key in LATENCIES}
        trace_id = int.from_bytes(span.trace_id) if len(span.trace_id) == 16 else 0
        yield Span(trace_id, span.name, span.start_time_unix_nano, span.end_time_unix_nano, _latencies(attributes))


def _number(value: Any) -> float | None:
    kind = value.WhichOneof("value")
    return float(getattr(value, kind)) if kind in ("double_value", "int_value") else None


def _json_spans(body: bytes) -> Iterator[Span]:
    try:
        export = decode_json(body, _Export)
    except UntrustedJson as error:
        raise ValueError(str(error)) from None
    for span in (span for resource in export.resource_spans for scope in resource.scope_spans for span in scope.spans):
        attributes = {each.key: each.value.double_value for each in span.attributes if each.key in LATENCIES}
        start_ns, end_ns = (_integer(value) for value in (span.start_time_unix_nano, span.end_time_unix_nano))
        yield Span(_hexadecimal(span.trace_id), span.name, start_ns, end_ns, _latencies(attributes))


def _integer(value: int | str) -> int:
    """OTLP's JSON has 64-bit integers as text."""
    if isinstance(value, int):
        return value
    return int(value) if value.isascii() and value.isdigit() and len(value) < 20 else 0


def _hexadecimal(text: str) -> int:
    try:
        return int(text, 16) if len(text) == 32 else 0
    except ValueError:
        return 0


def _latencies(attributes: dict[str, float | None]) -> dict[str, int]:
    found = {LATENCIES[key]: value for key, value in attributes.items() if value is not None and math.isfinite(value)}
    return {name: round(value * 1e9) for name, value in found.items() if 0 <= value <= MAX_LATENCY_S}
