"""A page of metrics followed over real sockets, by a thread that gives up where there is none and disturbs nothing where it is bad."""

from __future__ import annotations

import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from engines.contract import Counted, Histogram
from engines.counted import UNKNOWN
from engines.openai import scraper
from engines.openai.metrics_page import Page
from engines.openai.scraper import MAX_PAGE_BYTES, Scraper, series
from tests.engines.test_metrics_page import SGLANG, VLLM


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, *answers: tuple[int, bytes] | bytes) -> None:
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
        answer = server.answers.pop(0) if len(server.answers) > 1 else server.answers[0]
        if isinstance(answer, bytes):  # as it is
            self.wfile.write(answer)
            return
        status, page = answer
        self.send_response(status)
        self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Server]]:
    monkeypatch.setattr(scraper, "PERIOD_S", 0.01)
    started: list[Server] = []

    def start(*answers: tuple[int, bytes] | bytes) -> Server:
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
    gauges = Scraper([server.url])
    assert server.seen == []
    until(lambda: gauges.latest().get("kv_cache_usage") == 0.125)
    gauges.close()
    assert {line.split(" ")[0] for line in server.seen} == {"/metrics"}
    assert "Authorization" not in "".join(server.seen)


@pytest.mark.parametrize("answer", [(404, b"no"), (302, b""), (200, b"x" * (MAX_PAGE_BYTES + 1))])
def test_a_server_without_such_a_page_is_asked_once(serve, answer):
    server = serve(answer)
    gauges = Scraper([server.url])
    gauges.latest()
    until(lambda: gauges._thread is not None and not gauges._thread.is_alive())
    assert gauges.latest() == {}
    assert len(server.seen) == 1
    assert [text.split(" (")[0] for text in gauges.counted().missing] == ["there are none"]


def test_a_server_that_starts_again_is_asked_again(serve):
    server = serve((200, VLLM))
    gauges = Scraper([server.url])
    until(lambda: gauges.latest())
    server.shutdown()
    server.server_close()
    until(lambda: not gauges.latest())
    assert gauges._thread is not None
    assert gauges._thread.is_alive()
    gauges.close()
    until(lambda: not gauges._thread.is_alive())


def counts(number: int, begun_s: int = 1, queue: str = "") -> tuple[int, bytes]:
    return 200, b"vllm:generation_tokens_total %d\nprocess_start_time_seconds %d\n%b" % (number, begun_s, queue.encode())


def waited(number: int, sum_s: float) -> str:
    return f'tgi_request_queue_duration_bucket{{le="+Inf"}} {number}\ntgi_request_queue_duration_sum {sum_s}\n'


def test_counters_that_begin_again_go_on_from_where_they_were_and_that_is_said(serve):
    server = serve(
        counts(100, queue=waited(4, 2.0)), counts(130, queue=waited(5, 3.0)), counts(7, queue=waited(1, 0.5)), counts(9, begun_s=2)
    )
    page = Scraper([server.url])
    for _ in range(3):
        page.ask()
    counted = page.counted()
    assert counted.counts == {"output_tokens": 130.0 + 7.0 + 9.0}
    assert counted.latencies == {"queue": Histogram(upper_s=(), counts=(6,), sum_s=3.5)}
    assert counted.missing == ("its counters began again 2 times: what they grew by before, unseen, is missing",)


def test_counts_are_rates_between_two_pages_and_power_comes_from_energy():
    def page(tokens: float, joules: float) -> Page:
        return Page({"running": 1.0}, {"output_tokens": tokens, "preemptions": 3.0, "energy_j": joules, "accepted_tokens_at_0": tokens}, {})

    none = Page({}, {}, {})
    assert series(none, page(10, 5), 2.0) == {"running": 1.0, "preemptions": 3.0}
    assert series(page(10, 5), page(60, 45), 2.0) == {"running": 1.0, "preemptions": 3.0, "output_tokens_per_s": 25.0, "power_w": 20.0}
    assert series(page(90, 95), page(60, 45), 2.0) == {"running": 1.0, "preemptions": 3.0}
    assert series(page(10, 5), page(60, 45), 0.0) == {"running": 1.0, "preemptions": 3.0}


def test_trtllms_page_is_at_another_place_and_its_json_is_no_page(serve):
    server = serve((200, b"[]"), (200, b"trtllm_num_requests_running 2\n"))
    page = Scraper([server.url, server.url.replace("/metrics", "/prometheus/metrics")])
    assert not page.ask().problem
    page.ask()
    assert [line.split(" ")[0] for line in server.seen] == ["/metrics", "/prometheus/metrics", "/prometheus/metrics"]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((503, b"starting"), "HTTP 503"),
        ((200, b""), "its page was empty"),
        ((200, b"<html>"), "nothing on it is known"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nvllm:num_requests_running 3\n", "its page was cut"),
        (b"HTTP/1.1 200 OK\r\nContent-Type: application/openmetrics-text\r\n\r\nvllm:num_requests_running 3\n", "its page was cut"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nvllm:num", "no answer"),
        (b"HTTP/9.9 what\r\n\r\n", "no answer"),
        (b"\x16\x03\x01 oh", "no answer"),
        (b"", "no answer"),
    ],
)
def test_a_page_that_is_bad_this_time_is_asked_for_again_and_how_often_is_said(serve, answer, said):
    server = serve((200, VLLM), answer, answer, (200, VLLM))
    page = Scraper([server.url])
    told = [page.ask().problem for _ in range(3)]
    assert told == ["", said, said]
    counted = page.counted()
    assert counted.counts["drafts"] == 10
    assert counted.missing == (f"said nothing 2 of the 4 reads ({said})",)


def test_a_page_that_is_gone_at_the_end_says_nothing_of_the_whole(serve):
    server = serve((200, VLLM), (503, b""))
    page = Scraper([server.url])
    assert not page.ask().problem
    counted = page.counted()
    assert counted == Counted(missing=("said nothing 3 of the 4 reads (HTTP 503)", UNKNOWN))


def test_a_page_that_drips_is_given_up(serve, monkeypatch):
    monkeypatch.setattr(scraper, "TIMEOUT_S", 0.2)

    class Dripping(Handler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            for _ in range(200):
                self.wfile.write(b"vllm:num_requests_running 3\n")
                time.sleep(0.02)

    server = serve((200, b""))
    server.RequestHandlerClass = Dripping
    assert Scraper([server.url]).ask().problem == "no answer in time"


def test_ten_thousand_series_take_a_small_part_of_a_processor(serve):
    lines = [b'vllm:num_requests_running{engine="%d"} 1\nother_%d{a="b"} 2\n' % (number, number) for number in range(10_000)]
    server = serve((200, b"".join(lines)))
    page = Scraper([server.url])
    until(lambda: page.latest())
    assert page.latest() == {"running": 4_000.0}
    assert page.counted().missing == ("has more than the 4,000 known samples that are read: its sums are of those",)
    page.close()
