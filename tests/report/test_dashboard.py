"""`--dashboard`: a real run watched in a real browser, the process beside the run, and what its server refuses."""

from __future__ import annotations

import http.client
import json
import re
import threading
import time
from urllib.parse import urlsplit

import pytest

from bytemlperf.command.flags import MetricsOutput
from bytemlperf.errors import UserError
from bytemlperf.report.dashboard import dashboard, listen
from bytemlperf.report.page_server import serving
from bytemlperf.report.watch import WatchPage
from bytemlperf.runs.suite import SuiteRun
from tests.cli.helpers import QUICK, run_folder, start
from tests.micro.made import run_and_records
from tests.report.made import HOSTILE

MADE, RECORDS = run_and_records()


@pytest.fixture
def page(tmp_path):
    run = SuiteRun.begin(tmp_path / "watched", "micro", " ".join(HOSTILE), MADE["config"], command=["bmp", "micro"], seed=0)
    made = WatchPage(run.folder)
    with run, listen(0, flag="--port") as listening, serving(listening, made.document):
        made.port, made.run = listening.getsockname()[1], run
        yield made


def answer(port, path="/", method="GET", host=None, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, path, headers={"Host": host or f"127.0.0.1:{port}", **headers})
    return connection.getresponse()


def state(port):
    return json.loads(answer(port, "/state").read())


def test_a_page_gets_the_newest_report_and_the_end(page):
    assert not page.is_open
    assert state(page.port) == {"says": "Waiting for the first record.", "page": 0, "ended": False}
    assert page.is_open
    for record in RECORDS[:2]:
        page.run.append(record)
        page.look()
    seen = state(page.port)
    assert re.fullmatch(rf"RUNNING: 2 of {len(MADE['config']['cases'])} records, about \d+ s left.", seen.pop("says"))
    assert seen == {"page": 2, "records": 2, "ended": False}
    answer(page.port, "/report?2").read()
    assert not page.fetched.is_set(), "it isn't the last"
    page.run.end()
    page.look()
    assert state(page.port) == {"says": "The run has ended.", "page": 3, "records": 2, "ended": True}
    answer(page.port, "/report?3").read()
    assert page.fetched.is_set()


def test_only_this_machine_and_only_get(page):
    assert answer(page.port).status == 200
    assert answer(page.port, host=f"localhost:{page.port}").status == 200
    assert answer(page.port, host="evil.example.org").status == 403, "a page elsewhere can't rebind its name to this server"
    assert answer(page.port, "/etc/passwd").status == 404
    assert answer(page.port, "/../run.json").status == 404
    assert answer(page.port, method="POST").status == 501
    policy = answer(page.port).getheader("Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_a_port_in_use_is_one_line_before_anything_starts(page):
    with (
        pytest.raises(UserError, match="can't serve a page on"),
        dashboard(MetricsOutput(dashboard_port=page.port), lambda _: None),
    ):
        raise AssertionError


def test_the_page_of_any_suites_run_is_served_beside_it_and_goes_with_it(tmp_path):
    said: list[str] = []
    run = SuiteRun.begin(tmp_path, "micro", "made", MADE["config"], command=["bmp", "micro"], seed=0)
    with dashboard(MetricsOutput(dashboard=True), said.append) as show:
        port = urlsplit(said[0].partition("dashboard at ")[2].split(" ")[0]).port
        show(run.folder)
        run.append(RECORDS[0])
        assert answer(port).status == 200
        while not state(port)["page"]:
            time.sleep(0.02)
        assert state(port)["says"].startswith("RUNNING: 1 of ")
        run.end()
        told = threading.Thread(target=follow, args=(port, said))
        told.start()
    told.join()
    assert said[-1] == "The run has ended.", "an open page is told"
    with pytest.raises(OSError, match="refused"):
        answer(port)


def follow(port, said):
    """As an open page does."""
    while not (now := state(port))["ended"]:
        time.sleep(0.02)
    said.append(now["says"])
    answer(port, f"/report?{now['page']}").read()


def test_without_the_flag_nothing_listens(tmp_path):
    said: list[str] = []
    with dashboard(MetricsOutput(), said.append) as show:
        show(tmp_path)
    assert said == []


def test_a_run_is_watched_from_start_to_end(tmp_path, opened):
    process = start(*QUICK, "--num-prompts", "240", "--request-rate", "20", "--dashboard", cwd=tmp_path)
    try:
        address = ""
        assert process.stderr is not None
        while not address:
            line = process.stderr.readline()
            assert line, "the run ended without a dashboard"
            address = line.partition("dashboard at ")[2].split(" ")[0].strip()
        page = opened.page
        page.goto(address)
        page.wait_for_selector("html[data-records]", state="attached", timeout=60_000)
        page.wait_for_selector("html[data-ended]", state="attached", timeout=60_000)
        assert page.inner_text("#state") == "The run has ended."
        assert "TTFT" in page.frame_locator("#report").locator("body").inner_text()
        assert opened.complaints(address) == []
    finally:
        out, _ = process.communicate(timeout=60)
    assert process.returncode in (0, 1), "a busy machine may make it invalid, nothing else"
    assert (run_folder(out, tmp_path) / "report.html").exists()


def test_a_hostile_title_is_inert(page, opened):
    address = f"http://127.0.0.1:{page.port}/"
    opened.page.goto(address)
    assert "</script>" in opened.page.title()
    assert opened.complaints(address) == []
