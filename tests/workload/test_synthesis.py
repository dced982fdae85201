"""Made-up text: exactly as long as asked for, shared where ids are equal, the same everywhere."""

from __future__ import annotations

import hashlib
from itertools import pairwise

import pytest

from bytemlperf_llm.workload.synthesis import TextMaker
from bytemlperf_llm.workload.token_counter import TokenizerCounter, WordCounter, counter_for
from engines.contract import Message
from tests.workload.tokenizers import byte_tokenizer, smollm2_tokenizer

pytest.importorskip("tokenizers")
pytest.importorskip("jinja2")

PINNED = {
    "words": "a9a7ba44ed9ff065974583071e73a5e3d639625bc2740a1365fd76c89d6cee9a",
    "bytes": "2a8bab17aee36661defa4c219d3c8bdabcaed8a83585b73c3403129e963a84c4",
    "smollm2": "26c28bcc13edabe52b5a3ae46109f799a96e104a644ede93824bbf7c1735f866",
}


@pytest.fixture(params=["words", "bytes", "smollm2"])
def tokenizer(request, tmp_path):
    folder = {"words": "words", "bytes": str(byte_tokenizer(tmp_path)), "smollm2": smollm2_tokenizer()}[request.param]
    if folder is None:
        pytest.skip("SmolLM2 has not been built here")
    return request.param, folder


def user(text: str) -> tuple[Message, ...]:
    return (Message(role="user", content=text),)


def ids_of(folder: str, text: str) -> list[int] | list[str]:
    """The prompt's tokens as the engine sees them."""
    counter = counter_for(folder, "chat")
    if isinstance(counter, TokenizerCounter):
        return list(counter._encoded(user(text)).ids)
    return text.split()


@pytest.mark.parametrize("template", ["chat", "plain"])
def test_every_length_is_exact(tokenizer, template):
    counter = counter_for(tokenizer[1], template)
    maker = TextMaker(counter, seed=3)
    assert maker.additive
    for tokens in [*range(maker.minimum, maker.minimum + 70), 500, 512, 513, 1337, 5000]:
        assert counter.prompt(user(maker.prompt(f"n{tokens}", tokens))) == tokens
        assert counter.prompt(user(maker.prompt(f"n{tokens}", tokens, range(9)))) == tokens
    assert counter.prompt(user(maker.prompt("short", 1))) == maker.minimum


@pytest.mark.parametrize("block_tokens", [1, 16, 64, 512])
def test_equal_ids_are_equal_tokens_at_equal_places_and_different_ids_differ(tokenizer, block_tokens):
    _, folder = tokenizer
    maker = TextMaker(counter_for(folder, "chat"), seed=0, block_tokens=block_tokens)
    blocks = 40 if block_tokens < 64 else 4
    whole = blocks * block_tokens
    tokens = whole + 100 + maker.minimum
    one = ids_of(folder, maker.prompt("a", tokens, [*range(blocks), 77]))
    two = ids_of(folder, maker.prompt("b", tokens, [*range(blocks), 88]))
    assert len(one) == len(two) == tokens
    shared = next((place for place, (left, right) in enumerate(zip(one, two, strict=True)) if left != right), None)
    assert shared is not None
    # They part where block 77 parts from 88; a word or two may happen to be equal.
    slack = 40 if tokenizer[0] == "bytes" else 4
    assert max(whole, maker._head) <= shared <= max(whole, maker._head) + slack
    unlike = ids_of(folder, maker.prompt("a", tokens, range(900, 900 + blocks)))
    assert next(place for place, (left, right) in enumerate(zip(one, unlike, strict=True)) if left != right) <= maker._head + slack


def test_a_longer_prompt_of_the_same_ids_goes_on_where_the_shorter_ended():
    maker = TextMaker(WordCounter(exact=True), seed=0, block_tokens=16)
    texts = [maker.prompt("x", tokens, (5, 6, 7)) for tokens in (10, 16, 20, 33, 48)]
    assert all(longer.startswith(shorter) for shorter, longer in pairwise(texts))


def test_text_is_the_same_on_every_machine(tokenizer):
    name, folder = tokenizer
    maker = TextMaker(counter_for(folder, "chat"), seed=0, block_tokens=16)
    texts = "\n".join(maker.prompt(f"line/{i}", 60 + i, (i, i + 1, 2**60)) for i in range(50))
    assert hashlib.sha256(texts.encode()).hexdigest() == PINNED[name]


def test_seeds_and_names_make_different_texts():
    one, other = (TextMaker(WordCounter(exact=True), seed=seed) for seed in (1, 2))
    assert one.prompt("a", 50) != other.prompt("a", 50)
    assert one.prompt("a", 50) != one.prompt("b", 50)
    assert one.prompt("a", 50, (1,)) != other.prompt("a", 50, (1,))
    assert one.prompt("a", 50, (1,)) == one.prompt("b", 50, (1,))


class MergingCounter(WordCounter):
    """A tokenizer whose tokens don't add up: of every eight words in a row, two become one token."""

    def text(self, text: str) -> int:
        words = len(text.split())
        return words - words // 8


def test_where_tokens_dont_add_up_every_prompt_is_counted_and_mended():
    counter = MergingCounter(exact=True)
    maker = TextMaker(counter, seed=0)
    assert not maker.additive
    assert "every prompt counted, and adjusted" in maker.lengths
    for tokens in range(1, 400):
        assert counter.prompt(user(maker.prompt("x", tokens))) == tokens
    assert maker.prompt("x", 300, (1, 2)) == TextMaker(counter, seed=0).prompt("x", 300, (1, 2))


def test_the_cache_of_blocks_is_bounded():
    for block_tokens in (16, 512, 100_000):
        maker = TextMaker(WordCounter(exact=True), seed=0, block_tokens=block_tokens)
        maxsize = maker._block.cache_info().maxsize
        assert maxsize is not None
        assert maxsize <= 8_192
        assert maxsize * block_tokens <= max(2_000_000, 16 * block_tokens)
