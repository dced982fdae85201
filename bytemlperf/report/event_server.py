"""A small server of one page and its server-sent events, from threads, on loopback.

Only GET, only the page's own addresses, only for a Host that is this machine's loopback (a page of another origin
that rebinds its name gets 403), and a policy that lets the page talk to its own server alone.
"""

from __future__ import annotations

import json
import socket
import threading
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from bytemlperf.export.http import forgive_hang_ups

HISTORY_EVENTS = 3_600
MAX_PAGES = 16
KEEP_ALIVE_S = 15.0
HOSTS = ("127.0.0.1", "localhost", "[::1]")
"""What a request's Host may be: a foreign one can only be a trick."""


class EventServer:
    """Serves `html` at / and what is published at /events; a page that is opened late gets what was before it."""

    def __init__(self, html: str, policy: str) -> None:
        self.html, self.policy = html, policy
        self._history: deque[bytes] = deque(maxlen=HISTORY_EVENTS)
        self._count = 0
        self._fresh = threading.Condition()
        self._ended = False
        self._pages = threading.BoundedSemaphore(MAX_PAGES)
        self.open_pages = 0
        self._server: ThreadingHTTPServer | None = None

    def document(self, path: str) -> tuple[str, str] | None:
        """HTML and its policy, or None where there is no such page."""
        return (self.html, self.policy) if path == "/" else None

    def publish(self, event: str, content: dict[str, Any]) -> None:
        with self._fresh:
            self._count += 1
            text = json.dumps(content, separators=(",", ":"))
            self._history.append(f"id: {self._count}\nevent: {event}\ndata: {text}\n\n".encode())
            self._fresh.notify_all()

    def end_events(self) -> None:
        """Nothing more comes: the pages hang up."""
        with self._fresh:
            self._ended = True
            self._fresh.notify_all()

    def serve(self, listening: socket.socket) -> None:
        """Serve from threads, where `listen` listens."""
        self._server = _Server(listening.getsockname(), _handler(self), bind_and_activate=False)
        self._server.socket.close()
        self._server.socket = listening
        forgive_hang_ups(self._server)
        threading.Thread(target=self._server.serve_forever, name="pages", daemon=True).start()

    def stop_serving(self) -> None:
        """Open pages keep what they show."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def stream(self, write: Any, after: int) -> None:
        """Everything after event number `after`, and what comes, until the run ends or the page is gone."""
        if not self._pages.acquire(blocking=False):
            return
        self.open_pages += 1
        try:
            self._stream(write, after)
        finally:
            self.open_pages -= 1
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


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False


def _handler(page: EventServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        server_version, sys_version = "bmp", ""
        timeout = 30

        def do_GET(self) -> None:
            if (self.headers.get("Host") or "").rpartition(":")[0] not in HOSTS:
                self.send_error(403, "only for this machine")
            elif self.path == "/events":
                self._events()
            elif (document := page.document(self.path)) is not None:
                self._answer(*document)
            else:
                self.send_error(404)

        def _answer(self, html: str, policy: str) -> None:
            body = html.encode()
            self._head("text/html; charset=utf-8", policy)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _head(self, kind: str, policy: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Security-Policy", policy)
            self.send_header("X-Content-Type-Options", "nosniff")
            self.send_header("Cache-Control", "no-store")

        def _events(self) -> None:
            self._head("text/event-stream", page.policy)
            self.end_headers()
            last = self.headers.get("Last-Event-ID") or "0"
            try:
                page.stream(self.wfile.write, int(last) if last.isdigit() else 0)
            except OSError:
                return  # the page was closed

        def log_message(self, *_words: Any) -> None:
            return  # a page's requests are no news for a terminal

    return Handler
