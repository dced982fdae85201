"""Stalls on planted ones: who stalled, when, alone or with the server; none on a clean server."""

from __future__ import annotations

import random
from itertools import accumulate

import pytest

from bytemlperf_llm.metrics.accumulator import Accumulator
from bytemlperf_llm.metrics.stalls import Stalls, find_stalls
from bytemlperf_llm.pages.stalls import stall_rows, stall_sections
from tests.metrics.records import answered, failed


def streams(count=40, tokens=60, every_ms=100.0, pace_ms=20.0, freezes=(), alone=(), seed=1, per_chunk=1):
    """A request every `every_ms`. At each of `freezes` (from, ms) no stream gets anything; each of `alone` (request, token) waits 2 s."""
    draw, records = random.Random(seed), []
    for index in range(count):
        start = index * every_ms
        gaps = [pace_ms * draw.uniform(0.5, 1.5) + (2_000.0 if (index, place) in alone else 0.0) for place in range(tokens)]
        stamps, shift = [], 0.0
        for stamp in accumulate(gaps, initial=start + 50):
            shift = max([shift, *(begin + length - stamp for begin, length in freezes if begin < stamp + shift < begin + length)])
            stamps.append(stamp + shift)
        records.append(answered(index, start, start, stamps, tokens_per_chunk=[per_chunk] * len(stamps)))
    return records


def stalls_in(records) -> Stalls:
    found = find_stalls(Accumulator().add_all(records))
    assert found is not None
    return found


def test_a_freeze_of_the_server_is_one_event_of_all_open_streams():
    found = stalls_in(streams(freezes=[(1_000, 1_500)]))
    (event,) = found.events
    assert event.of_server
    assert (found.stalled, found.together, found.server_events) == (event.stalled, event.stalled, 1)
    assert event.stalled == event.streams
    assert 9 <= event.stalled <= 13, "those that were open: 1.2 s of tokens, ten new ones a second"
    assert 1_000 <= event.at_ns / 1e6 <= 2_500
    assert 1_480 <= event.longest_ns / 1e6 <= 1_530
    assert found.longest_ns == event.longest_ns


def test_two_freezes_are_two_events_the_larger_first():
    found = stalls_in(streams(count=60, freezes=[(300, 1_000), (4_000, 1_000)]))
    early, late = sorted(found.events, key=lambda event: event.at_ns)
    assert 300 <= early.at_ns / 1e6 <= 1_300
    assert 4_000 <= late.at_ns / 1e6 <= 5_000
    assert early.stalled < late.stalled
    assert found.events == [late, early]
    assert (found.server_events, found.together) == (2, early.stalled + late.stalled)


def test_single_streams_that_stall_are_no_event_of_the_server():
    found = stalls_in(streams(alone={(5, 30), (20, 10), (33, 50)}))
    assert (found.judged, found.stalled, found.together, found.server_events, found.events) == (40, 3, 0, 0, [])


def test_a_clean_server_stalls_never():
    for seed in range(20):
        assert stalls_in(streams(seed=seed)).stalled == 0


def test_chance_is_what_the_page_says():
    draw = random.Random(7)
    records = []
    for index in range(4_000):
        stamps = list(accumulate((0.3 + draw.expovariate(1 / 20) for _ in range(127)), initial=float(index)))
        records.append(answered(index, index, index, stamps))
    found = stalls_in(records)
    assert found.stalled / found.judged == pytest.approx(0.006, abs=0.004)
    assert found.together == 0


def test_tokens_in_bundles_have_the_pace_of_their_bundles():
    found = stalls_in(streams(tokens=12, pace_ms=400.0, per_chunk=20))
    assert (found.judged, found.stalled) == (40, 0)


def test_a_response_without_a_pace_is_not_judged():
    assert find_stalls(Accumulator().add_all(streams(tokens=8))) is None
    assert find_stalls(Accumulator().add_all([failed(0, 0, 5)])) is None


def test_the_page_and_the_terminal_say_who_stalled_together():
    event = {"at_ns": 3_000_000_000, "stalled": 11, "streams": 12, "longest_ns": 1_500_000_000}
    summary = {"stalls": {"judged": 340, "stalled": 12, "longest_ns": 1_500_000_000, "together": 11, "server_events": 1, "events": [event]}}
    (row,) = stall_rows(summary)
    assert row == ["stalled in mid-stream", "12 of 340 responses (3.5%), longest 1,500 ms; 11 of them in 1 event of the server"]
    (table,) = stall_sections(summary, 1_000_000_000)
    assert list(table.rows) == [[2.0, 11, 12, 1_500.0]]
    summary["stalls"] |= {"together": 0, "server_events": 0, "events": []}
    assert stall_rows(summary)[0][1].endswith("single streams, no event of the server")
    (text,) = stall_sections(summary, 0)
    assert "single streams" in text.body
    assert stall_rows({"stalls": None}) == stall_sections({}, 0) == []
