"""Metrics pushed to real receivers: Debian's Pushgateway, a real Prometheus' remote write, OTLP decoded by its own messages."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from contextlib import contextmanager

import pytest

from bytemlperf.errors import UserError
from bytemlperf.export.http import checked_url
from bytemlperf.export.push import Pusher, Pushgateway, receivers_for
from bytemlperf_llm.export.remote_write import RemoteWrite, snappy_block, varint
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


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="no prometheus on this machine")
def test_a_real_prometheus_takes_remote_writes_and_answers(tmp_path):
    port = free_port()
    config = tmp_path / "prometheus.yml"
    config.write_text("global: {scrape_interval: 60s}\n")
    flags = ("--web.enable-remote-write-receiver", f"--web.listen-address=127.0.0.1:{port}", f"--storage.tsdb.path={tmp_path / 'db'}")
    with program("prometheus", f"--config.file={config}", *flags):
        fetch(f"http://127.0.0.1:{port}/-/ready")
        RemoteWrite(f"http://127.0.0.1:{port}", "a run").push(fed().exporter)
        query = urllib.parse.urlencode({"query": "bmp_time_to_first_token_seconds_count"})
        (series,) = json.loads(fetch(f"http://127.0.0.1:{port}/api/v1/query?{query}"))["data"]["result"]
        failures = urllib.parse.urlencode({"query": 'bmp_request_failure_total{error_class="http_5xx"}'})
        (failed,) = json.loads(fetch(f"http://127.0.0.1:{port}/api/v1/query?{failures}"))["data"]["result"]
    assert series["metric"] == {"__name__": "bmp_time_to_first_token_seconds_count", "instance": "a run", "job": "bmp"}
    assert series["value"][1] == "20"
    assert failed["value"][1] == "2"


def test_varints_and_snappy_blocks_are_as_the_formats_say():
    assert (varint(0), varint(127), varint(300)) == (b"\x00", b"\x7f", b"\xac\x02")
    content = bytes(range(200))
    block, read = snappy_block(content), bytearray()
    at = 2  # 200 takes two bytes
    while at < len(block):
        length = (block[at] >> 2) + 1
        assert block[at] & 3 == 0
        read += block[at + 1 : at + 1 + length]
        at += 1 + length
    assert bytes(read) == content


def test_otlp_has_every_family_and_the_conventions_names():
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    with otlp_server() as server:
        (receiver,) = receivers_for(None, None, server.url, "a run")
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
    flags = ("--num-prompts", "10", "--request-rate", "20", "--push-gateway", nobody, "--remote-write", nobody, "--otlp", nobody)
    ended = bmp(*QUICK, *flags, cwd=tmp_path)
    assert (run_folder(ended.stdout, tmp_path) / "summary.json").exists()
    assert "Traceback" not in ended.stderr
    for name in ("the Pushgateway", "remote write", "OTLP metrics"):
        assert f"can't push to {name}" in ended.stderr
    assert "did not take the traces" in ended.stderr


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
        for receiver in receivers_for(None, server.url + "/write", server.url, "run"):
            receiver.push(fed().exporter)
    sent = [{name.lower(): value for name, value in headers.items()} for headers in server.headers]
    assert [headers.get("authorization") for headers in sent] == ["Bearer canary"] * 2


@pytest.mark.parametrize("url", ["localhost:9091", "ftp://host/", "http://", "nonsense"])
@pytest.mark.parametrize("flag", ["--push-gateway", "--remote-write", "--otlp"])
def test_an_address_that_is_none_is_one_line_before_anything_starts(tmp_path, flag, url):
    with pytest.raises(UserError, match=flag):
        receivers_for(*(url if flag == each else None for each in ("--push-gateway", "--remote-write", "--otlp")), "run")
