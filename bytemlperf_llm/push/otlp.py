"""OpenTelemetry: a page's metrics and a run's requests in the SDK's own data model, sent by its OTLP exporter.

Client-side latencies of LLM serving take the names of the GenAI semantic conventions; everything else keeps
its Prometheus name with dots. Histograms keep their buckets; sums are cumulative since the run began.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from bytemlperf_llm import __version__
from bytemlperf_llm.errors import UserError
from bytemlperf_llm.push.source import AUTHORIZATION, TIMEOUT_S
from bytemlperf_llm.runs.record import RequestRecord

INSTALL = "pip install 'bytemlperf-llm[otel]'"
SCOPE = "bytemlperf-llm"
NS_PER_S = 1e9

GENAI_NAMES = {
    "bmp_e2e_request_latency_seconds": "gen_ai.client.operation.duration",
    "bmp_time_to_first_token_seconds": "gen_ai.client.operation.time_to_first_chunk",
    "bmp_inter_token_latency_seconds": "gen_ai.client.operation.time_per_output_chunk",
}
"""Ours to the GenAI semantic conventions' client metrics."""

UNITS = {"_seconds": "s", "_bytes": "By", "_ratio": "1", "_tokens": "{token}"}


def metric_exporter(endpoint: str) -> Any:
    """The SDK's exporter for `endpoint` (…/v1/metrics is added where the path is empty). Raises UserError."""
    try:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    except ImportError:
        raise UserError("OpenTelemetry's exporter is not installed", INSTALL) from None
    return OTLPMetricExporter(endpoint=signal_url(endpoint, "metrics"), headers=_headers(), timeout=TIMEOUT_S)


def send_metrics(exporter: Any, families: Iterable[Any], attributes: Mapping[str, str], start_ns: int, now_ns: int) -> bool:
    """One export; whether it was taken."""
    from opentelemetry.sdk.metrics.export import MetricExportResult

    return bool(exporter.export(metrics_data(families, attributes, start_ns, now_ns)) is MetricExportResult.SUCCESS)


def metrics_data(families: Iterable[Any], attributes: Mapping[str, str], start_ns: int, now_ns: int) -> Any:
    """A page as the SDK's MetricsData. `attributes` are the resource's."""
    from opentelemetry.sdk.metrics.export import MetricsData, ResourceMetrics, ScopeMetrics
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

    metrics = [made for family in families if (made := _metric(family, start_ns, now_ns)) is not None]
    scope = ScopeMetrics(scope=InstrumentationScope(SCOPE, __version__), metrics=metrics, schema_url="")
    return MetricsData(resource_metrics=[ResourceMetrics(resource=Resource(_resource(attributes)), scope_metrics=[scope], schema_url="")])


def _metric(family: Any, start_ns: int, now_ns: int) -> Any:
    from opentelemetry.sdk.metrics.export import AggregationTemporality, Gauge, Histogram, Metric, NumberDataPoint, Sum

    name = GENAI_NAMES.get(family.name, family.name.replace("_", ".", 1))
    unit = next((unit for suffix, unit in UNITS.items() if family.name.endswith(suffix)), "")
    if family.type == "histogram":
        data: Any = Histogram(
            data_points=[_histogram_point(family, start_ns, now_ns)], aggregation_temporality=AggregationTemporality.CUMULATIVE
        )
        return Metric(name=name, description=family.documentation, unit=unit, data=data)
    samples = [sample for sample in family.samples if not sample.name.endswith("_created") and math.isfinite(sample.value)]
    counter = family.type == "counter"
    points = [NumberDataPoint(dict(sample.labels), start_ns if counter else 0, now_ns, float(sample.value)) for sample in samples]
    if not points:
        return None
    data = Sum(points, AggregationTemporality.CUMULATIVE, is_monotonic=True) if counter else Gauge(points)
    return Metric(name=name, description=family.documentation, unit=unit, data=data)


def _histogram_point(family: Any, start_ns: int, now_ns: int) -> Any:
    """Prometheus' buckets are cumulative, OpenTelemetry's are not; exact least and most are not known from buckets."""
    from opentelemetry.sdk.metrics.export import HistogramDataPoint

    values = {sample.name.removeprefix(family.name): sample.value for sample in family.samples if not sample.name.endswith("_bucket")}
    buckets = sorted((float(sample.labels["le"]), int(sample.value)) for sample in family.samples if sample.name.endswith("_bucket"))
    counts = [count - below for (_, count), below in zip(buckets, [0, *(count for _, count in buckets)], strict=False)]
    bounds = [bound for bound, _ in buckets if math.isfinite(bound)]
    total = buckets[-1][1] if buckets else 0
    return HistogramDataPoint(
        attributes={},
        start_time_unix_nano=start_ns,
        time_unix_nano=now_ns,
        count=total,
        sum=float(values.get("_sum", 0.0)),
        bucket_counts=counts,
        explicit_bounds=bounds,
        min=math.inf,
        max=-math.inf,
    )


# -- traces -------------------------------------------------------------------------------------


def send_traces(run: Mapping[str, Any], records: Iterable[RequestRecord], endpoint: str) -> tuple[int, bool]:
    """A span for each request of an LLM run; how many, and whether all were taken. Raises UserError."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
    except ImportError:
        raise UserError("OpenTelemetry's exporter is not installed", INSTALL) from None

    class Watched(SpanExporter):
        """Remembers whether every batch was taken: the SDK only logs it."""

        def __init__(self) -> None:
            self.inner: Any = OTLPSpanExporter(endpoint=signal_url(endpoint, "traces"), headers=_headers(), timeout=TIMEOUT_S)
            self.taken = True

        def export(self, spans: Any) -> Any:
            result = self.inner.export(spans)
            self.taken = self.taken and result is SpanExportResult.SUCCESS
            return result

        def shutdown(self) -> None:
            self.inner.shutdown()

    from opentelemetry.sdk.resources import Resource

    watched = Watched()
    provider = TracerProvider(resource=Resource(_resource({"bmp.run": str(run.get("label", ""))})), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(watched, max_queue_size=1 << 20))
    tracer = provider.get_tracer(SCOPE, __version__)
    count = 0
    for record in records:
        count += _span(tracer, run, record)
    provider.force_flush()
    provider.shutdown()
    return count, watched.taken


def _span(tracer: Any, run: Mapping[str, Any], record: RequestRecord) -> int:
    """One request as a client span under the GenAI conventions; a request never sent has none."""
    from opentelemetry.trace import SpanKind, Status, StatusCode

    if record.sent_ns is None:
        return 0
    origin_ns = origin_unix_ns(run)
    attributes = dict(span_attributes(run, record))
    model = attributes.get("gen_ai.request.model")
    span = tracer.start_span(
        f"chat {model}" if model else "chat", kind=SpanKind.CLIENT, start_time=origin_ns + record.sent_ns, attributes=attributes
    )
    if record.chunk_ns:
        span.add_event("first token", timestamp=origin_ns + record.chunk_ns[0])
    if record.outcome != "ok":
        span.set_status(Status(StatusCode.ERROR, record.outcome))
    span.end(end_time=origin_ns + record.end_ns)
    return 1


def span_attributes(run: Mapping[str, Any], record: RequestRecord) -> Iterator[tuple[str, Any]]:
    """The conventions' attributes, and ours under `bmp.`. Never a prompt or an answer."""
    engine = run.get("engine") if isinstance(run.get("engine"), dict) else {}
    assert isinstance(engine, dict)
    yield "gen_ai.operation.name", "chat"
    yield "gen_ai.provider.name", str(engine.get("name") or "unknown")
    if engine.get("model") not in (None, "", "none"):
        yield "gen_ai.request.model", str(engine["model"])
    yield "gen_ai.request.max_tokens", record.max_tokens
    yield "gen_ai.request.stream", True
    if record.prompt_tokens is not None:
        yield "gen_ai.usage.input_tokens", record.prompt_tokens
    yield "gen_ai.usage.output_tokens", record.output_tokens
    if record.finish_reason:
        yield "gen_ai.response.finish_reasons", (record.finish_reason,)
    if record.chunk_ns and record.sent_ns is not None:
        yield "gen_ai.response.time_to_first_chunk", (record.chunk_ns[0] - record.sent_ns) / NS_PER_S
    if record.session:
        yield "gen_ai.conversation.id", record.session
    if record.error_class:
        yield "error.type", record.error_class
    yield "bmp.request.id", record.id
    yield "bmp.worker", record.worker
    if record.planned_ns is not None and record.sent_ns is not None:
        yield "bmp.schedule_lateness_s", (record.sent_ns - record.planned_ns) / NS_PER_S


def origin_unix_ns(run: Mapping[str, Any]) -> int:
    """Where a run's clock began, in Unix time: `started_at`, which is noted just before. Exact relative to each other,
    within the set-up's time against other clocks."""
    try:
        return round(datetime.fromisoformat(str(run.get("started_at"))).timestamp() * NS_PER_S)
    except ValueError:
        raise UserError("run.json says no time at which the run started", "name a run of this program") from None


def signal_url(endpoint: str, signal: str) -> str:
    """`endpoint` with the standard path of a signal, unless it already has it."""
    return endpoint if endpoint.rstrip("/").endswith(f"/v1/{signal}") else f"{endpoint.rstrip('/')}/v1/{signal}"


def _resource(attributes: Mapping[str, str]) -> dict[str, str]:
    return {"service.name": SCOPE, "service.version": __version__, **attributes}


def _headers() -> dict[str, str] | None:
    authorization = os.environ.get(AUTHORIZATION)
    return {"authorization": authorization} if authorization else None
