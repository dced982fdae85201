"""Which data set a card names."""

from __future__ import annotations

import math
from collections.abc import Callable

from general_perf.card import SQUAD_FILE, Card
from general_perf.datasets import files, pages, questions, tabular, text
from general_perf.datasets.contract import Dataset
from general_perf.failures import StageError

MAKERS: dict[str, Callable[[Card, int], Dataset]] = {
    "sklearn-digits": tabular.digits,
    "sklearn-breast-cancer": tabular.breast_cancer,
    "docstring-retrieval": text.retrieval,
    "docstring-next-token": text.next_token,
    "installed-files": files.installed_files,
    "text-pages": pages.text_pages,
    "python-questions": questions.questions,
}


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
    name = str(card.dataset)
    if name.startswith(SQUAD_FILE):
        return questions.questions(card, limit)
    if name not in MAKERS:
        fix = f"take one that packages carry ({', '.join(MAKERS)}), or leave accuracy out with --stage"
        raise StageError("missing_dataset", f"the dataset {name} is not here", fix)
    return MAKERS[name](card, limit)
