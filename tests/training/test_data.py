"""Data: the samples of a step don't depend on the layout, each pass sees each sample once, damage is mended."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.rank.batches import Masked, RankBatches, TextSamples, sample_indices
from training.workload import workload
from training.workload.corpus import map_tokens, prepare_corpus
from training.workload.workload import IGNORED_LABEL, Data

pytest.importorskip("torch")


def test_ranks_share_the_same_global_batch() -> None:
    tiny = workload.load("gpt-tiny")
    whole = list(RankBatches(tiny, 100, 3, 0, 1, 0, 20))
    halves = [list(RankBatches(tiny, 100, 3, rank, 2, 0, 20)) for rank in range(2)]
    for step in range(20):
        together = [index for micro in whole[2 * step : 2 * step + 2] for index in micro]
        assert [*halves[0][step], *halves[1][step]] == together == sample_indices(step, 8, 100, 3)


def test_a_pass_sees_each_sample_once_and_the_next_one_in_another_order() -> None:
    seen = [index for step in range(20) for index in sample_indices(step, 10, 100, 0)]
    assert sorted(seen[:100]) == sorted(seen[100:]) == list(range(100))
    assert seen[:100] != seen[100:]
    assert seen[:10] != sample_indices(0, 10, 100, 1)


def test_a_resumed_run_goes_on_with_the_next_samples() -> None:
    tiny = workload.load("gpt-tiny")
    assert list(RankBatches(tiny, 100, 0, 0, 1, 7, 20)) == list(RankBatches(tiny, 100, 0, 0, 1, 0, 20))[14:]


def test_the_corpus_is_the_text_byte_by_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BMP_CACHE", str(tmp_path))
    tokens = prepare_corpus(Data(corpus="prompts", tokenizer="bytes"))
    text = bytes(map_tokens(tokens.path).astype("uint8"))
    assert b"baking soda" in text
    assert tokens.tokens == len(text) > 60_000
    samples = TextSamples(tokens.path, 64)
    assert bytes(samples[3].tolist()) == text[3 * 65 : 4 * 65]
    path = Path(tokens.path)
    path.chmod(0o644)
    path.write_bytes(b"\0" + path.read_bytes()[1:])
    assert bytes(map_tokens(prepare_corpus(Data(corpus="prompts", tokenizer="bytes")).path).astype("uint8")) == text


def test_the_standard_library_is_a_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BMP_CACHE", str(tmp_path))
    tokens = prepare_corpus(Data(corpus="stdlib", tokenizer="bytes"))
    assert tokens.tokens > 4_000_000
    assert b"class ABCMeta" in bytes(map_tokens(tokens.path).astype("uint8"))


def test_holes_are_asked_for_and_the_same_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BMP_CACHE", str(tmp_path))
    tokens = prepare_corpus(Data(corpus="prompts", tokenizer="bytes"))
    samples = Masked(TextSamples(tokens.path, 64), 255, 1)
    inputs, labels = samples[5]
    assert samples[5].equal(samples[5])
    assert ((inputs == 255) == (labels != IGNORED_LABEL)).all()
    assert 1 <= int((labels != IGNORED_LABEL).sum()) < 30
