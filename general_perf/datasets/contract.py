"""A dataset: real samples with labels, how one becomes inputs, how outputs become an answer, how answers are judged.

Metrics are scikit-learn's where it has them. A dataset whose files or package are not there raises StageError.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from general_perf.card import SQUAD_FILE, Card
from general_perf.failures import StageError


@dataclass(frozen=True)
class Dataset:
    """`samples` are raw, `calibration` are others of the same kind, for int8. `judged` is how many items the metrics count
    (questions, queries), where that is not every sample; `whole` is how many of these the full set has.

    `preprocess(sample)` gives the inputs of one, without the batch axis; `postprocess(sample, outputs)` its answer, an
    array of the same shape for every sample. `metrics(answers, labels)` gives figures by name; `decisions(answers)` what
    was decided, to be compared between two backends, item by item. `respond(predict, sample, batch)`, where there is one,
    gives a sample's answer by as many calls as it takes (generation), in place of the one call.
    """

    name: str
    source: str
    samples: Sequence[Any]
    labels: Sequence[Any]
    whole: int
    preprocess: Callable[[Any], dict[str, Any]]
    postprocess: Callable[[Any, dict[str, Any]], Any]
    metrics: Callable[[Any, Any], dict[str, float]]
    decisions: Callable[[Any], Any]
    calibration: Sequence[Any] = ()
    respond: Callable[[Any, Any, int], Any] | None = None
    judged: int | None = None

    @property
    def count(self) -> int:
        """How many items the metrics count."""
        return len(self.samples) if self.judged is None else self.judged


def load_dataset(card: Card, limit: int, percent: float = 100.0) -> Dataset:
    """The card's dataset, at most `limit` samples, and of what is judged at most `percent` of what there is. Raises
    StageError where it is not there."""
    data = _loaded(card, limit)
    most = max(1, math.ceil(data.whole * percent / 100))
    if data.count <= most:
        return data
    taken = data.count if data.respond else len(data.samples)  # what a limit counts: questions, else samples
    return _loaded(card, max(1, taken * most // data.count))


def _loaded(card: Card, limit: int) -> Dataset:
    from general_perf.datasets import files, pages, questions, tabular, text

    makers: dict[str, Callable[[Card, int], Dataset]] = {
        "sklearn-digits": tabular.digits,
        "sklearn-breast-cancer": tabular.breast_cancer,
        "docstring-retrieval": text.retrieval,
        "docstring-next-token": text.next_token,
        "installed-files": files.installed_files,
        "text-pages": pages.text_pages,
        "python-questions": questions.questions,
    }
    name = str(card.dataset)
    if name.startswith(SQUAD_FILE):
        return questions.questions(card, limit)
    if name not in makers:
        fix = f"take one that packages carry ({', '.join(makers)}), or leave accuracy out with --stage"
        raise StageError("missing_dataset", f"the dataset {name} is not here", fix)
    return makers[name](card, limit)


def spread(items: Sequence[Any], limit: int) -> list[Any]:
    """At most `limit` of the items, evenly over all of them."""
    count = min(limit, len(items))
    return [items[place * len(items) // count] for place in range(count)]
