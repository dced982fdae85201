"""`bmp watch`: the report of a run of any suite in a browser while the run goes on.

Another process than the run reads the run's folder: when records were added it makes the report anew, from what is
on disk; open pages ask for the state each second, and show the new one. The run itself knows nothing of it. What a
page takes to make (some tenths of a second of one core for a suite's run) is taken from the machine at most once in `every_s`.
A run's own `--dashboard` starts this module as a program.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bytemlperf.child.inside import die_with_parent
from bytemlperf.errors import UserError
from bytemlperf.report.dashboard import LOOPBACK, listen
from bytemlperf.report.gather import RunView, view_run
from bytemlperf.report.page import render, render_watch
from bytemlperf.report.page_server import Document, serving
from bytemlperf.report.run_page import run_page
from bytemlperf.report.text import counted, visible
from bytemlperf.runs.files import damage_said, lines_of, record_logs
from bytemlperf.runs.folder import read_run_json
from bytemlperf.runs.log import refuse_running

REPORT_POLICY = "frame-ancestors 'self'"
"""Beside the policy that the report itself has inside."""
EVERY_S = 5.0
MOST_OF_A_CORE = 9
"""Times as long as a page took to make, none is made after it: at most a tenth of a core."""
NICE = 19
OPEN_S = 5.0
"""A page that asked no longer ago is open still."""
LAST_FETCH_S = 5.0
"""For an open page to ask for the report that the end made."""
ARRIVAL_S = 0.5


class WatchPage:
    """Serves what a run folder holds. `look` is to be called again and again until it returns True; `state` is what the last look
    saw, and `fetched` is set when a page has asked for the last report."""

    def __init__(self, folder: Path, *, beside_run: bool = False) -> None:
        """`beside_run`: the run goes on until it says its end. Raises UserError where the folder is no run, or without jinja2."""
        run = read_run_json(folder)
        self._page = Document(*render_watch(str(run.get("label") or folder.name)))
        self._folder, self._beside_run = folder, beside_run
        self._seen: tuple[int, bool] | None = None
        self._report = ""
        self._idle = 0
        self._asked_s = -OPEN_S
        self.state: dict[str, Any] = {"says": "Waiting for the first record.", "page": 0, "ended": False}
        self.fetched = threading.Event()

    def document(self, path: str) -> Document | None:
        """The page, the report inside it, and the state as JSON."""
        name, state = path.partition("?")[0], self.state
        if name == "/report":
            if state["ended"]:
                self.fetched.set()
            return Document(self._report, REPORT_POLICY)
        if name == "/state":
            self._asked_s = time.monotonic()
            return Document(json.dumps(state), self._page.policy, "application/json")
        return self._page if name == "/" else None

    @property
    def is_open(self) -> bool:
        """Whether somebody looks at it."""
        return time.monotonic() - self._asked_s < OPEN_S

    def look(self) -> bool:
        """Make the report anew where records were added; True when the run has ended."""
        ended = self._run_has_ended()
        size = (sum(path.stat().st_size for path in record_logs(self._folder)), ended)
        self._idle = self._idle + 1 if size == self._seen and not self._is_written() else 0
        killed = self._idle > 1 and not ended
        if size != self._seen or killed:
            self._seen = size
            says = "The run has ended." if ended else "The run was killed: no process is writing it." if killed else ""
            self.state = self._shown(says) | {"ended": ended or killed}
        return ended or killed

    def _shown(self, ending: str) -> dict[str, Any]:
        try:
            with damage_said(self._folder):
                view = view_run(self._folder)
                self._report = render(run_page(view, running=not ending))
        except UserError as error:  # a file is being written at this moment, or nothing is there yet
            return self.state | {"says": visible(f"{ending} No report: {error.cause}".strip())}
        records = _count_records(self._folder)
        says = ending or f"RUNNING: {_progress(records, view)}."
        return {"says": says, "page": self.state["page"] + 1, "records": records}

    def _run_has_ended(self) -> bool:
        try:
            return "end" in read_run_json(self._folder)
        except UserError:  # torn: read again at the next look
            return False

    def _is_written(self) -> bool:
        if self._beside_run:
            return True
        try:
            refuse_running(self._folder)
        except UserError:
            return True
        return False


def watch_run(folder: Path, port: int, every_s: float) -> int:
    """Serve until Ctrl-C; the page stays when the run has ended. Raises UserError."""
    page = WatchPage(folder)
    with listen(port, flag="--port") as listening, serving(listening, page.document), suppress(KeyboardInterrupt):
        print(f"{folder} at http://{LOOPBACK}:{listening.getsockname()[1]}/ until Ctrl-C", flush=True)
        asleep = threading.Event()
        _look_on(page, every_s, asleep)
        print("the run has ended; the page stays until Ctrl-C", flush=True)
        asleep.wait()
    return 0


def _look_on(page: WatchPage, every_s: float, stopping: threading.Event) -> None:
    """Look until the run has ended or it is to stop; a page that takes long to make is made seldom."""
    while not stopping.is_set():
        began_s = time.monotonic()
        if page.look():
            return
        stopping.wait(max(every_s, MOST_OF_A_CORE * (time.monotonic() - began_s)))


def beside_run(listening: socket.socket, folder: Path) -> None:
    """What `bytemlperf.report.dashboard` starts: the page of the parent's run, until the parent says that the run is over."""
    die_with_parent()
    os.nice(NICE)
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGHUP):  # the terminal's, which the run hears too
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    page = WatchPage(folder, beside_run=True)
    with serving(listening, page.document):
        _look_on(page, EVERY_S, stopping)
        stopping.wait()
        if page.is_open:
            page.look()
            if page.fetched.wait(LAST_FETCH_S):
                time.sleep(ARRIVAL_S)


def _progress(records: int, view: RunView) -> str:
    planned = view.suite.planned(view.run)
    if planned is None or not records:
        return f"{counted(records, 'record')} so far"
    passed_s = (datetime.now(UTC) - datetime.fromisoformat(view.run["started_at"])).total_seconds()
    return f"{records:,} of {counted(planned, 'record')}, about {passed_s / records * max(0, planned - records):.0f} s left"


def _count_records(folder: Path) -> int:
    with suppress(OSError):
        return sum(line.endswith(b"\n") for path in record_logs(folder) for line in lines_of(path))
    return 0


if __name__ == "__main__":
    beside_run(socket.socket(fileno=int(sys.argv[1])), Path(sys.argv[2]))
