"""An OTLP/HTTP receiver on loopback that keeps what a server sends as it came, on disk, until the load has ended.

Its threads move bytes and parse nothing, so that no request waits for them; what is too large, or too much in all, is refused and counted.
`http/protobuf` and `http/json`, plain or gzip (opentelemetry.io, OTLP specification 1.x).
"""

from __future__ import annotations

import socket
import tempfile
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from bytemlperf.export.http import forgive_hang_ups
from bytemlperf.extras import require
from bytemlperf.report.dashboard import LOOPBACK, listen
from bytemlperf.report.page_server import HOSTS

PATH = "/v1/traces"
MAX_BODY_BYTES = 8 << 20
"""Of one message, also when it is decompressed: an SDK's batch of 512 spans has half a megabyte."""
MAX_KEPT_BYTES = 512 << 20
MAX_MESSAGES = 1 << 20
MAX_CONNECTIONS = 16
TIMEOUT_S = 10.0
KINDS = {"application/x-protobuf": False, "application/json": True}
"""Content types, and whether they are JSON."""


class Message(NamedTuple):
    """The body of one export, decompressed."""

    body: bytes
    is_json: bool


class _Kept(NamedTuple):
    offset: int
    length: int
    is_json: bool
    zipped: bool


class Receiver:
    """What has arrived so far. `refused` counts messages that were not kept, or can't be unpacked, by why."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.refused: Counter[str] = Counter()
        self._file = tempfile.TemporaryFile(prefix="bmp-spans-")  # noqa: SIM115 - as long as the receiver
        self._kept: list[_Kept] = []
        self._bytes = 0
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}{PATH}"

    @property
    def received(self) -> int:
        """Messages kept."""
        return len(self._kept)

    def keep(self, body: bytes, *, is_json: bool, zipped: bool) -> bool:
        """False where there is no room."""
        with self._lock:
            if self._file.closed:  # one that comes when the run has ended
                return False
            if self._bytes + len(body) > MAX_KEPT_BYTES or len(self._kept) >= MAX_MESSAGES:
                self.refused["more than is kept of one run"] += 1
                return False
            try:
                self._file.seek(self._bytes)
                self._file.write(body)
            except OSError:
                self.refused["no room on the disk"] += 1
                return False
            self._kept.append(_Kept(self._bytes, len(body), is_json, zipped))
            self._bytes += len(body)
            return True

    def messages(self) -> Iterator[Message]:
        """In the order of their arrival, without those that can't be unpacked."""
        for kept in self._kept:
            with self._lock:
                self._file.seek(kept.offset)
                body = self._file.read(kept.length)
            unpacked = _unpacked(body) if kept.zipped else body
            if unpacked is None:
                self.refused["not gzip, or too large unpacked"] += 1
            else:
                yield Message(unpacked, kept.is_json)

    def close(self) -> None:
        with self._lock:
            self._file.close()


def _unpacked(body: bytes) -> bytes | None:
    """None where it is no gzip, or holds more than a message may."""
    unzip = zlib.decompressobj(wbits=31)
    try:
        plain = unzip.decompress(body, MAX_BODY_BYTES)
    except zlib.error:
        return None
    return plain if unzip.eof else None


@contextmanager
def receiving(port: int | None, say: Callable[[str], None]) -> Iterator[Receiver | None]:
    """Listen for the time of the block, and say where; None without a port. Raises UserError when the port is in use, or without
    OpenTelemetry's packages."""
    if port is None:
        yield None
        return
    require("--trace-requests", "otel", "opentelemetry.proto.collector")
    with listen(port, flag="--trace-port") as listening:
        receiver = Receiver(listening.getsockname()[1])
        server = _Server(listening, receiver)
        threading.Thread(target=server.serve_forever, name="spans", daemon=True).start()
        say(f"receiving spans by OTLP/HTTP at {receiver.url} until the run ends")
        try:
            yield receiver
        finally:
            server.shutdown()
            server.server_close()
            receiver.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, listening: socket.socket, receiver: Receiver) -> None:
        super().__init__(listening.getsockname(), _handler(receiver), bind_and_activate=False)
        self.socket.close()
        self.socket = listening
        self._receiver = receiver
        self._open = threading.BoundedSemaphore(MAX_CONNECTIONS)
        forgive_hang_ups(self)

    def verify_request(self, _request: Any, _client_address: Any) -> bool:
        """Not one more connection than `MAX_CONNECTIONS`."""
        if self._open.acquire(blocking=False):
            return True
        self._receiver.refused["too many connections at once"] += 1
        return False

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._open.release()


def _handler(receiver: Receiver) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        server_version, sys_version = "bmp", ""
        protocol_version = "HTTP/1.1"
        timeout = TIMEOUT_S

        def do_POST(self) -> None:
            status = self._take()
            self.close_connection = self.close_connection or status != 200
            self.send_response(status)
            self.send_header("Content-Type", self.headers.get_content_type() if status == 200 else "text/plain")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _take(self) -> int:
            """The status: 4xx of OTLP are not to be sent again."""
            kind, coding = self.headers.get_content_type(), self.headers.get("Content-Encoding", "identity")
            length = self.headers.get("Content-Length", "")
            if (self.headers.get("Host") or "").rpartition(":")[0] not in HOSTS:
                return 403
            if self.path.partition("?")[0] != PATH:
                return 404
            if kind not in KINDS or coding not in ("identity", "gzip"):
                receiver.refused["another content type"] += 1
                return 415
            if not length.isascii() or not length.isdigit():
                return 411
            if len(length) > 9 or int(length) > MAX_BODY_BYTES:
                receiver.refused["a message over 8 MiB"] += 1
                return 413
            body = self.rfile.read(int(length))
            if len(body) < int(length):
                return 400
            return 200 if receiver.keep(body, is_json=KINDS[kind], zipped=coding == "gzip") else 413

        def log_message(self, *_words: Any) -> None:
            return  # exports are no news for a terminal

    return Handler
