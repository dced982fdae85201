"""A small server of a few documents, from threads, on loopback.

Only GET, only the documents' own addresses, only for a Host that is this machine's loopback (a page of another origin
that rebinds its name gets 403).
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from bytemlperf.export.http import forgive_hang_ups

HOSTS = ("127.0.0.1", "localhost", "[::1]")
"""What a request's Host may be: a foreign one can only be a trick."""


class Document(NamedTuple):
    """What an address has, and the policy that it is served with."""

    text: str
    policy: str
    kind: str = "text/html; charset=utf-8"


Documents = Callable[[str], Document | None]
"""By their path and query; None where there is no such one."""


@contextmanager
def serving(listening: socket.socket, documents: Documents) -> Iterator[None]:
    """Serve until the block ends, where `listening` listens. Open pages keep what they show."""
    server = _Server(listening.getsockname(), _handler(documents), bind_and_activate=False)
    server.socket.close()
    server.socket = listening
    forgive_hang_ups(server)
    threading.Thread(target=server.serve_forever, name="pages", daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False


def _handler(documents: Documents) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        server_version, sys_version = "bmp", ""
        timeout = 30

        def do_GET(self) -> None:
            if (self.headers.get("Host") or "").rpartition(":")[0] not in HOSTS:
                self.send_error(403, "only for this machine")
            elif (document := documents(self.path)) is not None:
                self._answer(document)
            else:
                self.send_error(404)

        def _answer(self, document: Document) -> None:
            body = document.text.encode()
            self.send_response(200)
            self.send_header("Content-Type", document.kind)
            self.send_header("Content-Security-Policy", document.policy)
            self.send_header("X-Content-Type-Options", "nosniff")
            self.send_header("Cache-Control", "no-store")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_words: Any) -> None:
            return  # a page's requests are no news for a terminal

    return Handler
