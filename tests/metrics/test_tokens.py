"""Tokens of a run: what is added up, and what a reader is warned of."""

from __future__ import annotations

import pytest

from bytemlperf_llm.metrics import blocks
from bytemlperf_llm.metrics.accumulator import Accumulator
from bytemlperf_llm.metrics.facts import RunFacts
from bytemlperf_llm.metrics.summary import summarize
from bytemlperf_llm.metrics.tokens import Tokens, token_warnings
from bytemlperf_llm.record.record import RequestRecord
from tests.metrics.records import answered, failed

FACTS = RunFacts(open_loop=True)


def answer(index: int, tokens: list[int], gap_ms: float = 10, **changes: object) -> RequestRecord:
    start = 100 * index
    return answered(index, start, start, [start + 50 + place * gap_ms for place in range(len(tokens))], tokens_per_chunk=tokens, **changes)


def tokens_of(*records: RequestRecord) -> tuple[Tokens, str]:
    summary = summarize(records, FACTS)
    return summary.tokens, "\n".join(token_warnings(summary.tokens, len(records)))


def test_counts_that_agree_are_not_warned_of():
    tokens, warned = tokens_of(*(answer(index, [1] * 20, usage_tokens=20, shown_tokens=20) for index in range(3)))
    assert (tokens.usage_disagreement, tokens.usage_tokens, tokens.shown_tokens, warned) == (0.0, 60, 60, "")


def test_disagreement_is_that_of_before_the_spreading():
    tokens, warned = tokens_of(answer(0, [2] * 20, usage_tokens=40, shown_tokens=20))
    assert tokens.usage_disagreement == 0.5
    assert "differ by 50.0%: 40 tokens against 20" in warned


def test_usage_that_was_not_taken_is_counted_and_still_disagrees():
    odd = answer(0, [1] * 20, usage_tokens=5, shown_tokens=20, token_source="chunks")
    absurd = answer(1, [1] * 20, usage_tokens=1 << 40, shown_tokens=20, token_source="chunks")
    tokens, warned = tokens_of(odd, absurd, answer(2, [1] * 20, usage_tokens=20, shown_tokens=20))
    assert (tokens.answers_usage_not_taken, tokens.answers_without_usage, tokens.output_tokens) == (2, 0, 60)
    assert "in 2 of 3 responses usage can't be right" in warned


def test_records_of_older_runs_have_usage_in_their_source():
    tokens, warned = tokens_of(answer(0, [1] * 20, output_tokens=40), answer(1, [1] * 20, token_source="chunks"))
    assert (tokens.usage_disagreement, tokens.answers_without_usage) == (0.5, 1)
    assert "1 of 2 responses reported no usable usage" in warned


def test_details_of_usage_are_added_up_and_absent_where_none_reports_them():
    plain, _ = tokens_of(answer(0, [1] * 20))
    assert (plain.reasoning_tokens, plain.cached_tokens, plain.accepted_draft_tokens, plain.hidden_tokens) == (None, None, None, 0)
    with_all = [
        answer(index, [1] * 20, reasoning_tokens=7, hidden_tokens=7, cached_tokens=0, accepted_draft_tokens=3) for index in range(2)
    ]
    lost = failed(3, 0, 1, reasoning_tokens=100)
    tokens, warned = tokens_of(*with_all, answer(2, [1] * 20), lost)
    assert (tokens.reasoning_tokens, tokens.cached_tokens, tokens.accepted_draft_tokens, tokens.hidden_tokens) == (14, 0, 6, 14)
    assert "14 reasoning tokens were generated and not streamed" in warned


@pytest.mark.parametrize(
    ("stamps", "tokens", "bundled"),
    [
        (list(range(0, 200, 10)), [1] * 20, False),
        (list(range(0, 110, 10)), [10] + [1] * 10, True),
        ([0, *[190 + place / 1000 for place in range(19)]], [1] * 20, True),
        ([0, 190], [1, 19], True),
        ([0, 60, 120, 180], [5] * 4, True),
        (list(range(0, 200, 40)), [4] * 5, False),
        ([0, 10, 20], [2] * 3, False),
    ],
    ids=["one by one", "first of ten", "held back, read one by one", "held back", "four bundles", "five bundles", "too short to tell"],
)
def test_bundled_responses_are_warned_of(stamps, tokens, bundled):
    records = [
        answered(index, 1000 * index, 1000 * index, [1000 * index + 50 + stamp for stamp in stamps], tokens_per_chunk=tokens)
        for index in range(4)
    ]
    found, warned = tokens_of(*records)
    assert found.bundled_answers == (4 if bundled else 0)
    assert ("came bundled" in warned) == bundled


def test_blocks_add_up_what_single_records_do(monkeypatch):
    records = [
        answer(
            index,
            [1 + index % 3] * (4 + index % 9),
            gap_ms=1 + index % 2,
            usage_tokens=index % 5 * 7,
            shown_tokens=index % 30,
            cached_tokens=index,
        )
        for index in range(300)
    ]
    records[7].outcome, records[8].chunk_ns, records[8].tokens_per_chunk = "failed", [], []
    in_blocks = Accumulator().add_all(records)
    monkeypatch.setattr(blocks, "BLOCK_RECORDS", 1)
    one_by_one = Accumulator().add_all(records)
    assert vars(in_blocks.tokens) == vars(one_by_one.tokens)


def test_a_small_share_of_bursts_is_not_zero():
    tokens = Tokens(
        **dict.fromkeys(("prompt_tokens", "output_tokens", "stream_tokens", "answers_without_usage", "answers_without_prompt_count"), 0),
        usage_disagreement=None,
        batched_token_share=0.0004,
    )
    assert token_warnings(tokens, 10)[0].startswith("under 0.1%")
