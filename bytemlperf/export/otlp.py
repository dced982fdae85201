"""Live metrics by OTLP over HTTP: every family under its own name, and what OpenTelemetry's conventions for
generative AI have a name for under that name too.

Histograms go out as the cumulative buckets that they are held in. `gen_ai.client.operation.*` here run from
when a request was due (open loop), as all latencies of this tool do; each description says so.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from bytemlperf.export.http import TIMEOUT_S, authorization, below, checked_url
from bytemlperf.extras import require
from bytemlperf.lazy import Lazy
from bytemlperf.version import __version__

if TYPE_CHECKING:
    from bytemlperf.export.prometheus import Exporter

sdk: Any = Lazy("opentelemetry.sdk.metrics.export")
SERVICE = "bytemlperf-llm"
GEN_AI_NAMES = {
    "bmp_e2e_request_latency_seconds": "gen_ai.client.operation.duration",
    "bmp_time_to_first_token_seconds": "gen_ai.client.operation.time_to_first_chunk",
    "bmp_inter_token_latency_seconds": "gen_ai.client.operation.time_per_output_chunk",
}
TOKEN_USAGE = "gen_ai.client.token.usage"  # noqa: S105
TOKEN_TYPES = {"bmp_request_prompt_tokens": "input", "bmp_request_generation_tokens": "output"}
UNITS = {"_tokens": "{token}", "_seconds": "s", "_bytes": "By", "_watts": "W", "_celsius": "Cel", "_ratio": "1"}


class OtlpMetrics:
    """An OTLP receiver for metrics. Raises UserError without OpenTelemetry's packages."""

    def __init__(self, url: str, instance: str) -> None:
        self.name = "OTLP metrics"
        endpoint = endpoint_of(url, "metrics")
        need_exporter()
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter

        # without headers of ours it reads OTEL_EXPORTER_OTLP_HEADERS
        self._exporter = OTLPMetricExporter(endpoint=endpoint, timeout=TIMEOUT_S, headers=authorization() or None)
        self._instance, self._start_ns = instance, time.time_ns()

    def push(self, exporter: Exporter) -> None:
        """Send the families as they are now. Raises OSError."""
        data = metrics_data(exporter, resource_attributes(self._instance), self._start_ns, time.time_ns())
        if self._exporter.export(data, timeout_millis=TIMEOUT_S * 1000) is not sdk.MetricExportResult.SUCCESS:
            raise OSError("the receiver rejected them")


def endpoint_of(url: str, signal: str) -> str:
    """The address for one signal: below a base address, as the specification has it."""
    checked = checked_url("--otlp", url)
    return checked if urlsplit(checked).path.endswith(f"/v1/{signal}") else below(checked, f"/v1/{signal}")


def need_exporter() -> None:
    """OpenTelemetry's, which logs each failure with a traceback's worth of text: `Pusher` says it in a line. Raises UserError."""
    require("--otlp", "otel", "opentelemetry.exporter.otlp.proto.http")
    for name in ("opentelemetry.exporter", "opentelemetry.exporter.otlp"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def resource_attributes(instance: str) -> dict[str, str]:
    return {"service.name": SERVICE, "service.version": __version__, "service.instance.id": instance}


def metrics_data(exporter: Exporter, attributes: Mapping[str, str], start_ns: int, now_ns: int) -> Any:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

    families = list(exporter.collect())
    metrics = [metric for family in families for metric in _metrics(family, start_ns, now_ns)]
    metrics += _token_usage(families, start_ns, now_ns)
    scope = sdk.ScopeMetrics(scope=InstrumentationScope(SERVICE), metrics=metrics, schema_url="")
    return sdk.MetricsData(
        resource_metrics=[sdk.ResourceMetrics(resource=Resource(dict(attributes)), scope_metrics=[scope], schema_url="")]
    )


def _metrics(family: Any, start_ns: int, now_ns: int) -> Iterator[Any]:
    unit = next((unit for suffix, unit in UNITS.items() if family.name.endswith(suffix)), "")
    if family.type == "histogram":
        point = _histogram_point(family, start_ns, now_ns)
        data = sdk.Histogram(data_points=[point], aggregation_temporality=sdk.AggregationTemporality.CUMULATIVE)
        yield sdk.Metric(name=family.name, description=family.documentation, unit=unit, data=data)
        if family.name in GEN_AI_NAMES:
            yield sdk.Metric(name=GEN_AI_NAMES[family.name], description=family.documentation, unit=unit, data=data)
        return
    points = [
        sdk.NumberDataPoint(attributes=dict(sample.labels), start_time_unix_nano=start_ns, time_unix_nano=now_ns, value=float(sample.value))
        for sample in family.samples
    ]
    held = sdk.Sum(points, sdk.AggregationTemporality.CUMULATIVE, True) if family.type == "counter" else sdk.Gauge(points)
    yield sdk.Metric(name=family.name, description=family.documentation, unit=unit, data=held)


def _token_usage(families: list[Any], start_ns: int, now_ns: int) -> list[Any]:
    """One histogram with a point for each type of token, as the conventions have it; nothing where no family counts tokens."""
    points = [
        _histogram_point(family, start_ns, now_ns, {"gen_ai.token.type": TOKEN_TYPES[family.name]})
        for family in families
        if family.name in TOKEN_TYPES
    ]
    if not points:
        return []
    data = sdk.Histogram(data_points=points, aggregation_temporality=sdk.AggregationTemporality.CUMULATIVE)
    return [sdk.Metric(name=TOKEN_USAGE, description="Input and output tokens of a completed request.", unit="{token}", data=data)]


def _histogram_point(family: Any, start_ns: int, now_ns: int, more: Mapping[str, str] | None = None) -> Any:
    bounds = [(sample.labels["le"], int(sample.value)) for sample in family.samples if sample.name.endswith("_bucket")]
    total = next(sample.value for sample in family.samples if sample.name.endswith("_sum"))
    upto = [count for _, count in bounds]
    counts = [later - earlier for earlier, later in zip([0, *upto], upto, strict=False)]
    return sdk.HistogramDataPoint(
        attributes={"gen_ai.operation.name": "chat", **(more or {})},
        start_time_unix_nano=start_ns,
        time_unix_nano=now_ns,
        count=upto[-1],
        sum=total,
        bucket_counts=counts,
        explicit_bounds=[float(bound) for bound, _ in bounds[:-1]],
        min=float("nan"),
        max=float("nan"),
    )
