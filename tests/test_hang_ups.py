"""Clients of our small servers come and go: none of them leaves a traceback in a run's output."""

from __future__ import annotations

import http.client
import socket
import struct
import time
from contextlib import contextmanager

import pytest

from bytemlperf.report.dashboard import listen
from bytemlperf.report.page_server import Document, serving
from bytemlperf_llm.live.metrics import LlmMetrics

RESET = struct.pack("ii", 1, 0)
"""SO_LINGER of no time: close() sends a reset."""

HOST = b" HTTP/1.1\r\nHost: 127.0.0.1:1\r\n\r\n"
RUDE = [b"", b"GET / HT", b"GET /" + HOST, b"GET /state" + HOST, b"\x16\x03\x01"]


@contextmanager
def served(documents):
    with listen(0, flag="--port") as listening, serving(listening, documents):
        yield listening.getsockname()[1]


@pytest.fixture(params=["page", "metrics"])
def port(request):
    if request.param == "metrics":
        metrics = LlmMetrics()
        yield metrics.exporter.serve(0)
        metrics.exporter.close()
        return
    with served(lambda _path: Document("x" * 1_000_000, "default-src 'none'")) as number:
        yield number


def test_a_client_that_hangs_up_leaves_no_traceback_and_the_next_is_served(port, capfd):
    for words in RUDE * 3:
        client = socket.create_connection(("127.0.0.1", port))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        client.sendall(words)
        time.sleep(0.02)
        client.close()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/")
    assert connection.getresponse().status == 200
    time.sleep(0.1)
    assert capfd.readouterr().err == ""


def test_an_exception_of_our_own_is_still_reported(capfd):
    with served(lambda _path: 1 / 0) as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("GET", "/")
        with pytest.raises(http.client.RemoteDisconnected):
            connection.getresponse()
    assert "ZeroDivisionError" in capfd.readouterr().err
