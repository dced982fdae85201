"""Usage, recount and chunks of hand-made records; what is flagged, and from which share on."""

from __future__ import annotations

import random

import msgspec
import pytest

from bytemlperf_llm.metrics.facts import RunFacts
from bytemlperf_llm.metrics.recount import Counted, RecountTally, merged
from bytemlperf_llm.metrics.summary import summarize
from tests.metrics.records import answered, failed

OPEN = RunFacts(open_loop=True)
NAME = "tokenizer of a-model"


def answer(index, usage, chunks, text_tokens, **changes):
    """A record with `chunks` one-token chunks and the sum of a text of so many tokens."""
    stamps = [index + 10.0 + place for place in range(chunks)]
    return answered(index, index, index, stamps, output_tokens=usage, output_sha256=f"text-of-{text_tokens}", **changes)


def counted(*lengths):
    return Counted(tokenizer=NAME, tokens={f"text-of-{length}": length for length in lengths})


def test_what_agrees_is_not_flagged():
    summary = summarize([answer(index, 200, 200, 200) for index in range(5)], OPEN, counted(200))
    recount = summary.tokens.recount
    assert (recount.answers, recount.recounted_tokens, recount.usage_tokens, recount.chunks) == (5, 1000, 1000, 1000)
    assert recount.usage_disagreement == recount.chunk_disagreement == 0
    assert not [text for text in summary.warnings if "recount" in text]


@pytest.mark.parametrize(("usage", "flagged"), [(201, False), (199, False), (202, True), (198, True)])
def test_more_than_half_a_per_cent_is_flagged(usage, flagged):
    summary = summarize([answer(index, usage, 200, 200) for index in range(4)], OPEN, counted(200))
    assert summary.tokens.recount.usage_disagreement == abs(usage - 200) / 200
    assert any("usage and a recount of 4 responses (tokenizer of a-model)" in text for text in summary.warnings) == flagged


def test_opposite_errors_do_not_cancel():
    summary = summarize([answer(0, 110, 100, 100), answer(1, 90, 100, 100)], OPEN, counted(100))
    assert summary.tokens.recount.usage_tokens == summary.tokens.recount.recounted_tokens
    assert summary.tokens.recount.usage_disagreement == 0.1
    assert any("differ by 10.00%" in text for text in summary.warnings)


def test_tokens_without_text_that_were_streamed_are_explained():
    """An end token in mid-response (ignore_eos) is one of usage and a chunk, and has no text."""
    summary = summarize([answer(index, 203, 203, 200) for index in range(4)], OPEN, counted(200))
    assert summary.tokens.recount.usage_disagreement == 0.015
    assert summary.tokens.recount.textless
    assert not [text for text in summary.warnings if "recount" in text]
    many = summarize([answer(index, 250, 250, 200) for index in range(4)], OPEN, counted(200))
    assert [text for text in many.warnings if "is it this model's tokenizer" in text]


def test_the_token_that_ended_an_answer_has_no_text():
    by_itself = summarize([answer(0, 21, 20, 20, finish_reason="stop")], OPEN, counted(20)).tokens.recount
    cut_off = summarize([answer(0, 21, 20, 20, finish_reason="length")], OPEN, counted(20)).tokens.recount
    assert (by_itself.usage_disagreement, cut_off.usage_disagreement) == (0, 0.05)


def test_chunks_counted_as_tokens_are_held_against_the_recount():
    records = [answer(index, 50, 50, 100, token_source="chunks") for index in range(3)]
    summary = summarize(records, OPEN, counted(100))
    recount = summary.tokens.recount
    assert (recount.usage_disagreement, recount.chunk_disagreement) == (None, 0.5)
    assert any("chunks are counted as tokens" in text and "50.00% apart" in text for text in summary.warnings)


def test_only_answers_that_were_recounted_and_went_well_count():
    records = [
        answer(0, 100, 100, 100),
        answer(1, 70, 70, 70),
        failed(2, 2, 30, output_sha256="text-of-100"),
        answered(3, 3, 3, [5]),
    ]
    assert summarize(records, OPEN, counted(100)).tokens.recount.answers == 1
    assert summarize(records, OPEN, counted(1)).tokens.recount is None
    assert summarize(records, OPEN).tokens.recount is None
    assert b"recount" not in msgspec.json.encode(summarize(records, OPEN))


def test_order_changes_nothing():
    records = [answer(index, 100 + index % 7, 100, 100 + index % 3) for index in range(60)]
    first = msgspec.json.encode(summarize(records, OPEN, counted(100, 101, 102)))
    random.Random(1).shuffle(records)
    assert msgspec.json.encode(summarize(records, OPEN, counted(100, 101, 102))) == first


def test_workers_and_parts_become_one():
    one, other = counted(1, 2), counted(2, 3)
    assert merged([one, other]).tokens == {"text-of-1": 1, "text-of-2": 2, "text-of-3": 3}
    assert merged([]) is None
    elsewhere = msgspec.structs.replace(one, tokenizer="another")
    assert merged([elsewhere, other]).tokens == other.tokens
    broken = Counted(tokenizer=NAME, tokens={}, problem="no such folder")
    assert merged([broken]).problem == "no such folder"
    assert merged([broken, one]).problem == ""


def test_a_tally_without_answers_says_nothing():
    assert RecountTally(counted(5)).result() is None
