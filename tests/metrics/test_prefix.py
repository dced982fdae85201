"""What a prefix cache held, by records whose counts are known by construction; no false alarm, no missed one."""

from __future__ import annotations

from typing import Any

import pytest

from bytemlperf_llm.metrics.accumulator import Accumulator
from bytemlperf_llm.metrics.prefix import Lost, PrefixCache, PrefixFacts, ServerCounts, prefix_of, prefix_warnings
from bytemlperf_llm.record.record import RequestRecord
from tests.sessions.graphs import ANSWER, chain, replay

COUNTED = PrefixFacts(counted=True)


def record(
    index: int, prompt: int | None, reusable: int | None, cached: int | None, donor: int | None = None, **more: Any
) -> RequestRecord:
    """Sent at 100 × its index, its first token 10 later."""
    sent_ns = 100 * index
    fields = {
        "outcome": "ok",
        "planned_ns": None,
        "sent_ns": sent_ns,
        "chunk_ns": [sent_ns + 10],
        "tokens_per_chunk": [1],
        "end_ns": sent_ns + 20,
    }
    counts = {"prompt_tokens": prompt, "reusable_tokens": reusable, "cached_tokens": cached, "prefix_index": donor}
    return RequestRecord(id=f"r{index}", index=index, **(fields | counts | more))


def of(records: list[RequestRecord], facts: PrefixFacts = COUNTED) -> PrefixCache:
    prefix = prefix_of(Accumulator().add_all(records), facts)
    assert prefix is not None
    return prefix


def test_reuse_by_turn_beside_what_the_server_says() -> None:
    """The scripted server reports words as prompt tokens (1, 4, 7) and half of them as cached: 0, 2, 3."""
    records, _ = replay([(chain(str(i), 3), 0) for i in range(2)], [ANSWER])
    prefix = of(records)
    reuse = {name: (each.prompt_tokens, each.reusable_tokens, each.cached_tokens) for name, each in prefix.by_turn.items()}
    assert reuse == {"1": (2, 0, 0), "2": (8, 2, 4), "3": (14, 8, 6)}
    assert (prefix.total.prompt_tokens, prefix.total.cached_tokens, prefix.block_tokens) == (24, 10, 1)


def test_whole_blocks_and_the_last_token_of_a_repeated_prompt() -> None:
    prefix = of([record(0, 64, 0, 0), record(1, 64, 64, 48, 0), record(2, 70, 64, 64, 0), record(3, 64, 20, 16, 0)])
    assert prefix.block_tokens == 16
    assert (prefix.total.reusable_tokens, prefix.total.whole_block_tokens, prefix.total.cached_tokens) == (148, 128, 128)
    assert prefix.lost == Lost(block=20, in_flight=0, elsewhere=0, evicted=0, never_hit=0)
    assert prefix.by_turn == {}


def test_where_reuse_was_lost() -> None:
    slow = record(1, 64, 0, 0, chunk_ns=[250])
    records = [
        record(0, 64, 0, 0),
        slow,
        record(2, 65, 64, 0, 1),  # sent at 200, while request 1 was being computed
        record(3, 65, 64, 16, 0),  # 48 of 64 tokens are no longer there
        record(4, 65, 64, 64, 0),
        record(5, 65, 64, 0, 9),  # a request that failed, or has no record
        record(6, 65, 64, 0, 0, endpoint="b:8000"),
    ]
    assert of(records).lost == Lost(block=0, in_flight=128, elsewhere=64, evicted=48, never_hit=0)


def test_a_cache_that_is_never_hit_is_no_eviction() -> None:
    assert of([record(0, 64, 0, 0), record(1, 65, 64, 0, 0)]).lost == Lost(block=0, in_flight=0, elsewhere=0, evicted=0, never_hit=64)


def test_failed_requests_and_unknown_counts_are_left_out() -> None:
    records = [record(0, 64, 0, 0, outcome="failed"), record(1, 64, None, 16), record(2, 64, 0, 0), record(3, 64, 0, None)]
    prefix = of(records)
    assert (prefix.total.answers, prefix.answers_without) == (1, 2)


def test_nothing_is_said_where_nothing_is_known() -> None:
    assert prefix_of(Accumulator().add_all([record(0, 64, 0, None)]), COUNTED) is None
    assert prefix_of(Accumulator(), COUNTED) is None


# -- warm or not ---------------------------------------------------------------------


def unique(count: int, cached: int) -> list[RequestRecord]:
    """Prompts of 200 tokens that share a template of 20."""
    return [record(index, 200, 20 if index else 0, cached, 0 if index else None) for index in range(count)]


@pytest.mark.parametrize("facts", [COUNTED, PrefixFacts()])
def test_prompts_of_an_earlier_run_are_found_and_by_how_much(facts: PrefixFacts) -> None:
    prefix = of(unique(10, 192), facts)
    # block 192: the template fills none; without a tokenizer 64 tokens of each may be the template's
    assert prefix.beyond_share == pytest.approx(192 / 200 if facts.counted else 128 / 200)
    (warning,) = prefix_warnings(prefix, "as-is")
    assert f"{prefix.beyond_share:.1%} of prompt tokens" in warning
    assert "--cache cold" in warning
    assert "other traffic" in prefix_warnings(prefix, "cold")[0]
    assert prefix_warnings(prefix, "warm") == []


@pytest.mark.parametrize("facts", [COUNTED, PrefixFacts()])
def test_the_template_alone_is_no_alarm(facts: PrefixFacts) -> None:
    records = [record(index, 60, 36 if facts.counted and index else 0, 32 if index else 0, 0) for index in range(40)]
    assert prefix_warnings(of(records, facts), "as-is") == []


def test_prompts_that_repeat_within_the_run_are_no_alarm() -> None:
    records = [record(index, 200, 200 if index >= 4 else 0, 192 if index >= 4 else 0, index % 4) for index in range(40)]
    assert prefix_warnings(of(records), "as-is") == []


def test_what_the_run_itself_sent_before_is_no_alarm() -> None:
    records = [record(0, 200, 0, 192), *(record(index, 200, 0, 0) for index in range(1, 8)), record(8, 200, 0, 192), record(9, 200, 0, 192)]
    assert prefix_warnings(of(records, PrefixFacts(counted=True, own=((0, 1), (8, 10)))), "as-is") == []
    assert len(prefix_warnings(of(records), "as-is")) == 1


def test_counters_tell_where_answers_do_not() -> None:
    silent = [record(index, 200, 100 if index else 0, None, 0) for index in range(10)]
    cold = of(silent, PrefixFacts(counted=True, server=ServerCounts(query_tokens=2_000, hit_tokens=900)))
    assert cold.beyond_share == 0
    warm = of(silent, PrefixFacts(counted=True, server=ServerCounts(query_tokens=2_000, hit_tokens=1_900)))
    assert warm.beyond_share == 0.5
    assert len(prefix_warnings(warm, "as-is")) == 1
    unknown = [record(index, 200, None, None) for index in range(10)]
    assert of(unknown, PrefixFacts(server=ServerCounts(query_tokens=2_000, hit_tokens=1_900))).beyond_share == 0
