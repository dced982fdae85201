"""What a response's head says of its request: real headers, and lying ones."""

from __future__ import annotations

import random
from typing import Any

import pytest

from engines.contract import ServerFacts
from engines.http.http1 import parse_head
from engines.openai.decode import DONE_EVENT, decode
from engines.openai.head_facts import MAX_DURATIONS, durations_of, head_facts
from tests.engines.test_openai_streams import FINISH, ROLE, framed, says, usage

MS = 1_000_000
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n"


@pytest.mark.parametrize(
    ("timing", "durations_ns", "refused"),
    [
        ("queue;dur=12.5, prefill;dur=3", {"queue": 12_500_000, "prefill": 3 * MS}, 0),
        ('cache;desc="Cache; Read, of all";dur=23.2', {"cache": 23_200_000}, 0),
        ('db; DUR = "53" ;x=1,app;dur=47.2', {"db": 53 * MS, "app": 47_200_000}, 0),
        ("miss, hit;desc=x", {}, 0),
        ("a;dur=-1, b;dur=nan, c;dur=1e300, d;dur=inf, e;dur=, f;dur=999999999999", {}, 6),
        ("qué;dur=1, <b>;dur=1, " + "n" * 33 + ";dur=1, ;dur=1", {}, 4),
        ('open;desc="never closed;dur=1', {}, 0),
        ("q;dur=1, q;dur=2", {"q": 2 * MS}, 0),
        ("", {}, 0),
    ],
)
def test_server_timing_is_read_and_what_is_no_duration_is_counted(timing: str, durations_ns: dict[str, int], refused: int) -> None:
    assert durations_of(timing) == (durations_ns, refused)


def test_ten_thousand_metrics_are_cut_and_counted() -> None:
    found, refused = durations_of(",".join(f"m{place};dur=1" for place in range(10_000)))
    assert len(found) == MAX_DURATIONS
    assert refused > 0


def test_any_text_gives_a_few_durations_of_bounded_names() -> None:
    draw, words = random.Random(7), ('"', "\\", ";", ",", "=", "dur", "dur=1.5", "a", "é", " ", "1e9", "\0", "x" * 40, ";dur=3")
    for _ in range(3_000):
        found, refused = durations_of("".join(draw.choices(words, k=draw.randrange(60))))
        assert len(found) <= MAX_DURATIONS
        assert refused >= 0
        assert all(0 < len(name) <= 32 and name.isascii() and 0 <= value < 10**15 for name, value in found.items())


def test_several_header_lines_are_one_list() -> None:
    parsed = parse_head(STREAM + b"Server-Timing: a;dur=1\r\nX-Other: 1\r\nserver-timing: b;dur=2\r\n\r\n")
    assert parsed is not None
    assert head_facts(parsed[0].headers).server == ServerFacts(durations_ns={"a": MS, "b": 2 * MS})


def test_an_id_is_there_as_it_came() -> None:
    assert head_facts({}) == (None, None)
    assert head_facts({"x-request-id": "req_1"}) == (None, "req_1")
    assert head_facts({"request-id": "req_2"}) == (None, "req_2")


@pytest.mark.parametrize("events", [[ROLE, *says(2), FINISH, usage(2), DONE_EVENT], [ROLE, *says(2)]], ids=["fast path", "slow path"])
def test_a_decoded_stream_has_them(events: list[Any]) -> None:
    head = STREAM + b"server-timing: queue;dur=4\r\nx-request-id: theirs\r\n\r\n"
    decoded = decode([head, *map(framed, events), b"0\r\n\r\n"])
    assert (decoded.server, decoded.server_id) == (ServerFacts(durations_ns={"queue": 4 * MS}), "theirs")


def test_a_refusal_has_them_too() -> None:
    decoded = decode([b"HTTP/1.1 503 Busy\r\nx-request-id: theirs\r\nserver-timing: queue;dur=9\r\ncontent-length: 2\r\n\r\n{}"])
    assert decoded.error_class == "http_5xx"
    assert (decoded.server, decoded.server_id) == (ServerFacts(durations_ns={"queue": 9 * MS}), "theirs")
