"""`--dashboard`: the run in a browser while it goes on, by server-sent events on loopback.

The run's own loop hands over one small snapshot a second (`tick`); threads pass it on to the pages that are open.
Nothing is computed in a thread, so that no page can hold the loop up. A page that is opened late gets what
was before it. Percentiles here are of each second's requests, and of all so far from 2 % wide buckets; the
final ones are exact and come from the records.

Only GET, only two addresses, only for a Host that is this machine's loopback (a page of another origin that
rebinds its name gets 403), and a policy that lets the page talk to its own server alone.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections import deque
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from bytemlperf_llm.errors import UserError
from bytemlperf_llm.report.live import NS_PER_S, Sketch
from bytemlperf_llm.report.page import render_live
from bytemlperf_llm.report.text import visible

if TYPE_CHECKING:
    from bytemlperf_llm.export.llm_metrics import LlmMetrics

LOOPBACK = "127.0.0.1"
HISTORY_TICKS = 3_600
MAX_PAGES = 16
KEEP_ALIVE_S = 15.0
HOSTS = ("127.0.0.1", "localhost", "[::1]")
LOCAL = ("127.0.0.1", "localhost", "::1")
"""Where a server listens for this machine alone; there a foreign Host can only be a trick."""


class LivePage:
    """Serves one run's page. `listen` and `tick` are called by the run's loop."""

    def __init__(self, metrics: LlmMetrics, title: str) -> None:
        """Raises UserError without jinja2."""
        self._metrics = metrics
        self.scheduled: int | None = None
        self.html, self.policy = render_live(title)
        self._ttft: list[float] = []
        self._tpot: list[float] = []
        self._all = {"ttft": Sketch(), "tpot": Sketch()}
        self._before = (0.0, 0, 0)
        self._ticked_at = time.monotonic()
        self._history: deque[bytes] = deque(maxlen=HISTORY_TICKS)
        self._count = 0
        self._fresh = threading.Condition()
        self._ended = False
        self._pages = threading.BoundedSemaphore(MAX_PAGES)
        self._server: ThreadingHTTPServer | None = None
        self.local = True

    # -- fed by the run ---------------------------------------------------------------------

    def listen(self, ttft_s: Sequence[float], tpot_s: Sequence[float]) -> None:
        """Single values since the last call."""
        self._ttft += ttft_s
        self._tpot += tpot_s

    def tick(self, elapsed_s: float) -> None:
        """Hand a snapshot to the pages."""
        self._publish("tick", self._snapshot(elapsed_s))
        self._ttft, self._tpot = [], []
        self._ticked_at = time.monotonic()

    def end(self, sentence: str) -> None:
        """Tell the pages that the run is over, after what the last part of a second brought."""
        if self._history:
            self.tick(self._before[0] + time.monotonic() - self._ticked_at)
        self._publish("end", {"says": visible(sentence)})
        with self._fresh:
            self._ended = True
            self._fresh.notify_all()

    def _snapshot(self, elapsed_s: float) -> dict[str, Any]:
        seen = self._metrics
        before_s, ended, tokens = self._before
        passed = max(elapsed_s - before_s, 1e-9)
        self._before = (elapsed_s, seen.ended_requests, seen.output_tokens)
        for name, values in (("ttft", self._ttft), ("tpot", self._tpot)):
            for value_s in values:
                self._all[name].add(value_s * NS_PER_S)
        return {
            "t": round(elapsed_s, 2),
            "ended": seen.ended_requests,
            "scheduled": self.scheduled,
            "in_flight": seen.in_flight,
            "failed": sum(seen.failures.values()),
            "failures": dict(seen.failures),
            "tokens": seen.output_tokens,
            "answers_s": round((seen.ended_requests - ended) / passed, 3),
            "tokens_s": round((seen.output_tokens - tokens) / passed, 1),
            "ttft": _percentiles_ms(self._ttft),
            "tpot": _percentiles_ms(self._tpot),
            "ttft_all": [self._all["ttft"].percentile_ms(50), self._all["ttft"].percentile_ms(99)],
            "tpot_all": [self._all["tpot"].percentile_ms(50), self._all["tpot"].percentile_ms(99)],
        }

    def _publish(self, event: str, content: dict[str, Any]) -> None:
        with self._fresh:
            self._count += 1
            text = json.dumps(content, separators=(",", ":"))
            self._history.append(f"id: {self._count}\nevent: {event}\ndata: {text}\n\n".encode())
            self._fresh.notify_all()

    # -- serving ----------------------------------------------------------------------------

    def serve(self, port: int, host: str = LOOPBACK) -> int:
        """Serve from threads; returns the port. Raises UserError when it is in use."""
        self.local = host in LOCAL
        try:
            self._server = _Server((host, port), _handler(self))
        except OSError as error:
            raise UserError(
                f"can't serve the dashboard on {host}:{port}: {error.strerror}",
                "give another port with --dashboard-port, 0 for any free one",
            ) from None
        threading.Thread(target=self._server.serve_forever, name="dashboard", daemon=True).start()
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Stop serving; open pages keep what they show."""
        if not self._ended:
            self.end("The run has ended.")
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def stream(self, write: Any, after: int) -> None:
        """Everything after event number `after`, and what comes, until the run ends or the page is gone."""
        if not self._pages.acquire(blocking=False):
            return
        try:
            self._stream(write, after)
        finally:
            self._pages.release()

    def _stream(self, write: Any, after: int) -> None:
        seen = after
        while True:
            with self._fresh:
                if self._count <= seen and not self._ended:
                    self._fresh.wait(KEEP_ALIVE_S)
                first = self._count - len(self._history)
                waiting = list(self._history)[max(0, seen - first) :]
                seen, ended = self._count, self._ended
            write(b"".join(waiting) or b": waiting\n\n")
            if ended:
                return


def _percentiles_ms(values_s: Sequence[float]) -> list[float] | None:
    """Nearest-rank p50 and p99, and the maximum, of one second's values."""
    if not values_s:
        return None
    ordered = sorted(values_s)
    ranks = (math.ceil(share * len(ordered)) - 1 for share in (0.5, 0.99, 1.0))
    return [round(ordered[rank] * 1e3, 3) for rank in ranks]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False


def _handler(page: LivePage) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        server_version, sys_version = "bmp", ""
        timeout = 30

        def do_GET(self) -> None:
            if (self.headers.get("Host") or "").rpartition(":")[0] not in HOSTS and page.local:
                self.send_error(403, "only for this machine")
            elif self.path == "/":
                self._answer("text/html; charset=utf-8", page.html.encode())
            elif self.path == "/events":
                self._events()
            else:
                self.send_error(404)

        def _answer(self, kind: str, body: bytes) -> None:
            self._head(kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _head(self, kind: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Security-Policy", page.policy)
            self.send_header("X-Content-Type-Options", "nosniff")
            self.send_header("Cache-Control", "no-store")

        def _events(self) -> None:
            self._head("text/event-stream")
            self.end_headers()
            last = self.headers.get("Last-Event-ID") or "0"
            try:
                page.stream(self.wfile.write, int(last) if last.isdigit() else 0)
            except OSError:
                return  # the page was closed

        def log_message(self, *_words: Any) -> None:
            return  # a page's requests are no news for a terminal

    return Handler
