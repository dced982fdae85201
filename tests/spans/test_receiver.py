"""What reaches the receiver, and what it refuses: real connections on loopback."""

from __future__ import annotations

import gzip
import http.client
import os
import socket
import sys
from contextlib import contextmanager

import pytest

from bytemlperf.errors import UserError
from bytemlperf_llm.spans import receiver as spans_receiver
from bytemlperf_llm.spans.receiver import PATH, Message, Receiver, receiving
from tests.listeners import beyond_loopback, listeners

BODY = b'{"resourceSpans":[]}'
JSON = {"Content-Type": "application/json"}


@contextmanager
def listening():
    with receiving(0, lambda _: None) as receiver:
        assert receiver is not None
        yield receiver


def post(receiver: Receiver, body: bytes, headers: dict[str, str], path: str = PATH) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", receiver.port, timeout=10)
    try:
        connection.request("POST", path, body, headers)
        return connection.getresponse().status
    finally:
        connection.close()


def test_messages_are_kept_in_order_plain_and_zipped():
    with listening() as receiver:
        assert post(receiver, BODY, JSON) == 200
        assert post(receiver, gzip.compress(b"\x0a\x00"), {"Content-Type": "application/x-protobuf", "Content-Encoding": "gzip"}) == 200
        assert list(receiver.messages()) == [Message(BODY, True), Message(b"\x0a\x00", False)]
        assert not receiver.refused


@pytest.mark.parametrize(
    ("headers", "path", "status"),
    [
        ({"Content-Type": "text/plain"}, PATH, 415),
        (JSON | {"Content-Encoding": "br"}, PATH, 415),
        (JSON, "/v1/metrics", 404),
        (JSON | {"Host": "evil.example:4318"}, PATH, 403),
        (JSON | {"Content-Length": "99999999"}, PATH, 413),
        (JSON | {"Content-Length": "-1"}, PATH, 411),
        (JSON | {"Content-Length": "1e9"}, PATH, 411),
    ],
)
def test_what_is_no_export_is_refused(headers, path, status):
    with listening() as receiver:
        assert post(receiver, BODY, headers, path) == status
        assert list(receiver.messages()) == []


def test_a_bomb_is_counted_and_never_unpacked():
    bomb = gzip.compress(b"\0" * (spans_receiver.MAX_BODY_BYTES + 1))
    with listening() as receiver:
        for body in (bomb, b"no gzip", gzip.compress(BODY)[:-9], gzip.compress(BODY)):
            assert post(receiver, body, JSON | {"Content-Encoding": "gzip"}) == 200
        assert list(receiver.messages()) == [Message(BODY, True)]
        assert sum(receiver.refused.values()) == 3


def test_more_than_is_kept_is_refused_and_counted(monkeypatch):
    monkeypatch.setattr(spans_receiver, "MAX_KEPT_BYTES", 2 * len(BODY))
    with listening() as receiver:
        assert [post(receiver, BODY, JSON) for _ in range(3)] == [200, 200, 413]
        assert list(receiver.refused.values()) == [1]


def test_one_connection_too_many_is_closed_and_the_others_are_served(monkeypatch):
    monkeypatch.setattr(spans_receiver, "MAX_CONNECTIONS", 2)
    with listening() as receiver:
        idle = [socket.create_connection(("127.0.0.1", receiver.port)) for _ in range(3)]
        idle[2].settimeout(10)
        assert idle[2].recv(1) == b""
        idle[0].close()
        idle[1].close()
        assert receiver.refused["too many connections at once"] == 1


def test_a_port_in_use_is_one_line():
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(UserError, match="--trace-port") as said,
        receiving(taken.getsockname()[1], lambda _: None),
    ):
        pass
    assert "\n" not in str(said.value)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/net/tcp")
def test_it_listens_on_loopback_alone():
    with listening() as receiver:
        seen = {address for address in listeners(os.getpid()) if address.endswith(f":{receiver.port:04X}")}
        assert len(seen) == 1
        assert beyond_loopback(seen) == set()


def test_nothing_listens_without_a_port():
    with receiving(None, print) as receiver:
        assert receiver is None
