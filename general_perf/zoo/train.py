"""Small models trained here, in seconds, seeded, on real data that scikit-learn carries; kept in the model cache.

`digits-resnet` is transformers' ResNet over scikit-learn's handwritten digits; `cancer-wide-deep` is wide & deep over the
Wisconsin breast cancer data. Train and test samples are split once, seeded and stratified; the test half is what
`bmp general` judges accuracy on, and training never sees it.

    python -m general_perf.zoo.train digits-resnet     # trains anew and prints the accuracy
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bytemlperf.models.cache import built_folder
from general_perf.failures import StageError

SEED = 0
DIGITS_EPOCHS, CANCER_EPOCHS = 24, 60
BATCH = 64
WEIGHTS, FACTS = "model.safetensors", "training.json"
CANCER_BINS = 8
"""Half of the breast cancer columns are given as quantile bins, so that embeddings have something to embed."""
RECIPE_VERSION = 2

Split = tuple[Any, Any, Any, Any]


def digits_split() -> Split:
    """Images [n, 3, 32, 32] float in −1…1 and labels: train, test. The 8×8 pictures are enlarged fourfold."""
    import numpy as np
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data = load_digits()
    pictures = np.kron(data.images, np.ones((4, 4))).astype(np.float32) / 8.0 - 1.0
    images = np.repeat(pictures[:, None], 3, axis=1)
    return tuple(train_test_split(images, data.target, test_size=0.5, random_state=SEED, stratify=data.target))  # type: ignore[return-value]


def cancer_split() -> Split:
    """({dense [n, 15], categories [n, 15]}, labels): train, test. Scaling and bin edges come from the train half alone."""
    import numpy as np
    from sklearn.datasets import load_breast_cancer
    from sklearn.model_selection import train_test_split

    data = load_breast_cancer()
    train, test, train_labels, test_labels = train_test_split(
        data.data, data.target, test_size=0.5, random_state=SEED, stratify=data.target
    )
    mean, std = train.mean(axis=0), train.std(axis=0)
    edges = np.quantile(train, np.linspace(0, 1, CANCER_BINS + 1)[1:-1], axis=0)

    def inputs(rows: Any) -> dict[str, Any]:
        dense = ((rows - mean) / std)[:, 0::2].astype(np.float32)
        binned = np.stack([np.searchsorted(edges[:, column], rows[:, column]) for column in range(1, rows.shape[1], 2)], axis=1)
        return {"dense": dense, "categories": binned.astype(np.int64)}

    return inputs(train), inputs(test), train_labels, test_labels


def digits_model() -> Any:
    """The untrained network for the digits."""
    import torch
    from transformers import ResNetConfig, ResNetForImageClassification

    torch.manual_seed(SEED)
    return ResNetForImageClassification(ResNetConfig(embedding_size=16, hidden_sizes=[32, 64], depths=[1, 1], num_labels=10))


def cancer_model() -> Any:
    """The untrained network for breast cancer."""
    import torch

    from general_perf.zoo.ranking import WideDeep

    torch.manual_seed(SEED)
    return WideDeep(numbers=15, cardinalities=[CANCER_BINS] * 15, embedding=4, hidden=(32, 16))


def train_digits() -> tuple[Any, dict[str, float]]:
    """Model and test accuracy."""
    import torch

    train, test, train_labels, test_labels = digits_split()
    model = digits_model()
    images, labels = torch.from_numpy(train), torch.from_numpy(train_labels)
    _fit(
        model,
        lambda rows: torch.nn.functional.cross_entropy(model(pixel_values=images[rows]).logits, labels[rows]),
        len(labels),
        DIGITS_EPOCHS,
    )
    with torch.inference_mode():
        found = model(pixel_values=torch.from_numpy(test)).logits.argmax(dim=1).numpy()
    return model, {"top1": float((found == test_labels).mean())}


def train_cancer() -> tuple[Any, dict[str, float]]:
    """Model and test AUC."""
    import torch
    from sklearn.metrics import roc_auc_score

    train, test, train_labels, test_labels = cancer_split()
    model = cancer_model()
    given = {name: torch.from_numpy(array) for name, array in train.items()}
    labels = torch.from_numpy(train_labels).float()

    def loss(rows: Any) -> Any:
        logits = model(**{name: array[rows] for name, array in given.items()})[:, 0]
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, labels[rows])

    _fit(model, loss, len(labels), CANCER_EPOCHS)
    with torch.inference_mode():
        logits = model(**{name: torch.from_numpy(array) for name, array in test.items()})[:, 0].numpy()
    return model, {"auc": float(roc_auc_score(test_labels, logits))}


RECIPES: dict[str, tuple[Callable[[], tuple[Any, dict[str, float]]], Callable[[], Any]]] = {
    "digits-resnet": (train_digits, digits_model),
    "cancer-wide-deep": (train_cancer, cancer_model),
}


def trained(recipe: str) -> tuple[Any, str]:
    """The trained model in eval mode, trained now unless it is in the cache; and what it reached, in words."""
    from safetensors.torch import load_file

    if recipe not in RECIPES:
        raise StageError("missing_weights", f"there is no training recipe '{recipe}'", f"take one of {', '.join(RECIPES)}")
    folder = built_folder(f"general-{recipe}", _recipe(recipe), lambda made: _build(recipe, made))
    model = RECIPES[recipe][1]()
    model.load_state_dict(load_file(folder / WEIGHTS), strict=True)
    facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    reached = ", ".join(f"{name} {value:.4f}" for name, value in facts["test"].items())
    return model.eval(), f"{recipe}, seed {SEED}, {reached} on the test half"


def _recipe(recipe: str) -> dict[str, Any]:
    return {"recipe": recipe, "version": RECIPE_VERSION, "seed": SEED, "epochs": [DIGITS_EPOCHS, CANCER_EPOCHS]}


def _build(recipe: str, folder: Path) -> dict[str, str]:
    from safetensors.torch import save_file

    model, reached = RECIPES[recipe][0]()
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / WEIGHTS)
    (folder / FACTS).write_text(json.dumps({"test": reached}), encoding="utf-8")
    return {name: version(name) for name in ("torch", "transformers", "scikit-learn")}


def _fit(model: Any, loss_of: Callable[[Any], Any], count: int, epochs: int) -> None:
    """On one thread: sums come in the same order on every machine, and small layers gain nothing from more."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        _epochs(model, loss_of, count, epochs)
    finally:
        torch.set_num_threads(threads)


def _epochs(model: Any, loss_of: Callable[[Any], Any], count: int, epochs: int) -> None:
    import torch

    shuffle = torch.Generator().manual_seed(SEED)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-2)
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(count, generator=shuffle).split(BATCH):
            optimizer.zero_grad()
            loss_of(rows).backward()
            optimizer.step()
    model.eval()


if __name__ == "__main__":
    print(json.dumps({sys.argv[1]: RECIPES[sys.argv[1]][0]()[1]}))
