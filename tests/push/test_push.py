"""`bmp push` carries a served page to a real Pushgateway and a real Prometheus, and ends with the run."""

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

from bytemlperf.export.prometheus import Exporter
from bytemlperf_llm.push import page as page_module
from bytemlperf_llm.push.page import NoPage, Page, read_page
from training.watch.metrics import FAMILIES

pytestmark = pytest.mark.slow
LIMIT_S = 40


@pytest.fixture
def exporter() -> Iterator[Exporter]:
    """What a training run serves in its middle."""
    made = Exporter(FAMILIES)
    made.observe("bmp_training_step_seconds", [0.02] * 90 + [0.2] * 10)
    made.count("bmp_training_steps", 100, "measured")
    made.set("bmp_training_loss", 2.5)
    yield made
    made.close()


def command(*words: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    program = [sys.executable, "-c", "from bytemlperf.app import main; main()", "push", *words]
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
    pushing = command(source, "--push-gateway", f"http://127.0.0.1:{port}", "--push-interval", "0.2", "--instance", "a/b ü")
    line = 'bmp_training_steps_total{instance="a/b ü",job="bmp",role="measured"}'
    until(lambda: f"{line} 100" in get(f"http://127.0.0.1:{port}/metrics"))
    exporter.count("bmp_training_steps", 1, "measured")
    until(lambda: f"{line} 101" in get(f"http://127.0.0.1:{port}/metrics"))
    exporter.close()
    stdout, stderr = pushing.communicate(timeout=LIMIT_S)
    assert (pushing.returncode, stderr) == (0, "")
    assert stdout.startswith("the run has ended; pushed ")
    page = get(f"http://127.0.0.1:{port}/metrics")
    assert f"{line} 101" in page
    assert 'bmp_training_step_seconds_bucket{instance="a/b ü",job="bmp",le="0.03"} 90' in page


def test_prometheus_takes_remote_writes(exporter: Exporter, server: Callable[..., int], tmp_path: Path):
    (tmp_path / "prometheus.yml").write_text("global: {scrape_interval: 1h}\n")
    port = server(
        "prometheus", "--config.file=prometheus.yml", f"--storage.tsdb.path={tmp_path / 'db'}", "--web.enable-remote-write-receiver"
    )

    def value(expression: str) -> float | None:
        answer = get(f"http://127.0.0.1:{port}/api/v1/query?{urllib.parse.urlencode({'query': expression})}")
        result = json.loads(answer)["data"]["result"] if answer else []
        return float(result[0]["value"][1]) if result else None

    source = f"http://127.0.0.1:{exporter.serve(0)}/metrics"
    pushing = command(source, "--remote-write", f"http://127.0.0.1:{port}", "--push-interval", "0.2", "--instance", "friday")
    assert until(lambda: value('bmp_training_loss{instance="friday"}')) == 2.5
    assert 0.01 < (value("histogram_quantile(0.5, bmp_training_step_seconds_bucket)") or 0) <= 0.03
    exporter.close()
    _, stderr = pushing.communicate(timeout=LIMIT_S)
    assert (pushing.returncode, stderr) == (0, "")


class Collector(ThreadingHTTPServer):
    """Keeps every request's path, header and body, and answers `status`."""

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


def test_the_same_by_otlp(exporter: Exporter, collector: Collector):
    messages = pytest.importorskip("opentelemetry.proto.collector.metrics.v1.metrics_service_pb2")
    source = f"http://127.0.0.1:{exporter.serve(0)}/metrics"
    pushing = command(source, "--otlp", collector.url, "--push-interval", "0.2", env={"BMP_PUSH_AUTHORIZATION": "Bearer canary-51"})
    until(lambda: collector.got)
    exporter.close()
    stdout, stderr = pushing.communicate(timeout=LIMIT_S)
    assert (pushing.returncode, stderr) == (0, "")
    path, authorization, body = collector.got[0]
    assert (path, authorization) == ("/v1/metrics", "Bearer canary-51")
    assert "canary" not in stdout
    request = messages.ExportMetricsServiceRequest.FromString(body)
    metrics = {metric.name: metric for metric in request.resource_metrics[0].scope_metrics[0].metrics}
    (point,) = metrics["bmp_training_step_seconds"].histogram.data_points
    assert dict(zip(point.explicit_bounds, point.bucket_counts, strict=False))[0.03] == 90


def test_a_receiver_that_fails_is_said_once_and_recovers(exporter: Exporter, collector: Collector):
    collector.status = 503
    pushing = command(f"http://127.0.0.1:{exporter.serve(0)}/metrics", "--push-gateway", collector.url, "--push-interval", "0.1")
    until(lambda: len(collector.got) > 3)
    collector.status = 200
    until(lambda: len(collector.got) > 8)
    exporter.close()
    _, stderr = pushing.communicate(timeout=LIMIT_S)
    assert pushing.returncode == 0
    lines = stderr.splitlines()
    assert len(lines) == 2
    assert "503" in lines[0]
    assert lines[1] == "the Pushgateway takes pushes again"


def test_a_redirect_is_not_followed_and_a_last_push_that_failed_is_status_1(exporter: Exporter, collector: Collector):
    collector.status = 302
    pushing = command(f"http://127.0.0.1:{exporter.serve(0)}/metrics", "--push-gateway", collector.url, "--push-interval", "0.1")
    until(lambda: len(collector.got) > 1)
    exporter.close()
    stdout, _ = pushing.communicate(timeout=LIMIT_S)
    assert pushing.returncode == 1
    assert "the last push failed: " in stdout


def test_bad_input_is_one_line():
    port = free_port()
    cases = (
        (("http://127.0.0.1:1/metrics",), 2, "nowhere to push to"),
        (("nonsense", "--otlp", "http://h"), 2, "takes an http:// or https:// address"),
        (("http://127.0.0.1:1", "--push-gateway", "http://a:secret@h"), 2, "BMP_PUSH_AUTHORIZATION"),
        (
            (f"http://127.0.0.1:{port}/metrics", "--push-gateway", "http://127.0.0.1:1", "--wait", "0"),
            1,
            "start a run with --prometheus-port",
        ),
    )
    for words, status, says in cases:
        done = command(*words)
        _, stderr = done.communicate(timeout=LIMIT_S)
        assert (done.returncode, stderr.count("\n")) == (status, 1), stderr
        assert says in stderr
        assert "secret" not in stderr


@pytest.mark.parametrize("content", [b"<html>hello</html>", b"\xff\xfe"])
def test_what_is_no_metrics_page_is_said(content: bytes):
    with pytest.raises(NoPage, match="no metrics page"):
        Page(content)


def test_a_page_without_end_is_not_kept(exporter: Exporter, monkeypatch: pytest.MonkeyPatch):
    source = f"http://127.0.0.1:{exporter.serve(0)}/metrics"
    read_page(source)
    monkeypatch.setattr(page_module, "MAX_PAGE_BYTES", 100)
    with pytest.raises(NoPage, match="more than 100 bytes"):
        read_page(source)
