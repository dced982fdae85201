"""Counting prompt tokens: as the engine does it, template included."""

from __future__ import annotations

import json

import pytest

from bytemlperf.errors import UserError
from bytemlperf_llm.workload.token_counter import TokenizerCounter, WordCounter, counter_for, cut
from engines.contract import Message, Request
from tests.workload.tokenizers import byte_tokenizer, smollm2_tokenizer

pytest.importorskip("tokenizers")
pytest.importorskip("jinja2")

CHATS = [
    (Message(role="user", content="hello there"),),
    (Message(role="user", content="  spaces around \n"),),
    (Message(role="system", content="Be short."), Message(role="user", content="Why is the sky blue?")),
    (Message(role="user", content="a"), Message(role="assistant", content="b"), Message(role="user", content="ünï 漢字 🙂")),
]


def test_a_byte_tokenizer_counts_bytes_and_template(tmp_path):
    counter = TokenizerCounter(tmp_path / byte_tokenizer(tmp_path), plain=False)
    around = len("user\n") + len("\n") + len("assistant\n") + 3  # three special tokens
    assert counter.prompt((Message(role="user", content="hello"),)) == around + 5
    assert counter.text("hé") == 3
    assert counter.head("hello") == 1 + len("user\n") + 5
    assert TokenizerCounter(tmp_path, plain=True).prompt((Message(role="user", content="hello"),)) == 5


@pytest.mark.slow
@pytest.mark.parametrize("which", ["bytes", "smollm2"])
def test_counts_equal_those_of_the_engines_in_process(tmp_path, which):
    inprocess = pytest.importorskip("engines.inprocess")
    pytest.importorskip("transformers")
    folder = byte_tokenizer(tmp_path) if which == "bytes" else smollm2_tokenizer()
    if folder is None:
        pytest.skip("SmolLM2 has not been built here")
    tokenizer, counter = inprocess.load_tokenizer(folder), TokenizerCounter(tmp_path / folder, plain=False)
    for messages in CHATS:
        assert counter.prompt(messages) == len(tokenizer._encode(Request(index=0, id="x", max_tokens=1, messages=messages)))


def test_the_word_rule_says_whether_it_is_an_estimate():
    assert WordCounter(exact=True).text("one two  three\n") == 3
    assert "since no tokenizer is known" in counter_for(None, "chat").how
    assert not counter_for(None, "chat").exact
    assert counter_for("words", "chat").exact


@pytest.mark.parametrize("most", [1, 2, 7, 40, 1000])
def test_cut_shortens_the_last_message_from_its_end(tmp_path, most):
    messages = (Message(role="system", content="one two"), Message(role="user", content=" ".join(f"w{i}" for i in range(50))))
    short = cut(WordCounter(exact=True), messages, most)
    assert short[0] == messages[0]
    assert messages[1].content.startswith(short[1].content)
    assert WordCounter(exact=True).prompt(short) == min(52, max(most, 2))
    counter = TokenizerCounter(tmp_path / byte_tokenizer(tmp_path), plain=False)
    assert counter.prompt(cut(counter, messages, 100 + most)) <= 100 + most


def test_a_tokenizer_that_cant_be_used_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"has no tokenizer\.json"):
        TokenizerCounter(tmp_path, plain=False)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=r"tokenizer\.json can't be used"):
        TokenizerCounter(tmp_path, plain=False)


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("{% if %}", "can't be used"),
        ("{{ raise_exception('no chat here') }}", "no chat here"),
        ("{{ messages.__class__.__mro__[1].__subclasses__() }}", "unsafe"),
        ("{{ nothing['there'] }}", "can't be used"),
    ],
)
def test_a_template_that_fails_or_reaches_out_is_one_line(tmp_path, template, problem):
    with pytest.raises(UserError, match=problem) as caught:
        TokenizerCounter(tmp_path / byte_tokenizer(tmp_path, template), plain=False)
    assert "\n" not in str(caught.value)


def test_templates_are_found_where_transformers_finds_them(tmp_path):
    byte_tokenizer(tmp_path, None)
    content = (Message(role="user", content="xy"),)
    assert TokenizerCounter(tmp_path, plain=False).prompt(content) == 2
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    config |= {
        "chat_template": [
            {"name": "tool", "template": "t"},
            {"name": "default", "template": "12{{ messages[0]['content'] }}{{ bos_token }}"},
        ]
    }
    config["bos_token"] = {"content": "<|im_start|>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert TokenizerCounter(tmp_path, plain=False).prompt(content) == 5
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0]['content'] }}{% if add_generation_prompt %}1234{% endif %}\n")
    assert TokenizerCounter(tmp_path, plain=False).prompt(content) == 6
