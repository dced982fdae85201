"""Sessions on documents of a pool: which, how often, and what their prompts share."""

from __future__ import annotations

from collections import Counter
from typing import Any

from bytemlperf_llm.plan.scenario import Scenario, load
from bytemlperf_llm.workload import Workload
from bytemlperf_llm.workload.schedule import Schedule

TEN = {"distribution": "constant", "value": 10}


def rag(sessions: int, count: int, zipf: float, **changes: Any) -> Scenario:
    synthetic = {"turns": {"distribution": "uniform", "min": 1, "max": 2}, "words": TEN, "system_words": 5}
    documents = {"count": count, "words": {"distribution": "uniform", "min": 50, "max": 90}, "zipf": zipf}
    keys = {"prompts.sessions.synthetic": synthetic | {"documents": documents}, "num_sessions": sessions, "prompts.tokenizer": "words"}
    return load("rag").override(keys | changes)


def openings(scenario: Scenario) -> list[str]:
    """What stands before the questions, of each session."""
    return [planned.session.turns[0].messages[0].content for planned in Schedule(scenario, 0).sessions()]


def test_popular_documents_are_asked_about_in_proportion_to_their_rank() -> None:
    counts = Counter(openings(rag(5_000, 4, 1.0))).most_common()
    total = 1 + 1 / 2 + 1 / 3 + 1 / 4
    assert len(counts) == 4
    for rank, (_, count) in enumerate(counts, start=1):
        assert abs(count / 5_000 - 1 / rank / total) < 0.03


def test_without_a_preference_all_are_asked_about_alike() -> None:
    counts = Counter(openings(rag(4_000, 4, 0.0)))
    assert all(abs(count / 4_000 - 0.25) < 0.03 for count in counts.values())


def test_a_session_shares_its_document_with_the_first_that_had_it_and_the_system_prompt_with_all() -> None:
    scenario = rag(40, 3, 1.0)
    planned, first = list(Schedule(scenario, 0).sessions()), {}
    for each in planned:
        turn = each.session.turns[0]
        document, words = turn.messages[0].content, turn.messages[0].content.split()
        shared = turn.shared
        if not each.first_index:
            assert shared is None
        elif document in first:
            assert shared is not None
            assert (shared.tokens, shared.index) == (len(words), first[document])
        else:
            assert shared is not None
            assert shared.tokens == 5
        assert turn.messages[1].role == "user"
        first.setdefault(document, each.first_index)


def test_seeds_have_other_documents_and_one_seed_the_same() -> None:
    scenario = rag(6, 3, 1.0)
    one, same, other = (Workload(scenario, seed).request(0).messages for seed in (0, 0, 1))
    assert one == same != other


def test_the_load_names_the_pool() -> None:
    assert "on one of 3 documents of 50 to 90 words, Zipf 1" in rag(6, 3, 1.0).prompts.sentence()
