"""Spans and requests of a known truth: whose they are, whose clock is ahead, and where the stages lie."""

from __future__ import annotations

from collections import Counter

import msgspec
import pytest

from bytemlperf_llm.pages.server_times import server_time_sections
from bytemlperf_llm.record.record import RequestRecord
from bytemlperf_llm.spans.facts import span_warnings
from bytemlperf_llm.spans.join import TORN, Joined, join
from bytemlperf_llm.spans.receiver import Message
from engines.contract import Stages
from engines.trace_context import trace_ids
from tests.metrics.records import MS, answered
from tests.spans.made import LATENCIES, json_export

ZERO = 1_700_000_000_000_000_000
KEY = "20260101T000000Z-llm-a-abcdef"


def request(index: int) -> RequestRecord:
    """Sent at 100 ms times its index; first token 37 ms later, last 70 ms later."""
    sent_ms = 100.0 * index
    return answered(index, None, sent_ms, [sent_ms + 37, sent_ms + 70])


def message(index: int, ahead_ms: float = 0.0, **changes: object) -> Message:
    """vLLM's span of it: from 1 ms after it was sent to 66 ms, on a clock that is ahead."""
    start_ns = ZERO + round((100.0 * index + 1 + ahead_ms) * MS)
    named = {"latencies": LATENCIES} | changes
    return Message(json_export(trace_ids(KEY, f"r{index}")[0], start_ns, start_ns + 65 * MS, **named), True)  # type: ignore[arg-type]


def joined(*messages: Message, requests: int = 3) -> Joined:
    return join(messages, [request(index) for index in range(requests)], KEY, ZERO)


def test_stages_lie_where_the_span_says() -> None:
    found = joined(message(1))
    (line,) = found.lines
    assert line.id == "r1"
    assert line.stages == Stages(queued_ns=105 * MS, scheduled_ns=115 * MS, first_token_ns=135 * MS, last_token_ns=165 * MS)
    assert line.durations_ns["queue"] == 10 * MS
    facts = found.facts
    assert (facts.received, facts.unmatched, facts.requests, facts.answered, facts.applied_ns) == (1, 0, 1, 3, 0)
    assert facts.offset_ns == (-5 * MS, 1 * MS)


@pytest.mark.parametrize("ahead_ms", [-86_400_000.0, -40.0, 5_000.0])
def test_a_clock_that_is_off_is_found_within_its_bounds(ahead_ms: float) -> None:
    found = joined(*(message(index, ahead_ms) for index in range(3)))
    assert found.facts.offset_ns is not None
    assert found.facts.applied_ns is not None
    low, high = found.facts.offset_ns
    assert low <= ahead_ms * MS <= high
    assert abs(found.facts.applied_ns - ahead_ms * MS) <= (high - low) / 2
    assert all(line.stages is not None for line in found.lines)


def test_one_lying_span_of_many_decides_nothing() -> None:
    found = joined(*(message(index, 3_600_000.0 if index == 50 else 0.0) for index in range(200)), requests=200)
    assert found.facts.applied_ns == 0
    assert [line.id for line in found.lines if line.stages is None] == ["r50"]
    assert found.facts.outside == 1
    assert "spans of 1 request don't lie within them" in span_warnings(found.facts)[0]


def test_clocks_that_fit_by_no_offset_leave_durations_alone() -> None:
    found = joined(*(message(index, ahead_ms) for index, ahead_ms in enumerate((0.0, 10_000.0, -10_000.0))))
    assert found.facts.applied_ns is None
    assert [line.stages for line in found.lines] == [None] * 3
    assert found.lines[0].durations_ns["prefill"] == 20 * MS
    assert "by no offset" in span_warnings(found.facts)[0]


def test_spans_of_others_and_what_is_no_message_are_counted() -> None:
    refused: Counter[str] = Counter()
    unmatched = Message(json_export(99, ZERO, ZERO + 1), True)
    found = join([unmatched, Message(b"\xff", False), message(0)], [request(0)], KEY, ZERO, refused=refused)
    assert (found.facts.unmatched, found.facts.received, found.facts.requests) == (1, 2, 1)
    assert found.facts.refused == {TORN: 1}


def test_spans_without_latencies_have_their_own_length_by_name_and_no_stages() -> None:
    plain = [message(0, name="POST /v1/chat", latencies=None), message(0, name="db", latencies=None), message(0, name="db", latencies=None)]
    (line,) = joined(*plain).lines
    assert line.durations_ns == {"POST /v1/chat": 65 * MS, "db": 130 * MS}
    assert line.stages is None


def test_the_page_says_how_well_the_clock_is_known() -> None:
    facts = msgspec.to_builtins(joined(message(0), message(1)).facts)
    (text,) = server_time_sections({"spans": facts})
    assert "2 of 3 answered requests" in str(text.body)
    assert "ahead by -5 to 1 ms, taken as 0" in str(text.body)


def test_a_server_that_sends_none_is_named() -> None:
    assert "no span of the server was received" in span_warnings(joined().facts)[0]
