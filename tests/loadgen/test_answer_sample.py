"""The sample of answers: every answer has the same chance."""

from __future__ import annotations

import pytest

from bytemlperf_llm.loadgen import answer_sample
from bytemlperf_llm.loadgen.answer_sample import AnswerSample


def kept(size, answers, seed):
    sample = AnswerSample(size=size, seed=seed)
    for number in range(answers):
        sample.add(str(number))
    return sorted(map(int, sample._texts))


@pytest.mark.parametrize("answers", [0, 3, 8])
def test_few_answers_are_all_kept(answers):
    assert kept(8, answers, 0) == list(range(answers))


def test_the_size_is_the_bound_and_no_answer_is_kept_twice():
    found = kept(20, 5_000, 1)
    assert len(found) == len(set(found)) == 20


def test_every_answer_has_the_same_chance():
    """2,000 samples of 10 out of 100: each answer in 200 ± 6 standard deviations; the first ten, the last ten alike."""
    counts = [0] * 100
    for seed in range(2_000):
        for number in kept(10, 100, seed):
            counts[number] += 1
    deviation = (2_000 * 0.1 * 0.9) ** 0.5
    assert all(abs(count - 200) < 6 * deviation for count in counts), counts
    assert abs(sum(counts[:10]) - 2_000) < 6 * deviation * 10**0.5
    assert abs(sum(counts[-10:]) - 2_000) < 6 * deviation * 10**0.5


def test_what_has_no_text_or_too_much_is_passed_over(monkeypatch):
    monkeypatch.setattr(answer_sample, "MAX_TEXT_CHARS", 5)
    sample = AnswerSample()
    for text in ("", "abcdef", "abc"):
        sample.add(text)
    assert list(sample.counted("words").tokens.values()) == [1]


def test_a_tokenizer_that_cannot_be_used_is_said(tmp_path):
    sample = AnswerSample()
    sample.add("a")
    counted = sample.counted(str(tmp_path))
    assert (counted.tokens, counted.tokenizer) == ({}, f"tokenizer of {tmp_path.parent.name}/{tmp_path.name}")
    assert "tokenizer.json" in counted.problem
