"""The live page: a real run watched in a real browser, and what the server refuses."""

from __future__ import annotations

import http.client
import json
import re
import threading

import pytest

from bytemlperf.errors import UserError
from bytemlperf_llm.live.metrics import LlmMetrics
from bytemlperf_llm.report.live_page import LivePage, _percentiles_ms
from tests.cli.helpers import QUICK, run_folder, start
from tests.report.made import HOSTILE


@pytest.fixture
def page():
    made = LivePage(LlmMetrics(), " ".join(HOSTILE))
    made.port = made.serve(0)
    yield made
    made.close()


def answer(page, path="/", method="GET", host=None):
    connection = http.client.HTTPConnection("127.0.0.1", page.port, timeout=10)
    connection.request(method, path, headers={"Host": host or f"127.0.0.1:{page.port}"})
    return connection.getresponse()


def events(text: str) -> list[dict]:
    return [json.loads(line) for line in re.findall(r"event: tick\ndata: (.*)", text)]


def test_a_late_page_gets_what_was_before_it_and_then_the_end(page):
    page.scheduled = 10
    page.listen([0.05, 0.01, 0.03], [0.002])
    page.tick(1.0)
    page.tick(2.0)
    threading.Timer(0.3, page.end, ["over"]).start()
    text = answer(page, "/events").read().decode()
    first, second, _last = events(text)
    assert first["ttft"] == [30.0, 50.0, 50.0]
    assert first["scheduled"] == 10
    assert second["ttft"] is None, "a second without answers has no percentile, and no zero"
    assert 'event: end\ndata: {"says":"over"}' in text


def test_after_a_lost_connection_nothing_comes_twice(page):
    for second in range(4):
        page.tick(float(second))
    page.end("over")
    connection = http.client.HTTPConnection("127.0.0.1", page.port, timeout=10)
    connection.request("GET", "/events", headers={"Last-Event-ID": "3"})
    times = [each["t"] for each in events(connection.getresponse().read().decode())]
    assert times[0] == 3.0
    assert len(times) == 2, "the last full second, and what came after it"


def test_only_this_machine_and_only_get(page):
    assert answer(page).status == 200
    assert answer(page, host=f"localhost:{page.port}").status == 200
    assert answer(page, host="evil.example.org").status == 403, "a page elsewhere can't rebind its name to this server"
    assert answer(page, "/etc/passwd").status == 404
    assert answer(page, "/../run.json").status == 404
    assert answer(page, method="POST").status == 501
    policy = answer(page).getheader("Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_a_port_in_use_is_one_line(page):
    other = LivePage(LlmMetrics(), "other")
    with pytest.raises(UserError, match="can't serve the dashboard"):
        other.serve(page.port)


def test_percentiles_of_a_second_are_nearest_rank():
    assert _percentiles_ms([]) is None
    assert _percentiles_ms([0.001 * each for each in range(1, 101)]) == [50.0, 99.0, 100.0]


def test_a_run_is_watched_from_start_to_end(tmp_path, opened):
    flags = ("--num-prompts", "150", "--request-rate", "30", "--engine-option", "fail_every=20", "--dashboard")
    process = start(*QUICK, *flags, cwd=tmp_path)
    try:
        address = ""
        assert process.stderr is not None
        while not address:
            line = process.stderr.readline()
            assert line, "the run ended without a dashboard"
            address = line.partition("dashboard at ")[2].split(" ")[0].strip()
        page = opened.open(address)
        for _ in range(600):  # not wait_for_function: the page's policy refuses what it evaluates
            if int(page.evaluate("document.documentElement.dataset.ticks || 0")) >= 3:
                break
            page.wait_for_timeout(100)
        assert page.locator("#live.js-plotly-plot svg.main-svg").count() >= 1
        assert page.locator("#ttft").inner_text() != "–"
        assert "engine_failed" in page.locator("#failures").inner_text()
        page.wait_for_selector("html[data-ended]", state="attached", timeout=60_000)
        assert "ended" in page.locator("#state").inner_text()
        assert page.locator("#done").inner_text() == "150", "the last part of a second is shown too"
        assert page.locator("main").bounding_box()["width"] > 800
        assert opened.complaints(address) == []
    finally:
        out, _ = process.communicate(timeout=60)
    assert process.returncode in (0, 1), "a busy machine may make it invalid, nothing else"
    assert (run_folder(out, tmp_path) / "report.html").exists()


def test_a_hostile_title_is_inert(page, opened):
    address = f"http://127.0.0.1:{page.port}/"
    page.tick(1.0)
    shown = opened.open(address)
    shown.wait_for_selector("html[data-ticks]", state="attached")
    assert opened.complaints(address) == []
    assert "</script>" in shown.locator("h1").inner_text()
