"""The built-in prompt sets: enough, different, in many languages, and short enough for their context."""

from __future__ import annotations

from collections import Counter

import pytest

from bytemlperf_llm.plan import scenario as scenarios
from bytemlperf_llm.workload.prompts import Prompt, read

CONTEXT_TOKENS = 2048
CHAT_TEMPLATE_BYTES = 300
TOKENS_PER_CHAR = {"en": 0.26, "latin": 0.43, "unspaced": 2.0}
"""Upper bounds of SmolLM2's tokenizer over the texts of `summarize`."""
LANGUAGES = {"en", "zh", "es", "de", "fr", "ja", "ar", "hi", "pt", "ru", "ko", "it", "tr", "vi"}


def prompts_of(name: str) -> list[Prompt]:
    loaded = scenarios.load(name)
    return [prompt for file in loaded.prompts.files or () for prompt in read(loaded.folder / file)]


def text_of(prompt: Prompt) -> str:
    return "\n".join(message.content for message in prompt.messages or ())


def prompt_bytes(prompt: Prompt) -> int:
    return len(text_of(prompt).encode())


def longest_answer_tokens(name: str) -> int:
    lengths = scenarios.load(name).output_tokens
    return lengths.value if isinstance(lengths, scenarios.Constant) else max(lengths.max, 0)  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["chat", "smoke", "code", "summarize"])
def test_every_prompt_is_a_different_well_formed_chat(name: str) -> None:
    prompts = prompts_of(name)
    texts = [" ".join(text_of(prompt).lower().split()) for prompt in prompts]
    assert len(set(texts)) == len(texts)
    assert len({text[:60] for text in texts}) > 0.9 * len(texts)
    for prompt in prompts:
        assert prompt.lang
        assert prompt.topic
        roles = [message.role for message in prompt.messages or ()]
        assert roles[-1] == "user"
        turns = roles[1:] if roles[0] == "system" else roles
        assert turns == ["user", "assistant"] * (len(turns) // 2) + ["user"]
        assert all(message.content == message.content.strip() != "" for message in prompt.messages or ())


def test_chat_is_varied() -> None:
    prompts = prompts_of("chat")
    languages = Counter(prompt.lang for prompt in prompts)
    assert len(prompts) >= 200
    assert set(languages) >= LANGUAGES
    assert 0.4 <= languages["en"] / len(prompts) <= 0.6
    assert all(languages[each] >= 6 for each in LANGUAGES)
    assert len({prompt.topic for prompt in prompts}) >= 12
    assert sum(len(prompt.messages or ()) >= 4 for prompt in prompts) >= 20
    words = [len(text_of(prompt).split()) for prompt in prompts if prompt.lang == "en"]
    assert min(words) <= 6
    assert max(words) >= 180


@pytest.mark.parametrize("name", ["chat", "smoke", "code"])
def test_short_prompts_fit_the_context_even_as_bytes(name: str) -> None:
    longest = max(map(prompt_bytes, prompts_of(name)))
    assert longest <= 1500
    assert longest + CHAT_TEMPLATE_BYTES + longest_answer_tokens(name) <= CONTEXT_TOKENS


def test_summaries_are_of_long_texts_that_fit_the_context() -> None:
    prompts = prompts_of("summarize")
    assert len(prompts) >= 24
    assert len({prompt.lang for prompt in prompts}) >= 6
    for prompt in prompts:
        text = text_of(prompt)
        unspaced = prompt.lang in ("zh", "ja")
        assert (650 if unspaced else 390) <= (len(text) if unspaced else len(text.split())) <= 900
        tokens = len(text) * TOKENS_PER_CHAR["unspaced" if unspaced else "en" if prompt.lang == "en" else "latin"]
        assert tokens + 50 + longest_answer_tokens("summarize") <= CONTEXT_TOKENS


def test_code_tasks_are_many_and_short() -> None:
    prompts = prompts_of("code")
    assert len(prompts) >= 60
    assert max(map(prompt_bytes, prompts)) < 400
