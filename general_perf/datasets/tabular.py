"""Data that scikit-learn carries: samples split once into halves, seeded and stratified. Training (general_perf.zoo.train) never sees
the test half, which is what `bmp general` judges accuracy on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from general_perf.backends.contract import Array, Outputs
from general_perf.card import Card
from general_perf.datasets.contract import Dataset, spread

SEED = 0
CANCER_BINS = 8
"""Half of the breast cancer columns are given as quantile bins, so that embeddings have something to embed."""


class Halves(NamedTuple):
    """Inputs by name with their labels, to train with and to test with."""

    train: Outputs
    test: Outputs
    train_labels: Array
    test_labels: Array


def digits_split() -> Halves:
    """`pixel_values` [n, 3, 32, 32] float in −1…1. The 8×8 pictures are enlarged fourfold."""
    from sklearn.datasets import load_digits

    data = load_digits()
    pictures = np.kron(data.images, np.ones((4, 4))).astype(np.float32) / 8.0 - 1.0
    train, test, *labels = _split(np.repeat(pictures[:, None], 3, axis=1), data.target)
    return Halves({"pixel_values": train}, {"pixel_values": test}, *labels)


def cancer_split() -> Halves:
    """`dense` and `categories`, [n, 15] each. Scaling and bin edges come from the train half alone."""
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer()
    train, test, *labels = _split(data.data, data.target)
    mean, std = train.mean(axis=0), train.std(axis=0)
    edges = np.quantile(train, np.linspace(0, 1, CANCER_BINS + 1)[1:-1], axis=0)

    def inputs(rows: Array) -> Outputs:
        dense = ((rows - mean) / std)[:, 0::2].astype(np.float32)
        binned = np.stack([np.searchsorted(edges[:, column], rows[:, column]) for column in range(1, rows.shape[1], 2)], axis=1)
        return {"dense": dense, "categories": binned.astype(np.int64)}

    return Halves(inputs(train), inputs(test), *labels)


def _split(samples: Array, labels: Array) -> list[Array]:
    from sklearn.model_selection import train_test_split

    halves: list[Array] = train_test_split(samples, labels, test_size=0.5, random_state=SEED, stratify=labels)
    return halves


def digits(_card: Card, limit: int) -> Dataset:
    """Handwritten digits; top-1 and macro F1."""
    from sklearn.metrics import accuracy_score, f1_score

    def metrics(answers: Array, truth: Sequence[int]) -> dict[str, float]:
        return {"top1": float(accuracy_score(truth, answers)), "f1_macro": float(f1_score(truth, answers, average="macro"))}

    return _dataset("digits", digits_split(), limit, lambda logits: np.int64(logits.argmax()), metrics, np.asarray)


def breast_cancer(_card: Card, limit: int) -> Dataset:
    """Wisconsin breast cancer; AUC, accuracy and F1 at a probability of a half."""
    from sklearn.metrics import accuracy_score, f1_score, roc_auc_score

    def decided(answers: Array) -> Array:
        return answers > 0

    def metrics(answers: Array, truth: Sequence[int]) -> dict[str, float]:
        scores = {"accuracy": accuracy_score(truth, decided(answers)), "f1": f1_score(truth, decided(answers))}
        return {"auc": float(roc_auc_score(truth, answers)), **{name: float(score) for name, score in scores.items()}}

    return _dataset("breast-cancer", cancer_split(), limit, lambda logits: np.float64(logits[0]), metrics, decided)


def _dataset(
    name: str,
    halves: Halves,
    limit: int,
    answer: Callable[[Array], np.generic],
    metrics: Callable[[Array, Sequence[int]], dict[str, float]],
    decisions: Callable[[Array], Array],
) -> Dataset:
    count = len(halves.test_labels)
    chosen = spread(range(count), limit)
    return Dataset(
        name=f"sklearn-{name}",
        source=f"scikit-learn load_{name.replace('-', '_')}, the test half",
        samples=_rows(halves.test, chosen),
        labels=[int(halves.test_labels[index]) for index in chosen],
        whole=count,
        preprocess=lambda row: row,
        postprocess=lambda _row, outputs: answer(outputs["logits"]),
        metrics=metrics,
        decisions=decisions,
        calibration=_rows(halves.train, range(len(halves.train_labels))),
    )


def _rows(half: Outputs, places: Iterable[int]) -> list[Outputs]:
    return [{name: array[row] for name, array in half.items()} for row in places]
