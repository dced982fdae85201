"""`bmp push` and `bmp traces` against the real thing: a Pushgateway, a Prometheus that takes remote writes, an OTLP endpoint."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bytemlperf_llm.export.llm_metrics import FAMILIES
from bytemlperf_llm.export.prometheus import Exporter
from tests.report.made import llm_run

pytestmark = pytest.mark.slow
LIMIT_S = 40


@pytest.fixture
def exporter() -> Iterator[Exporter]:
    """What a run serves in its middle."""
    made = Exporter(FAMILIES)
    made.observe("bmp_time_to_first_token_seconds", [0.03] * 90 + [0.9] * 10)
    made.count("bmp_request_success_total", 100)
    made.count("bmp_request_failure_total", 2, "idle_timeout")
    yield made
    made.close()


def command(*words: str | Path, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    program = [sys.executable, "-c", "from bytemlperf_llm.bmp import main; main()", *map(str, words)]
    return subprocess.Popen(
        program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"NO_COLOR": "1"} | (env or {})
    )


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def get(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.read().decode()
    except OSError:
        return ""


def until(what: Callable[[], object]) -> object:
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        if found := what():
            return found
        time.sleep(0.1)
    raise AssertionError("it never came")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Callable[..., int]]:
    """Starts a Debian program that listens on a port of its own; ends it afterwards."""
    started: list[subprocess.Popen[bytes]] = []

    def start(program: str, *words: str) -> int:
        if shutil.which(program) is None:
            pytest.skip(f"no {program} on this machine")
        port = free_port()
        command_line = [program, *words, f"--web.listen-address=127.0.0.1:{port}"]
        started.append(subprocess.Popen(command_line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=tmp_path))
        until(lambda: get(f"http://127.0.0.1:{port}/-/ready"))
        return port

    yield start
    for process in started:
        process.terminate()
        process.wait(20)


def test_a_pushgateway_keeps_a_runs_last_state(exporter: Exporter, server: Callable[..., int]):
    port = server("prometheus-pushgateway")
    source = f"http://127.0.0.1:{exporter.serve(0)}/metrics"
    pushing = command("push", source, "--pushgateway", f"http://127.0.0.1:{port}", "--every", "0.2", "--label", "run=a/b ü")
    line = 'bmp_request_success_total{instance="",job="bytemlperf",run="a/b ü"}'
    until(lambda: f"{line} 100" in get(f"http://127.0.0.1:{port}/metrics"))
    exporter.count("bmp_request_success_total", 1)
    until(lambda: f"{line} 101" in get(f"http://127.0.0.1:{port}/metrics"))
    exporter.close()
    stdout, stderr = pushing.communicate(timeout=LIMIT_S)
    assert (pushing.returncode, stderr) == (0, "")
    assert stdout.startswith("the run has ended; pushed ")
    page = get(f"http://127.0.0.1:{port}/metrics")
    assert f"{line} 101" in page
    assert 'bmp_time_to_first_token_seconds_bucket{instance="",job="bytemlperf",run="a/b ü",le="0.04"} 90' in page


def test_prometheus_takes_remote_writes_and_knows_when_the_run_has_ended(exporter: Exporter, server: Callable[..., int], tmp_path: Path):
    (tmp_path / "prometheus.yml").write_text("global: {scrape_interval: 1h}\n")
    port = server(
        "prometheus", "--config.file=prometheus.yml", f"--storage.tsdb.path={tmp_path / 'db'}", "--web.enable-remote-write-receiver"
    )

    def value(expression: str) -> float | None:
        answer = get(f"http://127.0.0.1:{port}/api/v1/query?{urllib.parse.urlencode({'query': expression})}")
        result = json.loads(answer)["data"]["result"] if answer else []
        return float(result[0]["value"][1]) if result else None

    source = f"http://127.0.0.1:{exporter.serve(0)}/metrics"
    pushing = command("push", source, "--remote-write", f"http://127.0.0.1:{port}/api/v1/write", "--every", "0.2", "--label", "run=friday")
    assert until(lambda: value('bmp_request_success_total{job="bytemlperf", run="friday"}')) == 100
    assert value('bmp_request_failure_total{error_class="idle_timeout"}') == 2
    assert 0.02 < (value("histogram_quantile(0.5, bmp_time_to_first_token_seconds_bucket)") or 0) <= 0.04
    exporter.close()
    _, stderr = pushing.communicate(timeout=LIMIT_S)
    assert (pushing.returncode, stderr) == (0, "")
    until(lambda: value("bmp_request_success_total") is None)  # a stale series answers nothing
    assert value("last_over_time(bmp_request_success_total[5m])") == 100


class Collector(ThreadingHTTPServer):
    """An OTLP endpoint: keeps every request's path, header and body; refuses while `status` says so."""

    def __init__(self) -> None:
        self.got: list[tuple[str, str, bytes]] = []
        self.status = 200
        super().__init__(("127.0.0.1", 0), _Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append((self.path, self.headers.get("authorization", ""), body))
        self.send_response(self.server.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_PUT = do_POST

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.shutdown()
    made.server_close()


def test_metrics_by_otlp(exporter: Exporter, collector: Collector):
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

    source = f"http://127.0.0.1:{exporter.serve(0)}/metrics"
    pushing = command("push", source, "--otlp", collector.url, "--every", "0.2", env={"BMP_PUSH_AUTHORIZATION": "Bearer canary-51"})
    until(lambda: collector.got)
    exporter.close()
    stdout, stderr = pushing.communicate(timeout=LIMIT_S)
    assert (pushing.returncode, stderr) == (0, "")
    path, authorization, body = collector.got[0]
    assert (path, authorization) == ("/v1/metrics", "Bearer canary-51")
    assert "canary" not in stdout
    request = ExportMetricsServiceRequest.FromString(body)
    metrics = {metric.name: metric for metric in request.resource_metrics[0].scope_metrics[0].metrics}
    (point,) = metrics["gen_ai.client.operation.time_to_first_chunk"].histogram.data_points
    assert point.count == 100
    assert dict(zip(point.explicit_bounds, point.bucket_counts, strict=False))[0.04] == 90
    assert metrics["bmp.request_success"].sum.is_monotonic


def test_requests_as_traces(collector: Collector, tmp_path: Path):
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    run = llm_run(tmp_path / "run", count=100, label="traced")
    done = command("traces", run, "--otlp", collector.url)
    stdout, stderr = done.communicate(timeout=LIMIT_S)
    assert (done.returncode, stdout, stderr) == (0, "100 spans\n", "")
    spans = [
        span
        for path, _, body in collector.got
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
        if path == "/v1/traces"
    ]
    assert len(spans) == 100
    assert {span.name for span in spans} == {"chat tiny"}
    bad = [span for span in spans if span.status.code == 2]
    assert len(bad) == 2
    assert all(span.end_time_unix_nano >= span.start_time_unix_nano for span in spans)
    begun_s = min(span.start_time_unix_nano for span in spans) / 1e9
    assert 1_795_521_600 <= begun_s < 1_795_521_700, "run.json's started_at"


def test_a_target_that_fails_is_said_once_and_recovers(exporter: Exporter, collector: Collector):
    collector.status = 503
    pushing = command("push", f"http://127.0.0.1:{exporter.serve(0)}/metrics", "--pushgateway", collector.url, "--every", "0.1")
    until(lambda: len(collector.got) > 3)
    collector.status = 200
    until(lambda: len(collector.got) > 8)
    exporter.close()
    _, stderr = pushing.communicate(timeout=LIMIT_S)
    assert pushing.returncode == 0
    lines = stderr.splitlines()
    assert len(lines) == 2
    assert "answers 503; trying on" in lines[0]
    assert lines[1] == "pushes are taken again"


def test_a_redirect_is_not_followed(exporter: Exporter, collector: Collector):
    collector.status = 302
    pushing = command("push", f"http://127.0.0.1:{exporter.serve(0)}/metrics", "--pushgateway", collector.url, "--every", "0.1")
    until(lambda: len(collector.got) > 1)
    exporter.close()
    stdout, _ = pushing.communicate(timeout=LIMIT_S)
    assert pushing.returncode == 1
    assert "the last push failed: " in stdout


def test_bad_input_is_one_line(tmp_path: Path):
    port = free_port()
    cases = (
        (("push", "http://127.0.0.1:1/metrics"), 2, "nowhere to push to"),
        (("push", "nonsense", "--otlp", "http://h"), 2, "no http or https address"),
        (("push", "http://127.0.0.1:1", "--pushgateway", "http://a:secret@h"), 2, "BMP_PUSH_AUTHORIZATION"),
        (
            ("push", f"http://127.0.0.1:{port}/metrics", "--pushgateway", "http://127.0.0.1:1", "--wait", "0"),
            1,
            "start a run with --prometheus-port",
        ),
        (("traces", str(tmp_path), "--otlp", "http://h"), 2, "is not a run folder"),
    )
    for words, status, says in cases:
        done = command(*words)
        _, stderr = done.communicate(timeout=LIMIT_S)
        assert (done.returncode, stderr.count("\n")) == (status, 1), stderr
        assert says in stderr
        assert "secret" not in stderr
