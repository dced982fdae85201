"""Questions whose answers stand in a text, answered by a language model word for word; exact match and F1 per question.

A text that is longer than a window becomes several features, windows of whole sentences that overlap by one; each feature
gives an answer with the mean log probability of its tokens, and the likeliest one is the question's. The figures are
SQuAD's (torchmetrics), over questions. Tokens are taken greedily, each by a call of the model on the whole window.

`python-questions` is written by hand over passages of Python's documentation, docstrings and licence (Python Software
Foundation License), in SQuAD's format; `squad:FILE.json` reads another file of that format.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from engines.untrusted import UntrustedJson, decode_json
from general_perf.backends.contract import Array, Arrays, Outputs
from general_perf.card import SQUAD_FILE, Card
from general_perf.datasets.contract import Dataset, spread
from general_perf.datasets.text import language_tokenizer
from general_perf.failures import StageError
from general_perf.measure.numerics import log_softmax

if TYPE_CHECKING:
    from tokenizers import Tokenizer

OWN = Path(__file__).parent / "python_questions.json"
MOST_TOKENS = 8
PASSAGE_TOKENS = 140
"""Of a window; the rest is for the question, the examples and the answer."""
EXAMPLES = (
    "Text: The cat sat on the red mat in 1999.\nQuestion: What colour was the mat?\nAnswer: red\n"
    "Question: When did it sit there?\nAnswer: 1999\n\n"
)
NOTHING = -1


class Answer(msgspec.Struct):
    """Of SQuAD's format."""

    text: str


class Asked(msgspec.Struct):
    """One question of SQuAD's format."""

    id: str | int
    question: str
    answers: list[Answer]


class Paragraph(msgspec.Struct):
    """A text with its questions."""

    context: str
    qas: list[Asked]


class Article(msgspec.Struct):
    """Texts of one article."""

    paragraphs: list[Paragraph]


class Squad(msgspec.Struct):
    """A whole file."""

    data: list[Article]


@dataclass(frozen=True)
class Question:
    """A question with the text that it is asked of, and every right answer."""

    id: str
    context: str
    text: str
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Feature:
    """A question over one window of its text."""

    question: str
    ids: tuple[int, ...]


def questions(card: Card, limit: int) -> Dataset:
    """At most `limit` questions, each with all of its features."""
    named = str(card.dataset)
    path = Path(named.removeprefix(SQUAD_FILE)).expanduser() if named.startswith(SQUAD_FILE) else OWN
    every = read_squad(path)
    chosen = spread(every, limit)
    tokenizer = language_tokenizer(card)
    length = card.dims["sequence"]
    features = [feature for question in chosen for feature in features_of(question, tokenizer, length)]
    truth = {question.id: list(question.answers) for question in chosen}
    stop = stop_tokens(tokenizer)

    def metrics(answers: Array, _labels: Sequence[list[str]]) -> dict[str, float]:
        from torchmetrics.functional.text import squad

        said = best_answers(features, answers, tokenizer.decode)
        figures = squad(
            [{"id": name, "prediction_text": text} for name, text in said.items()],
            [{"id": name, "answers": {"text": truth[name], "answer_start": [0] * len(truth[name])}} for name in said],
        )
        return {name: float(figures[name]) / 100 for name in ("exact_match", "f1")}

    return Dataset(
        name=path.stem.replace("_", "-"),
        source=f"{len(chosen)} questions, {len(features)} features, from {path.name}; greedy, at most {MOST_TOKENS} tokens",
        samples=features,
        labels=[truth[feature.question] for feature in features],
        whole=len(every),
        judged=len(chosen),
        preprocess=lambda feature: filled(feature.ids, length),
        postprocess=lambda _feature, outputs: outputs["logits"],
        metrics=metrics,
        decisions=lambda answers: np.array(list(best_answers(features, answers, tokenizer.decode).values())),
        respond=lambda predict, feature, batch: greedy(predict, feature.ids, length, stop, batch),
    )


def read_squad(path: Path) -> list[Question]:
    """Every question of a file that has an answer. Raises StageError."""
    try:
        file = decode_json(path.read_bytes(), Squad)
    except OSError as error:
        cause = f"{path} can't be read: {error.strerror}"
        raise StageError("missing_dataset", cause, "give the path of a file in SQuAD's format") from None
    except UntrustedJson as error:
        raise StageError("missing_dataset", f"{path.name} is not in SQuAD's format: {error}", "give a SQuAD 1.1 or 2.0 JSON") from None
    questions = [
        Question(str(entry.id), paragraph.context, entry.question, tuple(answer.text for answer in entry.answers))
        for article in file.data
        for paragraph in article.paragraphs
        for entry in paragraph.qas
        if entry.answers
    ]
    if len({question.id for question in questions}) != len(questions):
        raise StageError("missing_dataset", f"{path.name} has two questions with one id", "give every question an id of its own")
    if not questions:
        raise StageError("missing_dataset", f"{path.name} has no question with an answer", "give a SQuAD 1.1 or 2.0 JSON with some")
    return questions


def features_of(question: Question, tokenizer: Tokenizer, length: int) -> list[Feature]:
    """The question over every window of its text. Raises StageError where one doesn't fit the card's sequence."""
    features = []
    for window in windows(question.context, lambda text: len(tokenizer.encode(text).ids), PASSAGE_TOKENS):
        ids = tokenizer.encode(f"{EXAMPLES}Text: {window}\nQuestion: {question.text}\nAnswer:").ids
        if len(ids) + MOST_TOKENS > length:
            cause = f"question {question.id} takes {len(ids) + MOST_TOKENS} tokens, the card's sequence has {length}"
            raise StageError("shape_mismatch", cause, f"give --dim sequence={len(ids) + MOST_TOKENS}")
        features.append(Feature(question.id, tuple(ids)))
    return features


def windows(text: str, tokens: Callable[[str], int], most: int) -> list[str]:
    """The text whole, or windows of whole sentences of at most `most` tokens that overlap by a sentence."""
    sentences = re.split(r"(?<=[.!?]) +", text)
    texts: list[str] = []
    first = 0
    while first < len(sentences):
        last = first + 1
        while last < len(sentences) and tokens(" ".join(sentences[first : last + 1])) <= most:
            last += 1
        texts.append(" ".join(sentences[first:last]))
        if last == len(sentences):
            break
        first = max(first + 1, last - 1)
    return texts


def filled(ids: Sequence[int], length: int) -> Outputs:
    """Inputs of one window, filled up on the right."""
    row, mask = np.zeros((2, length), dtype=np.int64)
    row[: len(ids)], mask[: len(ids)] = ids, 1
    return {"input_ids": row, "attention_mask": mask}


def greedy(predict: Callable[[Arrays], Outputs], ids: tuple[int, ...], length: int, stop: frozenset[int], batch: int) -> Array:
    """[MOST_TOKENS + 1]: tokens, filled up with NOTHING, then their mean log probability. The batch is filled by repeating."""
    taken: list[int] = []
    logs: list[float] = []
    while len(taken) < MOST_TOKENS:
        ready = filled([*ids, *taken], length)
        logits = predict({name: np.stack([array] * batch) for name, array in ready.items()})["logits"]
        last: Array = logits[0, len(ids) + len(taken) - 1].astype(np.float64)
        token = int(last.argmax())
        logs.append(float(log_softmax(last)[token]))
        if token in stop:
            break
        taken.append(token)
    return np.array([*taken, *[NOTHING] * (MOST_TOKENS - len(taken)), sum(logs) / len(logs)])


def best_answers(features: Sequence[Feature], answers: Array, decode: Callable[[list[int]], str]) -> dict[str, str]:
    """The likeliest feature's text for every question; an empty answer only where every feature gave one."""
    best: dict[str, tuple[bool, float, str]] = {}
    for feature, row in zip(features, answers, strict=True):
        text = decode([int(token) for token in row[:-1] if token != NOTHING]).strip()
        offered = (bool(text), float(row[-1]), text)
        best[feature.question] = max(best.get(feature.question, offered), offered)
    return {question: text for question, (_, _, text) in best.items()}


def stop_tokens(tokenizer: Tokenizer) -> frozenset[int]:
    """Ends of text, and every token that begins a new line."""
    ends = ("Ċ", "\n", "<|im_end|>", "<|endoftext|>")
    return frozenset(token for text, token in tokenizer.get_vocab().items() if text.startswith(ends))
