"""Question answering judged per question, and boxes judged on pages whose truth is known."""

from __future__ import annotations

import json
import math
import re
from types import SimpleNamespace

import numpy as np
import pytest
from msgspec.structs import replace

from general_perf.card import zoo
from general_perf.datasets import pages, questions
from general_perf.datasets.contract import answer_all
from general_perf.datasets.questions import NOTHING, Feature
from general_perf.datasets.registry import load_dataset
from general_perf.datasets.text import language_tokenizer
from general_perf.failures import StageError
from general_perf.job import stages
from tests.general_perf.models import reporter

WORDS = ["<end>", "red", "blue", "mat"]


def decode(tokens: list[int]) -> str:
    return " ".join(WORDS[token] for token in tokens)


def row(*tokens: int, log: float) -> list[float]:
    return [*tokens, *[NOTHING] * (3 - len(tokens)), log]


def test_a_question_with_several_features_counts_once_by_its_likeliest_answer():
    features = [Feature("a", (1,)), Feature("a", (2,)), Feature("b", (3,))]
    answers = np.array([row(1, log=-2.0), row(2, log=-0.5), row(3, log=-9.0)])
    assert questions.best_answers(features, answers, decode) == {"a": "blue", "b": "mat"}


def test_an_empty_answer_is_taken_only_where_there_is_no_other():
    features = [Feature("a", (1,)), Feature("a", (2,)), Feature("b", (3,))]
    answers = np.array([row(log=-0.1), row(2, log=-5.0), row(log=-0.1)])
    assert questions.best_answers(features, answers, decode) == {"a": "blue", "b": ""}


def test_windows_are_whole_sentences_that_overlap_by_one_and_lose_none():
    text = "One two. Three four. Five six. Seven eight."
    made = questions.windows(text, lambda part: len(part.split()), 4)
    assert made == ["One two. Three four.", "Three four. Five six.", "Five six. Seven eight."]
    assert questions.windows(text, lambda part: len(part.split()), 100) == [text]
    assert questions.windows(text, lambda part: len(part.split()), 1) == ["One two.", "Three four.", "Five six.", "Seven eight."]


def test_greedy_decoding_ends_at_a_stop_token_and_fills_the_batch():
    said = {2: 1, 3: 2, 4: 0}  # by how many tokens there are: red, blue, end

    def predict(inputs):
        assert inputs["input_ids"].shape == (2, 8)
        logits = np.zeros((2, 8, len(WORDS)))
        count = int(inputs["attention_mask"][0].sum())
        logits[:, count - 1, said[count]] = 5.0
        return {"logits": logits}

    answer = questions.greedy(predict, (1, 1), 8, frozenset([0]), batch=2)
    assert answer[:3].tolist() == [1, 2, NOTHING]
    one = 5.0 - np.log(np.exp(5.0) + 3)
    assert answer[-1] == pytest.approx(one)


def test_every_answer_of_our_questions_stands_in_its_passage():
    held = questions.read_squad(questions.OWN)
    assert len(held) > 20
    assert len({question.id for question in held}) == len(held)
    assert all(text in question.context for question in held for text in question.answers)


class Perfect:
    """Says the true answer of whichever question it is asked."""

    def __init__(self, tokenizer, length: int) -> None:
        self.tokenizer, self.length = tokenizer, length
        self.answers = {question.text: question.answers[0] for question in questions.read_squad(questions.OWN)}

    def __call__(self, inputs):
        count = int(inputs["attention_mask"][0].sum())
        text = self.tokenizer.decode([int(each) for each in inputs["input_ids"][0][:count]])
        question, _, begun = text.rpartition("Question: ")[2].partition("\nAnswer:")
        left = self.tokenizer.encode(" " + self.answers[question]).ids[len(self.tokenizer.encode(begun).ids) :]
        logits = np.zeros((1, self.length, self.tokenizer.get_vocab_size()), dtype=np.float32)
        logits[0, count - 1, left[0] if left else self.tokenizer.token_to_id("<|im_end|>")] = 9.0
        return {"logits": logits}


def test_who_says_the_truth_is_exactly_right_and_who_says_nothing_is_not():
    card = zoo()["smollm2-qa"]
    tokenizer = language_tokenizer(card)
    data = load_dataset(card, 5)
    answered = answer_all(Perfect(tokenizer, card.dims["sequence"]), data, 1)
    assert len(data.samples) > 5  # a long passage has more features than questions
    assert (data.count, data.whole) == (5, len(questions.read_squad(questions.OWN)))
    assert data.metrics(answered.answers, data.labels) == {"exact_match": 1.0, "f1": 1.0}
    nothing = np.full_like(answered.answers, NOTHING)
    assert data.metrics(nothing, data.labels) == {"exact_match": 0.0, "f1": 0.0}
    assert (data.decisions(answered.answers) != data.decisions(nothing)).sum() == 5


def test_the_record_counts_questions_and_not_their_features(tmp_path):
    card = zoo()["smollm2-qa"]
    session = SimpleNamespace(predict=Perfect(language_tokenizer(card), card.dims["sequence"]))
    (record,) = stages.accuracy(reporter(card, accuracy_samples=5, reference=str(tmp_path)), stages.Loaded(None, None, None, session, {}))
    assert record.samples == 5
    assert record.data_percent == pytest.approx(100 * 5 / len(questions.read_squad(questions.OWN)))


def test_a_percentage_of_questions_is_of_questions():
    every = len(questions.read_squad(questions.OWN))
    data = load_dataset(zoo()["smollm2-qa"], every, percent=10)
    assert data.count == math.ceil(every / 10) == len({feature.question for feature in data.samples})


def squad(*asked: dict, context: object = "This is a mat.") -> str:
    return json.dumps({"data": [{"title": "t", "paragraphs": [{"context": context, "qas": list(asked)}]}]})


ASKED = {"id": "x", "question": "What is it?", "answers": [{"text": "a mat", "answer_start": 8}]}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "can't be read"),
        ("{", "SQuAD's format"),
        ("[" * 100_000, "SQuAD's format"),
        ('{"data": [{}]}', "SQuAD's format: Object missing required field `paragraphs`"),
        (squad(ASKED, context=7), "SQuAD's format: Expected `str`, got `int` - at `$.data[0].paragraphs[0].context`"),
        (squad({**ASKED, "answers": []}), "no question with an answer"),
        (squad(ASKED, ASKED), "two questions with one id"),
    ],
)
def test_a_question_file_that_is_no_such_is_named(tmp_path, text, reason):
    path = tmp_path / "mine.json"
    if text is not None:
        path.write_text(text)
    card = replace(zoo()["smollm2-qa"], dataset=f"squad:{path}")
    with pytest.raises(StageError, match=re.escape(reason)) as caught:
        load_dataset(card, 5)
    assert caught.value.error_class == "missing_dataset"


def test_another_file_of_questions_is_read(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(squad(ASKED))
    data = load_dataset(replace(zoo()["smollm2-qa"], dataset=f"squad:{path}"), 5)
    assert data.labels == [["a mat"]]


# --- boxes ------------------------------------------------------------------------------------------


def test_a_page_is_the_same_every_time_and_its_ink_lies_in_its_boxes():
    picture, boxes = pages.page(1, 0, 320)
    again, _ = pages.page(1, 0, 320)
    assert (picture == again).all()
    assert len(boxes) >= 3
    paper = picture[0, 0].astype(int)
    ink = np.abs(picture.astype(int) - paper).sum(axis=2) > 60
    for left, top, right, bottom in boxes:
        assert ink[int(top) : int(bottom) + 1, int(left) : int(right) + 1].any()
        ink[int(top) : int(bottom) + 1, int(left) : int(right) + 1] = False
    assert not ink.any()


def test_boxes_come_back_from_a_map_that_shrank_them():
    chance = np.zeros((100, 200))
    chance[40:50, 50:150] = 0.9
    chance[80:82, 10:12] = 0.9  # too small
    chance[10:20, 50:150] = 0.4  # text, but not sure enough
    (box,) = pages.boxes_of(chance)
    grow = 10 * 100 * 1.6 / 220
    assert box == pytest.approx((50 - grow, 40 - grow, 150 + grow, 50 + grow, 0.9))


def test_map_of_the_truth_is_one_of_nothing_zero_and_of_half_the_boxes_a_half():
    truth = [[(10.0, 10.0, 60.0, 30.0), (10.0, 50.0, 60.0, 70.0)]] * 2
    whole = [pages.as_rows([(*box, 0.9) for box in boxes]) for boxes in truth]
    half = [pages.as_rows([(*boxes[0], 0.9)]) for boxes in truth]
    none = [pages.as_rows([])] * 2
    assert pages.mean_average_precision(whole, truth, 100)["map"] == pytest.approx(1.0)
    assert pages.mean_average_precision(half, truth, 100)["map"] == pytest.approx(0.5, abs=0.01)
    assert pages.mean_average_precision(none, truth, 100)["map"] == 0.0
    loose = [pages.as_rows([(left, top, right, bottom + 6, 0.9) for left, top, right, bottom in boxes]) for boxes in truth]
    found = pages.mean_average_precision(loose, truth, 100)
    assert found["map_50"] == pytest.approx(1.0)
    assert found["map"] < 0.7
