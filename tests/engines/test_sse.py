"""The SSE parser: the standard's rules, one by one, and that cutting the bytes changes nothing."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.http.sse import Event, SseParser
from tests.fuzz.fuzz_sse import CORPUS, WORDS, broken_rule, outcome, run

FIXTURES = sorted(CORPUS.iterdir(), key=lambda path: path.name)
NO_CAP = 1 << 30


def texts(stream: bytes) -> list[str]:
    return [event.data.decode() for event in SseParser().feed(stream)]


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b"data: a\n\ndata: b\n\n", ["a", "b"]),
        (b"data: a\r\n\r\ndata: b\r\n\r\n", ["a", "b"]),
        (b"data: a\r\rdata: b\r\r", ["a", "b"]),
        (b"data: a\n\r\ndata: b\r\n\n", ["a", "b"]),
        (b"data:a\n\ndata: a\n\ndata:  a\n\n", ["a", "a", " a"]),
        (b"data: one\ndata: two\n\n", ["one\ntwo"]),
        (b"data\n\ndata\ndata\n\ndata:\n\n", ["", "\n", ""]),
        (b": ping\n\ndata: a\n: inside\n\n:\n\n", ["a"]),
        (b"\xef\xbb\xbfdata: a\n\n\xef\xbb\xbfdata: b\n\n", ["a"]),
        (b"DATA: a\n\n data: b\n\ndatas: c\n\n", []),
        (b"event: only\n\n\n\n", []),
        ('data: "a\u2028b\u2029c\u0085d\x0be\x0cf\x1cg"\n\n'.encode(), ['"a\u2028b\u2029c\u0085d\x0be\x0cf\x1cg"']),
        (b"", []),
    ],
)
def test_data_lines(stream: bytes, expected: list[str]) -> None:
    assert texts(stream) == expected


def test_an_event_has_a_name_and_fields_that_say_nothing_are_passed_over() -> None:
    events = SseParser().feed(b"event: error\nid: 7\nretry: 1500\ndata: x\n\ndata: y\n\nid\nretry: 1e3\nid: a\0b\ndata: z\n\n")
    assert events == [Event(b"x", "error"), Event(b"y"), Event(b"z")]


def test_events_before_the_one_that_is_too_large_are_kept() -> None:
    parser = SseParser(max_event_bytes=64)
    assert parser.feed(b"data: a\n\ndata: " + b"x" * 100 + b"\n\ndata: b\n\n") == [Event(b"a")]
    assert "64 bytes" in (parser.fault or "")
    assert parser.feed(b"data: c\n\n") == []


def test_the_cap_counts_an_events_lines_together_but_not_events_nor_comments() -> None:
    assert SseParser(64).feed(b"data: a\n\n" * 100) == [Event(b"a")] * 100
    pings = SseParser(64)
    assert pings.feed(b": ping\n" * 100 + b"data: a\n\n") == [Event(b"a")]
    lines = SseParser(64)
    assert lines.feed(b"data\n" * 100 + b"\n") == []
    assert lines.fault is not None


def test_a_line_without_end_is_not_kept_past_the_cap() -> None:
    parser = SseParser(max_event_bytes=1 << 20)
    for _ in range(100):
        parser.feed(b"x" * 65_536)
    assert parser.fault is not None
    assert parser._line_parts == []


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.stem)
def test_every_fixture_is_the_same_however_it_is_cut(path: Path) -> None:
    stream = path.read_bytes()
    rng = random.Random(0)
    assert [broken_rule(stream, rng) for _ in range(20)] == [None] * 20
    for at in range(len(stream)):
        assert outcome([stream[:at], stream[at:]], NO_CAP) == outcome([stream], NO_CAP)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.binary(max_size=120), st.lists(st.sampled_from(WORDS), max_size=30).map(b"".join)), st.randoms(use_true_random=False))
def test_any_bytes_keep_the_invariant(stream: bytes, rng: random.Random) -> None:
    assert broken_rule(stream, rng) is None


def test_the_fuzzer_runs() -> None:
    assert run(count=2_000, seed=7) is None
