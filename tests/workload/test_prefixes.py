"""What prompts have in common with earlier ones of the schedule, source by source; the reference is a search through all of them."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from bytemlperf_llm.plan.scenario import Prompts, load
from bytemlperf_llm.workload import Workload
from bytemlperf_llm.workload.prefixes import Prefix, PrefixIndex
from engines.contract import Message

WORDS = Prompts(files=("a.jsonl",), tokenizer="words")
UNKNOWN = Prompts(files=("a.jsonl",))


def user(text: str) -> tuple[Message, ...]:
    return (Message(role="user", content=text),)


def prefixes(keys: Prompts, *texts: str) -> list[Prefix | None]:
    index = PrefixIndex(keys)
    return [index.add(user(text), place) for place, text in enumerate(texts)]


def test_whole_words_that_an_earlier_prompt_began_with() -> None:
    assert prefixes(WORDS, "a long document. Why?", "a long document. How?", "a long docking", "a long document. Why?") == [
        None,
        Prefix(0, 3),
        Prefix(1, 2),
        Prefix(0, whole=True),
    ]


def test_without_a_tokenizer_it_is_known_that_there_is_something_and_not_how_much() -> None:
    shared = "the same long beginning of "
    assert prefixes(UNKNOWN, f"{shared} one", f"{shared} two", "the other", "the other") == [
        None,
        Prefix(0),
        None,
        Prefix(2, whole=True),
    ]


def test_a_salt_is_shared_too() -> None:
    salted = Prompts(files=("a.jsonl",), tokenizer="words", salt="01234567")
    assert prefixes(salted, "one", "two", "one") == [None, Prefix(0, 1), Prefix(0, whole=True)]


def _common(one: list[str], other: list[str]) -> int:
    return next((place for place, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), min(len(one), len(other)))


def test_the_longest_common_beginning_of_all_earlier_prompts() -> None:
    draw = random.Random(5)
    texts = [" ".join(draw.choice("ab") for _ in range(draw.randint(1, 12))) for _ in range(400)]
    for place, prefix in enumerate(prefixes(WORDS, *texts)):
        words = texts[place].split()
        longest = max((_common(words, other.split()) for other in texts[:place]), default=0)
        if prefix is None:
            assert longest == 0
        elif prefix.whole:
            assert texts[prefix.index or 0] == texts[place]
        else:
            assert prefix.tokens == longest
            assert texts[prefix.index or 0].split()[:longest] == words[:longest]


def of(prompts: dict[str, Any], count: int, folder: Path | None = None) -> list[Prefix | None]:
    scenario = load("chat").override({"prompts": {"tokenizer": "words", **prompts}, "num_requests": count, "duration_s": None})
    workload = Workload(scenario.in_folder(folder or scenario.folder), 3)
    return [workload.prefix(index) for index in range(count)]


def test_prompts_of_a_file_are_whole_when_they_come_again(tmp_path: Path) -> None:
    system = {"role": "system", "content": "You are brief and kind."}
    lines = [{"messages": [system, {"role": "user", "content": f"{number} ?"}]} for number in range(3)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    first, *shared = of({"files": ["a.jsonl"]}, 7, tmp_path)
    assert first is None
    assert shared[:2] == [Prefix(0, 5), Prefix(0, 5)]
    assert all(each and each.whole and each.index is not None and each.index < 3 for each in shared[2:])


def test_made_up_prompts_share_what_they_are_told_to() -> None:
    constant = {"distribution": "constant", "value": 30}
    assert of({"synthetic": {"words": constant}}, 2) == [None, Prefix(0, 0)]
    assert of({"synthetic": {"tokens": constant}}, 2) == [None, Prefix(0, 1)]  # the opening word
    assert of({"synthetic": {"tokens": constant, "prefix_tokens": 20}}, 3) == [None, Prefix(0, 20), Prefix(0, 20)]
    assert of({"synthetic": {"tokens": constant, "prefix_tokens": 20}, "salt": "0" * 8}, 2)[1] == Prefix(0, 21)
    assert of({"synthetic": {"tokens": constant, "prefix_tokens": 20}, "tokenizer": None}, 2)[1] == Prefix(0)


def test_a_traces_hash_ids_say_which_blocks_are_the_same(tmp_path: Path) -> None:
    ids = [[1, 2, 3], [1, 2, 9], [1, 2, 3], [7], [1, 2, 9, 4]]
    lengths = [1500, 1300, 1400, 100, 2000]
    rows = [
        {"timestamp": i, "input_length": n, "output_length": 1, "hash_ids": each}
        for i, (n, each) in enumerate(zip(lengths, ids, strict=True))
    ]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    trace = {"format": "mooncake", "file": "t.jsonl"}
    assert of({"trace": trace}, 5, tmp_path) == [None, Prefix(0, 1024), Prefix(0, 1400), Prefix(0, 1), Prefix(1, 1300)]


@pytest.mark.parametrize("start", [0, 4])
def test_a_trace_may_be_entered_anywhere(tmp_path: Path, start: int) -> None:
    rows = [{"timestamp": i, "input_length": 600, "output_length": 1, "hash_ids": [i // 2, i]} for i in range(6)]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    scenario = load("chat").override({"prompts": {"tokenizer": "words", "trace": {"format": "mooncake", "file": "t.jsonl"}}})
    workload = Workload(scenario.in_folder(tmp_path), 3)
    assert [workload.prefix(index) for index in range(start, 6)][-1] == Prefix(4, 512)
