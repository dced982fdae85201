"""`bmp watch`: the report of a run of any suite in a browser while the run goes on.

Another process than the run reads the run's folder: when records were added it makes the report anew, from what is
on disk, and tells the open pages by a server-sent event to show it. The run itself knows nothing of it. What a
page takes to make (some tenths of a second of one core for a suite's run) is taken from the machine at most once in `every_s`.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path

from bytemlperf.errors import UserError
from bytemlperf.report.event_server import EventServer
from bytemlperf.report.gather import view_run
from bytemlperf.report.page import render, render_watch
from bytemlperf.report.run_page import run_page
from bytemlperf.report.text import visible
from bytemlperf.runs.files import damage_said, lines_of, record_logs
from bytemlperf.runs.folder import read_run_json
from bytemlperf.runs.log import refuse_running

REPORT_POLICY = "frame-ancestors 'self'"
"""Beside the policy that the report itself has inside."""


class WatchPage(EventServer):
    """Serves what a run folder holds. `look` is to be called again and again until it returns True."""

    def __init__(self, folder: Path) -> None:
        """Raises UserError where the folder is no run, or without jinja2."""
        run = read_run_json(folder)
        super().__init__(*render_watch(str(run.get("label") or folder.name)))
        self._folder = folder
        self._seen: tuple[int, bool] | None = None
        self._report = ""
        self._made = 0
        self._idle = 0

    def document(self, path: str) -> tuple[str, str] | None:
        if path.partition("?")[0] == "/report":
            return self._report, REPORT_POLICY
        return super().document(path)

    def look(self) -> bool:
        """Make the report anew where records were added; True when the run has ended."""
        ended = self._run_has_ended()
        state = (sum(path.stat().st_size for path in self._folder.glob("records*.jsonl")), ended)
        self._idle = self._idle + 1 if state == self._seen and not self._is_written() else 0
        killed = self._idle > 1 and not ended
        if state != self._seen or killed:
            self._seen = state
            self._show(
                "The run has ended." if ended else "The run was killed: no process is writing it." if killed else "", ended or killed
            )
        return ended or killed

    def _show(self, ending: str, over: bool) -> None:
        try:
            with damage_said(self._folder):
                self._report = render(run_page(view_run(self._folder)))
        except UserError as error:  # a file is being written at this moment, or nothing is there yet
            self.publish("end" if over else "look", {"says": visible(f"{ending} No report: {error.cause}".strip())})
            return
        self._made += 1
        records = _count_records(self._folder)
        says = ending or f"RUNNING: {records} record{'' if records == 1 else 's'} so far."
        self.publish("end" if over else "look", {"says": says, "page": self._made, "records": records})

    def _run_has_ended(self) -> bool:
        try:
            return "end" in read_run_json(self._folder)
        except UserError:  # torn: read again at the next look
            return False

    def _is_written(self) -> bool:
        try:
            refuse_running(self._folder)
        except UserError:
            return True
        return False


def watch_run(folder: Path, port: int, every_s: float) -> int:
    """Serve until Ctrl-C; the page stays when the run has ended. Raises UserError."""
    page = WatchPage(folder)
    number = page.serve(port, flag="--port")
    print(f"{folder} at http://127.0.0.1:{number}/ until Ctrl-C", flush=True)
    asleep = threading.Event()
    try:
        while not page.look():
            asleep.wait(every_s)
        page.end_events()
        print("the run has ended; the page stays until Ctrl-C", flush=True)
        asleep.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        page.end_events()
        page.stop_serving()
    return 0


def _count_records(folder: Path) -> int:
    with suppress(OSError):
        return sum(line.endswith(b"\n") for path in record_logs(folder) for line in lines_of(path))
    return 0
