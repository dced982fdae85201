"""Metrics pushed to real receivers: Debian's Pushgateway, OTLP decoded by its own messages."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from bytemlperf.command.flags import MetricsOutput
from bytemlperf.errors import UserError
from bytemlperf.export.http import checked_url
from bytemlperf.export.push import Pusher, Pushgateway, receivers_for
from tests.cli.helpers import QUICK, bmp, run_folder
from tests.export.receivers import fed, otlp_server

LIMIT_S = 30


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@contextmanager
def program(*command: str):
    with open(os.devnull, "w") as nowhere:
        process = subprocess.Popen(command, stdout=nowhere, stderr=nowhere)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def fetch(url: str) -> str:
    deadline = time.monotonic() + LIMIT_S
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return answer.read().decode()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


@pytest.mark.skipif(shutil.which("prometheus-pushgateway") is None, reason="no prometheus-pushgateway on this machine")
def test_a_real_pushgateway_shows_what_was_pushed():
    port = free_port()
    with program("prometheus-pushgateway", f"--web.listen-address=127.0.0.1:{port}"):
        fetch(f"http://127.0.0.1:{port}/-/ready")
        receiver = Pushgateway(f"http://127.0.0.1:{port}/", "run/with a slash")
        receiver.push(fed().exporter)
        text = fetch(f"http://127.0.0.1:{port}/metrics")
    assert 'bmp_request_success_total{instance="run/with a slash",job="bmp"} 20' in text
    assert 'bmp_time_to_first_token_seconds_count{instance="run/with a slash",job="bmp"} 20' in text


def test_otlp_has_every_family_and_the_conventions_names():
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    with otlp_server() as server:
        (receiver,) = receivers_for(MetricsOutput(otlp=server.url), "a run")
        receiver.push(fed().exporter)
    (resource,) = server.metrics[0].resource_metrics
    named = {metric.name: metric for metric in resource.scope_metrics[0].metrics}
    attributes = {each.key: each.value.string_value for each in resource.resource.attributes}
    assert attributes["service.instance.id"] == "a run"
    assert named["bmp_request_success"].sum.data_points[0].as_double == 20
    assert named["bmp_request_success"].sum.is_monotonic
    duration = named["gen_ai.client.operation.duration"]
    (point,) = duration.histogram.data_points
    assert (duration.unit, point.count, sum(point.bucket_counts)) == ("s", 20, 20)
    assert point.sum == pytest.approx(sum(0.071 + each / 1000 for each in range(20)))
    assert len(point.bucket_counts) == len(point.explicit_bounds) + 1
    assert named["gen_ai.client.operation.time_to_first_chunk"].histogram.data_points[0].count == 20
    usage = named["gen_ai.client.token.usage"]
    tokens = {each.value.string_value: point for point in usage.histogram.data_points for each in point.attributes if "token" in each.key}
    assert usage.unit == "{token}"
    assert (tokens["output"].count, tokens["output"].sum) == (20, 60), "three tokens each"
    assert list(tokens["output"].explicit_bounds) == [4.0**power for power in range(14)]
    assert tokens.keys() == {"input", "output"}


def test_a_run_sends_metrics_and_a_trace_of_every_request(tmp_path):
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    with otlp_server() as server:
        ended = bmp(
            *QUICK, "--num-prompts", "40", "--request-rate", "40", "--engine-option", "fail_every=10", "--otlp", server.url, cwd=tmp_path
        )
    assert server.metrics, ended.stderr
    calls = [span for span in server.spans if span.kind == 3]
    assert len(calls) == 40
    folder = run_folder(ended.stdout, tmp_path)
    records = {json.loads(line)["index"]: json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()}
    for span in calls:
        attributes = {each.key: each.value for each in span.attributes}
        record = records[attributes["bmp.request.index"].int_value]
        assert span.end_time_unix_nano - span.start_time_unix_nano == record["end_ns"] - record["sent_ns"]
        assert abs(span.start_time_unix_nano - time.time_ns()) < 600 * 10**9, "the time of day, not of the machine's start"
        assert attributes["gen_ai.operation.name"].string_value == "chat"
        if record["outcome"] == "ok":
            assert attributes["gen_ai.usage.output_tokens"].int_value == record["output_tokens"]
        else:
            assert attributes["error.type"].string_value == record["error_class"]
            assert span.status.code == 2
    below = [span for span in server.spans if span.kind != 3]
    assert {span.name for span in below} <= {"queue", "prefill", "decode"}
    assert {span.parent_span_id for span in below} <= {span.span_id for span in calls}
    assert len({span.trace_id for span in calls}) == 40


def test_a_receiver_that_is_gone_or_refuses_costs_the_run_nothing(tmp_path):
    nobody = f"http://127.0.0.1:{free_port()}"
    flags = ("--num-prompts", "10", "--request-rate", "20", "--push-gateway", nobody, "--otlp", nobody)
    ended = bmp(*QUICK, *flags, cwd=tmp_path)
    assert (run_folder(ended.stdout, tmp_path) / "summary.json").exists()
    assert "Traceback" not in ended.stderr
    for name in ("the Pushgateway", "OTLP metrics"):
        assert f"push to {name} failed" in ended.stderr
    assert "rejected the traces" in ended.stderr


def test_a_failing_receiver_is_named_once_and_counted():
    said: list[str] = []

    class Broken:
        name = "it"

        def push(self, exporter):
            raise OSError("refused")

    pusher = Pusher(fed().exporter, [Broken()], said.append, interval_s=60)
    pusher.start()
    pusher.push()
    pusher.push()
    pusher.close()
    assert len(said) == 2
    assert "refused" in said[0]
    assert said[1].startswith("3 pushes to it failed")


def test_credentials_come_from_the_environment_and_reach_no_address(monkeypatch):
    with pytest.raises(UserError, match="credentials"):
        checked_url("--otlp", "http://user:canary@host:1")
    monkeypatch.setenv("BMP_PUSH_AUTHORIZATION", "Bearer canary")
    with otlp_server() as server:
        for receiver in receivers_for(MetricsOutput(push_gateway=server.url, otlp=server.url), "run"):
            receiver.push(fed().exporter)
    sent = [{name.lower(): value for name, value in headers.items()} for headers in server.headers]
    assert [headers.get("authorization") for headers in sent] == ["Bearer canary"] * 2


def test_a_pushgateway_gets_the_query_behind_the_path_and_its_redirect_is_not_followed():
    asked = []

    class Redirecting(BaseHTTPRequestHandler):
        def do_PUT(self):
            asked.append(self.path)
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(302)
            self.send_header("Location", "/elsewhere")
            self.end_headers()

        do_GET = do_POST = do_PUT

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Redirecting) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(OSError, match="302"):
            Pushgateway(f"http://127.0.0.1:{server.server_port}/base?x=1", "run").push(fed().exporter)
        server.shutdown()
    assert asked == ["/base/metrics/job/bmp/instance/run?x=1"]


@pytest.mark.parametrize("url", ["localhost:9091", "ftp://host/", "http://", "nonsense"])
@pytest.mark.parametrize("flag", ["--push-gateway", "--otlp"])
def test_an_address_that_is_none_is_one_line_before_anything_starts(tmp_path, flag, url):
    with pytest.raises(UserError, match=flag):
        receivers_for(MetricsOutput(**{flag.strip("-").replace("-", "_"): url}), "run")


def suite(*words, cwd):
    command = [sys.executable, "-c", "from bytemlperf.app import main; main()", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=120, check=False)


def test_operators_are_pushed_too(tmp_path):
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    with otlp_server() as server:
        quick = ("--peaks", "off", "--seconds", "0.01", "--quiet")
        ended = suite("micro", "gemm", "-a", "M=64", "-a", "N=64", "-a", "K=64", *quick, "--otlp", server.url, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    (resource,) = server.metrics[-1].resource_metrics
    assert {each.key: each.value.string_value for each in resource.resource.attributes}["service.instance.id"] in ended.stdout
    assert any(metric.name.startswith("bmp_micro_") for metric in resource.scope_metrics[0].metrics)


@pytest.mark.parametrize("words", ["micro gemm", "general run bert-tiny", "train run bert-tiny"])
def test_every_suite_refuses_an_address_before_it_measures(tmp_path, words):
    ended = suite(*words.split(), "--push-gateway", "nonsense", cwd=tmp_path)
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1), ended.stderr
    assert "--push-gateway takes an http" in ended.stderr
    assert list(tmp_path.iterdir()) == []
