"""What a record says of tokens: the engine's report, and what the stream shows."""

from __future__ import annotations

import msgspec
import pytest

from bytemlperf_llm.loadgen.recorder import RequestRecorder
from bytemlperf_llm.loadgen.stamped import make_record
from bytemlperf_llm.record.record import RequestRecord
from engines.contract import Decoded, Finish, ServerFacts, Thought, Usage
from tests.virtual import make_request


def record_of(decoded: Decoded, finish: Finish | None = None) -> RequestRecord:
    recorder = RequestRecorder()
    for payload in decoded.tokens_per_chunk:
        recorder.chunk(payload)
    return make_record(make_request(0), recorder, finish or Finish(), decoded, 0, 1)


@pytest.mark.parametrize(
    ("decoded", "finish", "output", "usage", "shown", "source"),
    [
        (Decoded(tokens_per_chunk=[1, 1], text="ab"), Finish(), 2, None, 2, "chunks"),
        (Decoded(tokens_per_chunk=[1, 1], text="ab"), Finish(usage=Usage(output_tokens=3)), 3, 3, 2, "usage"),
        (Decoded(tokens_per_chunk=[2, 1], text="ab", usage=Usage(output_tokens=3), shown_tokens=2), Finish(), 3, 3, 2, "usage"),
        (Decoded(tokens_per_chunk=[1, 1], text="ab", usage=Usage(output_tokens=1), shown_tokens=2), Finish(), 2, 1, 2, "chunks"),
    ],
    ids=["no report", "an engine's own report", "events and usage", "events against usage"],
)
def test_output_tokens_are_those_of_the_report_unless_events_contradict_it(decoded, finish, output, usage, shown, source):
    record = record_of(decoded, finish)
    assert (record.output_tokens, record.usage_tokens, record.shown_tokens, record.token_source) == (output, usage, shown, source)


def test_details_of_usage_are_kept_and_hidden_tokens_are_no_output():
    usage = Usage(prompt_tokens=12, output_tokens=220, reasoning_tokens=200, cached_tokens=8, accepted_draft_tokens=5)
    record = record_of(Decoded(tokens_per_chunk=[1] * 20, text="x", usage=usage, shown_tokens=20, hidden_tokens=200))
    assert (record.output_tokens, record.usage_tokens, record.token_source, record.prompt_tokens) == (20, 20, "usage", 12)
    assert (record.reasoning_tokens, record.hidden_tokens, record.cached_tokens, record.accepted_draft_tokens) == (200, 200, 8, 5)


def test_reasoning_has_the_stamps_of_its_first_token_and_of_the_answers():
    record = record_of(Decoded(tokens_per_chunk=[1] * 20, text="x", thought=Thought(3, 9, 6)))
    assert (record.reasoning_ns, record.answer_ns, record.streamed_reasoning_tokens) == (record.chunk_ns[3], record.chunk_ns[9], 6)
    assert record_of(Decoded(tokens_per_chunk=[1] * 20, text="x", thought=Thought(3, None, 17))).answer_ns is None
    assert b"reasoning" not in msgspec.json.encode(record_of(Decoded(tokens_per_chunk=[1] * 20, text="x")))


@pytest.mark.parametrize(
    ("server_id", "known_by"),
    [(None, None), ("r0", None), ("req_1", "req_1"), ("two words", None), ("x" * 129, None), ("\x1b[31m", None)],
    ids=["none", "ours", "its own", "two words", "long", "control characters"],
)
def test_a_servers_own_id_is_kept_where_it_is_a_short_word(server_id, known_by):
    record = record_of(Decoded(tokens_per_chunk=[1], text="a", server_id=server_id))
    assert record.server == (None if known_by is None else ServerFacts(request_id=known_by))
    timed = record_of(Decoded(tokens_per_chunk=[1], text="a", server=ServerFacts(durations_ns={"queue": 5}), server_id=server_id))
    assert timed.server == ServerFacts(durations_ns={"queue": 5}, request_id=known_by)
