"""Small models trained here, in seconds, seeded, on real data that scikit-learn carries; kept in the model cache.

`digits-resnet` is transformers' ResNet over scikit-learn's handwritten digits; `cancer-wide-deep` is wide & deep over the
Wisconsin breast cancer data. Both learn from the train half alone (general_perf.datasets.tabular).

    python -m general_perf.zoo.train digits-resnet     # trains anew and prints the accuracy
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from bytemlperf.extras import require
from bytemlperf.models.cache import built_folder
from general_perf.backends.contract import Array
from general_perf.datasets.tabular import CANCER_BINS, SEED, Halves, cancer_split, digits_split
from general_perf.failures import StageError
from general_perf.zoo.modules import WideDeep

require("training a model", "general", "torch")
import torch  # noqa: E402
from torch.nn import functional  # noqa: E402

DIGITS_EPOCHS, CANCER_EPOCHS = 24, 60
BATCH = 64
WEIGHTS, FACTS = "model.safetensors", "training.json"
RECIPE_VERSION = 2


class Recipe(NamedTuple):
    """Data, the untrained network, its loss from logits and labels, and the figure that the test half gives of the logits."""

    split: Callable[[], Halves]
    model: Callable[[], torch.nn.Module]
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    epochs: int
    test: Callable[[Array, Array], dict[str, float]]


def _digits_model() -> torch.nn.Module:
    from transformers import ResNetConfig, ResNetForImageClassification

    return ResNetForImageClassification(ResNetConfig(embedding_size=16, hidden_sizes=[32, 64], depths=[1, 1], num_labels=10))


def _auc(labels: Array, logits: Array) -> dict[str, float]:
    from sklearn.metrics import roc_auc_score

    return {"auc": float(roc_auc_score(labels, logits[:, 0]))}


RECIPES = {
    "digits-resnet": Recipe(
        digits_split,
        _digits_model,
        functional.cross_entropy,
        DIGITS_EPOCHS,
        lambda labels, logits: {"top1": float((logits.argmax(axis=1) == labels).mean())},
    ),
    "cancer-wide-deep": Recipe(
        cancer_split,
        lambda: WideDeep(numbers=15, cardinalities=[CANCER_BINS] * 15, embedding=4, hidden=(32, 16)),
        lambda logits, labels: functional.binary_cross_entropy_with_logits(logits[:, 0], labels.float()),
        CANCER_EPOCHS,
        _auc,
    ),
}


def trained(name: str) -> tuple[torch.nn.Module, str]:
    """The trained model in eval mode, trained now unless it is in the cache; and what it reached, in words."""
    from safetensors.torch import load_file

    if name not in RECIPES:
        raise StageError("missing_weights", f"there is no training recipe '{name}'", f"take one of {', '.join(RECIPES)}")
    key = {"recipe": name, "version": RECIPE_VERSION, "seed": SEED, "epochs": [DIGITS_EPOCHS, CANCER_EPOCHS]}
    folder = built_folder(f"general-{name}", key, lambda target: _build(name, target))
    model = RECIPES[name].model()
    model.load_state_dict(load_file(folder / WEIGHTS), strict=True)
    facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    reached = ", ".join(f"{figure} {value:.4f}" for figure, value in facts["test"].items())
    return model.eval(), f"{name}, seed {SEED}, {reached} on the test half"


def train(recipe: Recipe) -> tuple[torch.nn.Module, dict[str, float]]:
    """Model and its figure on the test half. On one thread: sums come in the same order on every machine, and small layers
    gain nothing from more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _trained_now(recipe)
    finally:
        torch.set_num_threads(threads)


def _trained_now(recipe: Recipe) -> tuple[torch.nn.Module, dict[str, float]]:
    halves = recipe.split()
    torch.manual_seed(SEED)
    model = recipe.model().train()

    def logits_of(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        answer = model(**inputs)
        return getattr(answer, "logits", answer)  # transformers names its outputs

    inputs = {name: torch.from_numpy(array) for name, array in halves.train.items()}
    labels = torch.from_numpy(halves.train_labels)
    shuffle = torch.Generator().manual_seed(SEED)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-2)
    for _ in range(recipe.epochs):
        for rows in torch.randperm(len(labels), generator=shuffle).split(BATCH):
            optimizer.zero_grad()
            recipe.loss(logits_of({name: array[rows] for name, array in inputs.items()}), labels[rows]).backward()
            optimizer.step()
    model.eval()
    with torch.inference_mode():
        logits = logits_of({name: torch.from_numpy(array) for name, array in halves.test.items()}).numpy()
    return model, recipe.test(halves.test_labels, logits)


def _build(name: str, folder: Path) -> dict[str, str]:
    from safetensors.torch import save_file

    model, reached = train(RECIPES[name])
    save_file({key: tensor.contiguous() for key, tensor in model.state_dict().items()}, folder / WEIGHTS)
    (folder / FACTS).write_text(json.dumps({"test": reached}), encoding="utf-8")
    return {package: version(package) for package in ("torch", "transformers", "scikit-learn")}


if __name__ == "__main__":
    print(json.dumps({sys.argv[1]: train(RECIPES[sys.argv[1]])[1]}))
