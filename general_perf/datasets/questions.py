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
from typing import Any

from engines.untrusted import decode_json
from general_perf.card import SQUAD_FILE, Card, LanguageModel
from general_perf.datasets.contract import Dataset, spread
from general_perf.failures import StageError

OWN = Path(__file__).parent / "python_questions.json"
MOST_TOKENS = 8
PASSAGE_TOKENS = 140
"""Of a window; the rest is for the question, the examples and the answer."""
EXAMPLES = (
    "Text: The cat sat on the red mat in 1999.\nQuestion: What colour was the mat?\nAnswer: red\n"
    "Question: When did it sit there?\nAnswer: 1999\n\n"
)
NOTHING = -1


@dataclass(frozen=True)
class Feature:
    """A question over one window of its text."""

    question: str
    ids: tuple[int, ...]


def questions(card: Card, limit: int) -> Dataset:
    """At most `limit` questions, each with all of its features."""
    import numpy as np

    path = Path(_named(card)).expanduser() if str(card.dataset).startswith(SQUAD_FILE) else OWN
    every = read_squad(path)
    chosen = spread(every, limit)
    tokenizer = _tokenizer(card)
    length = card.dims["sequence"]
    features = [feature for asked in chosen for feature in features_of(asked, tokenizer, length)]
    truth = {asked["id"]: asked["answers"] for asked in chosen}
    stop = stop_tokens(tokenizer)

    def metrics(answers: Any, _labels: Any) -> dict[str, float]:
        from torchmetrics.functional.text import squad

        said = best_answers(features, np.asarray(answers), tokenizer.decode)
        found = squad(
            [{"id": name, "prediction_text": text} for name, text in said.items()],
            [{"id": name, "answers": {"text": truth[name], "answer_start": [0] * len(truth[name])}} for name in said],
        )
        return {"exact_match": float(found["exact_match"]) / 100, "f1": float(found["f1"]) / 100}

    return Dataset(
        name=path.stem.replace("_", "-"),
        source=f"{len(chosen)} questions, {len(features)} features, from {path.name}; greedy, at most {MOST_TOKENS} tokens",
        samples=features,
        labels=[truth[feature.question] for feature in features],
        whole=len(every),
        judged=len(chosen),
        preprocess=lambda feature: filled(feature.ids, length),
        postprocess=lambda _feature, outputs: outputs,
        metrics=metrics,
        decisions=lambda answers: np.array(list(best_answers(features, np.asarray(answers), tokenizer.decode).values())),
        respond=lambda predict, feature, batch: greedy(predict, feature.ids, length, stop, batch),
    )


def read_squad(path: Path) -> list[dict[str, Any]]:
    """`id`, `context`, `question`, `answers` (texts) of every question. Raises StageError."""
    try:
        held = decode_json(path.read_bytes())
        found = [
            {
                "id": str(asked["id"]),
                "context": _text(each, "context"),
                "question": _text(asked, "question"),
                "answers": [_text(a, "text") for a in asked["answers"]],
            }
            for article in held["data"]
            for each in article["paragraphs"]
            for asked in each["qas"]
            if asked["answers"]
        ]
    except OSError as error:
        raise StageError(
            "missing_dataset", f"{path} can't be read: {error.strerror}", "give the path of a file in SQuAD's format"
        ) from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        cause = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise StageError("missing_dataset", f"{path.name} is not in SQuAD's format: {cause}", "give a SQuAD 1.1 or 2.0 JSON") from None
    if len({asked["id"] for asked in found}) != len(found):
        raise StageError("missing_dataset", f"{path.name} has two questions with one id", "give every question an id of its own")
    if not found:
        raise StageError("missing_dataset", f"{path.name} has no question with an answer", "give a SQuAD 1.1 or 2.0 JSON with some")
    return found


def _text(held: dict[str, Any], key: str) -> str:
    if not isinstance(held[key], str):
        raise TypeError(f"{key} is {held[key]!r:.40}, not text")
    return str(held[key])


def features_of(asked: dict[str, Any], tokenizer: Any, length: int) -> list[Feature]:
    """The question over every window of its text. Raises StageError where one doesn't fit the card's sequence."""
    made = []
    for window in windows(asked["context"], lambda text: len(tokenizer.encode(text).ids), PASSAGE_TOKENS):
        ids = tokenizer.encode(f"{EXAMPLES}Text: {window}\nQuestion: {asked['question']}\nAnswer:").ids
        if len(ids) + MOST_TOKENS > length:
            cause = f"question {asked['id']} takes {len(ids) + MOST_TOKENS} tokens, the card's sequence has {length}"
            raise StageError("shape_mismatch", cause, f"give --dim sequence={len(ids) + MOST_TOKENS}")
        made.append(Feature(asked["id"], tuple(ids)))
    return made


def windows(text: str, tokens: Callable[[str], int], most: int) -> list[str]:
    """The text whole, or windows of whole sentences of at most `most` tokens that overlap by a sentence."""
    sentences = re.split(r"(?<=[.!?]) +", text)
    made: list[str] = []
    first = 0
    while first < len(sentences):
        last = first + 1
        while last < len(sentences) and tokens(" ".join(sentences[first : last + 1])) <= most:
            last += 1
        made.append(" ".join(sentences[first:last]))
        if last == len(sentences):
            break
        first = max(first + 1, last - 1)
    return made


def filled(ids: Sequence[int], length: int) -> dict[str, Any]:
    """Inputs of one window, filled up on the right."""
    import numpy as np

    row: Any = np.zeros(length, dtype=np.int64)
    mask: Any = np.zeros(length, dtype=np.int64)
    row[: len(ids)], mask[: len(ids)] = ids, 1
    return {"input_ids": row, "attention_mask": mask}


def greedy(predict: Any, ids: tuple[int, ...], length: int, stop: frozenset[int], batch: int) -> Any:
    """[MOST_TOKENS + 1]: tokens, filled up with NOTHING, then their mean log probability. The batch is filled by repeating."""
    import numpy as np

    taken: list[int] = []
    logs: list[float] = []
    while len(taken) < MOST_TOKENS:
        ready = filled([*ids, *taken], length)
        logits = predict({name: np.stack([array] * batch) for name, array in ready.items()})["logits"]
        last = logits[0, len(ids) + len(taken) - 1].astype(np.float64)
        token = int(last.argmax())
        logs.append(float(last[token] - last.max() - np.log(np.exp(last - last.max()).sum())))
        if token in stop:
            break
        taken.append(token)
    return np.array([*taken, *[NOTHING] * (MOST_TOKENS - len(taken)), sum(logs) / len(logs)])


def best_answers(features: Sequence[Feature], answers: Any, decode: Callable[[list[int]], str]) -> dict[str, str]:
    """The likeliest feature's text for every question; an empty answer only where every feature gave one."""
    best: dict[str, tuple[bool, float, str]] = {}
    for feature, row in zip(features, answers, strict=True):
        text = decode([int(token) for token in row[:-1] if token != NOTHING]).strip()
        offered = (bool(text), float(row[-1]), text)
        best[feature.question] = max(best.get(feature.question, offered), offered)
    return {question: text for question, (_, _, text) in best.items()}


def stop_tokens(tokenizer: Any) -> frozenset[int]:
    """Ends of text, and every token that begins a new line."""
    found = {token for text, token in tokenizer.get_vocab().items() if text.startswith(("Ċ", "\n", "<|im_end|>", "<|endoftext|>"))}
    return frozenset(found)


def _named(card: Card) -> str:
    return str(card.dataset).removeprefix(SQUAD_FILE)


def _tokenizer(card: Card) -> Any:
    from tokenizers import Tokenizer

    from bytemlperf.models import resolve

    if not isinstance(card.source, LanguageModel):
        raise StageError("missing_dataset", f"{card.name} is not a language model", "leave accuracy out with --stage")
    return Tokenizer.from_file(str(Path(str(resolve(card.source.name).path)) / "tokenizer.json"))
