"""`bmp watch`: the report of a run that goes on, in a real browser, through a real run folder that another process could write."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bytemlperf.errors import UserError
from bytemlperf.report.watch import WatchPage
from bytemlperf.runs.suite import SuiteRun
from tests.micro.made import run_and_records
from tests.report.browser import Opened, chromium, have_chromium

MADE, RECORDS = run_and_records()


@pytest.fixture
def run(tmp_path: Path):
    made = SuiteRun.begin(tmp_path, "micro", "<script>window.pwned=1</script>", MADE["config"], command=["bmp", "micro"], seed=0)
    yield made
    made.end()


def test_a_folder_that_is_no_run_is_named(tmp_path: Path):
    with pytest.raises(UserError):
        WatchPage(tmp_path)


def test_a_look_shows_only_what_is_new_and_sees_the_end(run: SuiteRun):
    page = WatchPage(run.folder)
    assert not page.look()
    for _ in range(4):
        assert not page.look(), "a run that is written is not taken for killed, however long a record takes"
    before = page.document("/report?1")
    run.append(RECORDS[0])
    assert not page.look()
    shown = page.document("/report?2")
    assert shown != before
    assert (">RUNNING<" in shown.text, ">INVALID<" in shown.text) == (True, False), "what a run lacks that goes on is no fault"
    run.end()
    assert page.look()
    assert (">RUNNING<" in page.document("/report?3").text, ">INVALID<" in page.document("/report?3").text) == (False, True)
    assert page.document("/records.jsonl") is None


def test_a_killed_run_is_said(run: SuiteRun):
    run.append(RECORDS[0])
    run._log.close()  # as the kernel does when the process is gone: the lock is free, and run.json has no end
    page = WatchPage(run.folder)
    looks = [page.look() for _ in range(3)]
    assert looks == [False, False, True]


@pytest.mark.skipif(not have_chromium(), reason="chromium is not installed (apt-get install chromium)")
def test_a_browser_shows_records_as_they_come_and_the_end(run: SuiteRun):
    pytest.importorskip("playwright")
    run.append(RECORDS[0])
    code = "import sys; sys.argv[0] = 'bmp'; from bytemlperf.app import main; sys.exit(main())"
    arguments = [sys.executable, "-c", code, "watch", str(run.folder), "--every", "0.2"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            said = process.stdout.readline()
            url = re.search(r"http://\S+", said)[0]
            with chromium() as browser:
                opened = Opened(browser.new_page(viewport={"width": 1200, "height": 900}))
                page = opened.page
                page.goto(url)
                page.wait_for_selector("html[data-records='1']", state="attached")
                for record in RECORDS[1:4]:
                    run.append(record)
                page.wait_for_selector("html[data-records='4']", state="attached")
                run.end()
                page.wait_for_selector("html[data-ended]", state="attached")
                page.frame_locator("#report").locator("html[data-drawn]").wait_for(state="attached")
                shown, state = page.frame_locator("#report").locator("body").inner_text(), page.inner_text("#state")
                complaints = opened.complaints(url)
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0
    assert state == "The run has ended."
    assert "<script>window.pwned=1</script>" in shown
    assert complaints == []
