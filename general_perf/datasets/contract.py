"""A dataset: real samples with labels, how one becomes inputs, how outputs become an answer, how answers are judged.

Metrics are scikit-learn's. A dataset that needs a package, or files that are not there, raises StageError.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from general_perf.card import Card
from general_perf.failures import StageError


@dataclass(frozen=True)
class Dataset:
    """`samples` are raw; `preprocess(sample)` gives the inputs of one (without the batch axis); `postprocess(outputs)`
    turns one sample's outputs into a prediction; `metrics(predictions, labels)` gives figures between 0 and 1 (or
    said otherwise by the name). `whole` is how many samples the full set has."""

    name: str
    source: str
    samples: Sequence[Any]
    labels: Sequence[Any]
    whole: int
    preprocess: Callable[[Any], dict[str, Any]]
    postprocess: Callable[[dict[str, Any]], Any]
    metrics: Callable[[Sequence[Any], Sequence[Any]], dict[str, float]]
    same: Callable[[Any, Any], bool]
    """Whether two predictions of one sample are the same decision."""


def load_dataset(card: Card, limit: int) -> Dataset:
    """The card's dataset, at most `limit` samples. Raises StageError where it is not there."""
    from general_perf.datasets import files, language, tabular, text

    makers = {
        "sklearn-digits": tabular.digits,
        "sklearn-breast-cancer": tabular.breast_cancer,
        "python-docstrings": text.docstrings,
        "installed-files": files.installed_files,
        "python-docstrings-next-token": language.next_token,
    }
    name = str(card.dataset)
    if name not in makers:
        fix = f"take one of {', '.join(makers)}, or leave accuracy out"
        raise StageError("missing_dataset", f"the dataset {name} is not among those that come with packages", fix)
    return makers[name](card, limit)
