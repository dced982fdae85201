"""A server's own gauges: read from real pages, over real sockets, by a thread that gives up where there is no page."""

from __future__ import annotations

import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from engines.openai import gauges as server_gauges
from engines.openai.gauges import ServerGauges, gauges_of, prefix_counts_of

VLLM = b"""# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="a } 9"} 3.0
vllm:num_requests_running{engine="1",model_name="a"} 2.0
vllm:num_requests_waiting{engine="0",model_name="a"} 7.0
vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 99.0
vllm:kv_cache_usage_perc{engine="0"} 0.25
vllm:kv_cache_usage_perc{engine="1"} 0.5
vllm:prefix_cache_queries_total{engine="0"} 200.0
vllm:prefix_cache_queries_created{engine="0"} 1.7e+09
vllm:prefix_cache_hits_total{engine="0"} 50.0
vllm:num_preemptions_total{engine="0"} 4.0
"""
SGLANG = b"""sglang:num_running_reqs{model_name="b"} 5.0
sglang:num_queue_reqs{model_name="b"} 1.0
sglang:token_usage{model_name="b"} 0.125
sglang:cache_hit_rate{model_name="b"} 0.75
"""


def test_vllms_and_sglangs_names_become_ours():
    assert gauges_of(VLLM) == {
        "running": 5.0,
        "waiting": 7.0,
        "kv_cache_usage": 0.5,
        "preemptions": 4.0,
        "prefix_cache_hit_rate": 0.25,
    }
    assert gauges_of(SGLANG) == {"running": 5.0, "waiting": 1.0, "kv_cache_usage": 0.125, "prefix_cache_hit_rate": 0.75}


def test_counters_of_the_prefix_cache():
    assert prefix_counts_of(VLLM) == (200, 50)
    assert prefix_counts_of(SGLANG) is None
    sglang = SGLANG + b'sglang:prompt_tokens_total{model_name="b"} 900.0\n'
    assert prefix_counts_of(sglang) == (900, None)
    hits = b'sglang:cached_tokens_total{cache_source="device"} 500.0\nsglang:cached_tokens_total{cache_source="host"} 40.0\n'
    assert prefix_counts_of(sglang + hits) == (900, 540)
    assert gauges_of(sglang + hits)["prefix_cache_hit_rate"] == 0.6


@pytest.mark.parametrize(
    "page",
    [
        b"",
        b"<html>vllm:num_requests_running 3</html>",
        b"vllm:num_requests_running",
        b"vllm:num_requests_running NaN\nvllm:num_requests_waiting 1e999",
        b"vllm:num_requests_running --3",
        b"\xff\x00vllm:num_requests_running 3",
        b"vllm:prefix_cache_hits_total 3",
        b'vllm:num_requests_running{engine="0',
        b'vllm:num_requests_running{engine="0"} ',
        b"vllm:num_requests_running{,,}=3 4",
        b"vllm:num_requests_running }{ 3",
    ],
)
def test_what_is_no_sample_is_no_gauge(page):
    assert gauges_of(page) == {}


def test_samples_are_bounded_and_a_bad_line_costs_no_other():
    page = b"vllm:num_requests_running }{ 3\nvllm:num_requests_waiting 2\n" + b'vllm:num_requests_running{a="%d"} 1\n' * 5_000
    assert gauges_of(page) == {"waiting": 2.0, "running": server_gauges.MAX_SAMPLES - 2.0}


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, *answers: tuple[int, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers, self.seen = list(answers), list[str]()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/metrics"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, Server)
        server.seen.append(self.path + " " + ",".join(sorted(self.headers)))
        status, page = server.answers.pop(0) if len(server.answers) > 1 else server.answers[0]
        self.send_response(status)
        self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Server]]:
    monkeypatch.setattr(server_gauges, "PERIOD_S", 0.01)
    started: list[Server] = []

    def start(*answers: tuple[int, bytes]) -> Server:
        server = Server(*answers)
        Thread(target=server.serve_forever, daemon=True).start()
        started.append(server)
        return server

    yield start  # type: ignore[misc]
    for server in started:
        server.shutdown()
        server.server_close()


def until(condition) -> None:
    limit_s = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < limit_s, "waited in vain"
        time.sleep(0.005)


def test_the_latest_page_counts_and_nothing_is_sent_with_the_question(serve):
    server = serve((200, VLLM), (200, SGLANG))
    gauges = ServerGauges(server.url)
    assert server.seen == []
    until(lambda: gauges.latest().get("kv_cache_usage") == 0.125)
    gauges.close()
    assert {line.split(" ")[0] for line in server.seen} == {"/metrics"}
    assert "Authorization" not in "".join(server.seen)


@pytest.mark.parametrize("answer", [(404, b"no"), (302, b""), (200, b"x" * (server_gauges.MAX_PAGE_BYTES + 1))])
def test_a_server_without_such_a_page_is_asked_once(serve, answer):
    server = serve(answer)
    gauges = ServerGauges(server.url)
    gauges.latest()
    until(lambda: gauges._thread is not None and not gauges._thread.is_alive())
    assert gauges.latest() == {}
    assert len(server.seen) == 1


def test_a_server_that_starts_again_is_asked_again(serve):
    server = serve((200, VLLM))
    gauges = ServerGauges(server.url)
    until(lambda: gauges.latest())
    server.shutdown()
    server.server_close()
    until(lambda: not gauges.latest())
    assert gauges._thread is not None
    assert gauges._thread.is_alive()
    gauges.close()
    until(lambda: not gauges._thread.is_alive())
