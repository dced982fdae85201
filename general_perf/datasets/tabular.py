"""Data that scikit-learn carries: the halves that general_perf.zoo.train kept for testing."""

from __future__ import annotations

from typing import Any

from general_perf.card import Card
from general_perf.datasets.contract import Dataset, spread


def digits(_card: Card, limit: int) -> Dataset:
    """Handwritten digits; top-1 and macro F1."""
    import numpy as np
    from sklearn.metrics import accuracy_score, f1_score

    from general_perf.zoo.train import digits_split

    train, test, _, labels = digits_split()
    chosen = spread(range(len(test)), limit)

    def metrics(answers: Any, truth: Any) -> dict[str, float]:
        return {"top1": float(accuracy_score(truth, answers)), "f1_macro": float(f1_score(truth, answers, average="macro"))}

    return Dataset(
        name="sklearn-digits",
        source="scikit-learn load_digits, the test half",
        samples=[test[place] for place in chosen],
        labels=[int(labels[place]) for place in chosen],
        whole=len(test),
        preprocess=lambda picture: {"pixel_values": picture},
        postprocess=lambda _sample, outputs: np.int64(outputs["logits"].argmax()),
        metrics=metrics,
        decisions=np.asarray,
        calibration=list(train),
    )


def breast_cancer(_card: Card, limit: int) -> Dataset:
    """Wisconsin breast cancer; AUC, accuracy and F1 at a probability of a half."""
    import numpy as np
    from sklearn.metrics import accuracy_score, f1_score, roc_auc_score

    from general_perf.zoo.train import cancer_split

    train, test, _, labels = cancer_split()
    chosen = spread(range(len(labels)), limit)

    def rows(half: dict[str, Any], places: Any) -> list[dict[str, Any]]:
        return [{name: array[place] for name, array in half.items()} for place in places]

    def metrics(answers: Any, truth: Any) -> dict[str, float]:
        decided = np.asarray(answers) > 0
        return {
            "auc": float(roc_auc_score(truth, answers)),
            "accuracy": float(accuracy_score(truth, decided)),
            "f1": float(f1_score(truth, decided)),
        }

    return Dataset(
        name="sklearn-breast-cancer",
        source="scikit-learn load_breast_cancer, the test half",
        samples=rows(test, chosen),
        labels=[int(labels[place]) for place in chosen],
        whole=len(labels),
        preprocess=lambda row: row,
        postprocess=lambda _sample, outputs: np.float64(outputs["logits"][0]),
        metrics=metrics,
        decisions=lambda answers: np.asarray(answers) > 0,
        calibration=rows(train, range(len(train["dense"]))),
    )
