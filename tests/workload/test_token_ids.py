"""Prompts as token ids: as long as asked for with no tokenizer, shared where ids are equal, the same everywhere."""

from __future__ import annotations

import hashlib
import json
from itertools import islice

import pytest

from bytemlperf.errors import UserError
from bytemlperf_llm.plan import scenario as scenarios
from bytemlperf_llm.workload import Workload, schedule_line
from bytemlperf_llm.workload.token_counter import counter_for
from bytemlperf_llm.workload.token_ids import FIRST_ID, ID_COUNT, TokenIds
from engines.contract import Message
from tests.workload.tokenizers import byte_tokenizer

PINNED = "67a7abc6"


def scenario(prompts, **more):
    return scenarios.load("smoke").override({"prompts": prompts | {"token_ids": True}, **more})


def synthetic(tokens, prefix_tokens=0, **more):
    return scenario({"synthetic": {"tokens": {"distribution": "constant", "value": tokens}, "prefix_tokens": prefix_tokens}, **more})


@pytest.mark.parametrize("tokens", [1, 2, 511, 512, 513, 5000])
def test_every_length_is_exact_with_and_without_blocks(tokens):
    ids = TokenIds(seed=3, block_tokens=512, vocabulary=None)
    for prompt in (ids.prompt("one", tokens), ids.prompt("one", tokens, range(20)), ids.prompt("one", tokens, (4,))):
        assert len(prompt) == tokens
        assert all(FIRST_ID <= token < FIRST_ID + ID_COUNT for token in prompt)


def test_equal_hash_ids_are_equal_tokens_and_others_differ():
    ids = TokenIds(seed=0, block_tokens=16, vocabulary=None)
    one, other = ids.prompt("one", 60, (7, 8, 9)), ids.prompt("other", 60, (7, 8, 10))
    assert one[:32] == other[:32]
    assert one[32:48] != other[32:48]
    assert ids.prompt("cut", 40, (7, 8, 9)) == one[:40]
    assert TokenIds(1, 16, None).prompt("one", 60, (7, 8, 9)) != one


def test_the_same_seed_gives_the_same_ids_on_every_machine():
    drawn = TokenIds(seed=0, block_tokens=16, vocabulary=None).prompt("text/0", 1000, (1, 2))
    assert hashlib.sha256(json.dumps(drawn).encode()).hexdigest()[:8] == PINNED


def test_a_small_vocabulary_holds_every_id():
    assert max(TokenIds(seed=0, block_tokens=16, vocabulary=300).prompt("text", 4000)) < 300


def test_made_up_prompts_share_their_prefix_alone():
    first, second = islice(Workload(synthetic(100, prefix_tokens=28), 0), 2)
    assert first.token_ids is not None
    assert second.token_ids is not None
    assert (first.messages, first.prompt, first.text_length()) == (None, None, 128)
    assert first.token_ids[:28] == second.token_ids[:28]
    assert first.token_ids[28:40] != second.token_ids[28:40]


def test_words_are_so_many_ids():
    workload = Workload(scenario({"synthetic": {"words": {"distribution": "constant", "value": 9}}}), 0)
    assert [request.text_length() for request in islice(workload, 3)] == [9, 9, 9]
    assert workload.prompt_lengths == "exact: token ids below 17,408, drawn without a tokenizer"


def test_a_traces_blocks_and_lengths_are_kept(tmp_path):
    rows = [{"timestamp": at, "input_length": 40, "output_length": 3, "hash_ids": [7, 8, at]} for at in (0, 5)]
    (tmp_path / "trace").write_text("\n".join(map(json.dumps, rows)))
    trace = {"format": "mooncake", "file": str(tmp_path / "trace"), "block_tokens": 16}
    first, second = Workload(scenario({"trace": trace}, arrival={"process": "trace"}, duration_s=None), 0)
    assert (first.text_length(), second.text_length(), first.max_tokens) == (40, 40, 3)
    assert first.token_ids[:32] == second.token_ids[:32]
    assert first.token_ids[32:] != second.token_ids[32:]


def test_text_goes_through_the_models_tokenizer_and_needs_one(tmp_path):
    pytest.importorskip("tokenizers")
    (tmp_path / "p.jsonl").write_text('{"prompt": "Tell me of the sea."}\n')
    files = {"files": [str(tmp_path / "p.jsonl")]}
    folder = str(byte_tokenizer(tmp_path / "tokenizer"))
    request = Workload(scenario(files | {"tokenizer": folder}), 0).request(0)
    assert request.token_ids == tuple(counter_for(folder, "chat").tokens((Message(role="user", content="Tell me of the sea."),)))
    with pytest.raises(UserError, match="tokenizer") as caught:
        Workload(scenario(files), 0).request(0)
    assert "--tokenizer" in caught.value.fix


def test_the_schedule_hash_covers_them():
    one, other = (Workload(synthetic(tokens), 0).request(0) for tokens in (20, 21))
    assert one.token_ids is not None
    assert json.loads(schedule_line(one, 5))[4] == list(one.token_ids)
    assert schedule_line(one, 5) != schedule_line(other, 5)


@pytest.mark.parametrize("more", [{"drawn": 3}, {"sessions": {"format": "openai_messages", "file": "f"}, "synthetic": None}])
def test_what_they_do_not_go_with_is_said(more):
    with pytest.raises(UserError, match="token_ids"):
        synthetic(20, **more)
