"""The synthetic model: the same bytes everywhere, one token a byte, loadable by real libraries."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bytemlperf.errors import UserError
from bytemlperf.models import resolve
from bytemlperf.models.synthetic import Options, byte_alphabet, parse

WEIGHTS_SHA256 = "4290c7e22df666b134628bcff283500e909cba2d6039ad120911ca1726eb09aa"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BMP_CACHE", str(tmp_path / "cache"))


def weights(name: str) -> bytes:
    path = resolve(name).path
    assert path is not None
    return (Path(path) / "model.safetensors").read_bytes()


def test_is_labelled_and_has_a_context_length():
    model = resolve("synthetic")
    assert model.random_weights
    assert model.max_model_len == 2048
    assert resolve("synthetic:context=512").max_model_len == 512


def test_its_bytes_are_the_same_on_every_machine():
    assert hashlib.sha256(weights("synthetic")).hexdigest() == WEIGHTS_SHA256


def test_the_seed_and_nothing_else_changes_them():
    assert weights("synthetic:seed=0") == weights("synthetic")
    assert weights("synthetic:seed=1") != weights("synthetic")
    assert weights("synthetic:context=100") == weights("synthetic")


def test_options():
    assert parse("") == Options()
    assert parse("seed=3, layers=4,hidden=96") == Options(seed=3, layers=4, hidden=96)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("sead=1", "did you mean 'seed'?"),
        ("qqq=1", "valid: context, hidden, layers, seed"),
        ("seed=x", "seed can't be 'x'; give a whole number"),
        ("seed", "give a whole number"),
        ("seed=-1", "give a whole number >= 0"),
        ("layers=0", ">= 1"),
        ("context=0", ">= 1"),
        ("hidden=33", "a multiple of 32"),
        ("hidden=0", ">= 32"),
        ("hidden=4096", "more than 20,000,000 weights"),
        ("layers=9999999999", "<= 1000"),
        ("seed=²", "give a whole number"),
    ],
)
def test_bad_options(text: str, says: str):
    with pytest.raises(UserError) as caught:
        resolve(f"synthetic:{text}")
    assert says in str(caught.value)


def test_every_byte_has_its_own_visible_character():
    alphabet = byte_alphabet()
    assert len(set(alphabet)) == 256
    assert alphabet[ord("A")] == "A"
    assert alphabet[ord(" ")] == "Ġ"
    assert all(character.isprintable() for character in alphabet)


def test_the_tokenizer_is_a_token_a_byte_and_loses_nothing():
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer.from_file(f"{resolve('synthetic').path}/tokenizer.json")
    for text in ("plain", "été 日本 🙂\n\t\x00", "I've  two spaces", " "):
        ids = tokenizer.encode(text).ids
        assert [i - 3 for i in ids] == list(text.encode())
        assert tokenizer.decode(ids) == text
    assert tokenizer.encode("<|im_end|>").ids == [2]
    assert tokenizer.get_vocab_size() == 259


@pytest.mark.slow
def test_transformers_loads_it_and_its_answers_are_printable():
    pytest.importorskip("torch")
    code = (
        "import sys, torch\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        "tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])\n"
        "model = AutoModelForCausalLM.from_pretrained(sys.argv[1])\n"
        "ids = tokenizer.apply_chat_template([{'role': 'user', 'content': 'hi'}], add_generation_prompt=True)['input_ids']\n"
        "assert tokenizer.decode(ids) == '<|im_start|>user\\nhi<|im_end|>\\n<|im_start|>assistant\\n', tokenizer.decode(ids)\n"
        "out = model.generate(torch.tensor([ids]), max_new_tokens=40, do_sample=False)[0][len(ids):]\n"
        "assert len(out) == 40 and model.config.vocab_size == len(tokenizer) == 259\n"
        "print(tokenizer.decode(out))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(resolve("synthetic").path)], capture_output=True, text=True, check=True, env=os.environ
    )
    answer = done.stdout.removesuffix("\n")
    assert len(answer) == 40
    assert answer.isascii()
    assert answer.isprintable()
