"""An OTLP receiver that decodes what it gets with the protocol's own messages, and an exporter with known content."""

from __future__ import annotations

import gzip
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from bytemlperf_llm.live.metrics import LlmMetrics
from tests.metrics.records import answered, failed


def fed() -> LlmMetrics:
    """Twenty answers of three tokens, and two failures."""
    metrics = LlmMetrics()
    for index in range(20):
        metrics.started()
        metrics.ended(answered(index, 0.0, 1.0, [50.0 + index, 60.0 + index, 71.0 + index]))
    for index in range(2):
        metrics.started()
        metrics.ended(failed(20 + index, 0.0, 5.0))
    metrics.flush()
    return metrics


class OtlpServer:
    """Keeps decoded requests; `status` is what it answers."""

    def __init__(self) -> None:
        self.metrics: list[Any] = []
        self.spans: list[Any] = []
        self.headers: list[dict[str, str]] = []
        self.status = 200
        self.url = ""


@contextmanager
def otlp_server():
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    kept = OtlpServer()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            kept.headers.append(dict(self.headers))
            if kept.status == 200 and self.path == "/v1/metrics":
                kept.metrics.append(ExportMetricsServiceRequest.FromString(body))
            if kept.status == 200 and self.path == "/v1/traces":
                for group in ExportTraceServiceRequest.FromString(body).resource_spans:
                    kept.spans += [span for scope in group.scope_spans for span in scope.spans]
            self.send_response(kept.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_PUT = do_POST  # a Pushgateway takes PUT

        def log_message(self, *_words: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    kept.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield kept
    finally:
        server.shutdown()
        server.server_close()
