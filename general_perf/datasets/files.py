"""Real files of many types: those of installed packages, whose names tell their type. For file type detection.

The truth is the ending of the name, of endings that mean one type alone. Which files there are depends on what is
installed, so figures compare between backends on one machine, and between machines with the same environment.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from general_perf.backends.contract import Array
from general_perf.card import Card, Package
from general_perf.datasets.contract import Dataset, spread
from general_perf.failures import StageError

PACKAGES = ("magika", "networkx", "numpy", "onnx", "plotly", "scikit-learn", "scipy", "silero-vad", "torch", "transformers")
NAMED_ALIKE = ("json", "css", "csv", "png", "yaml", "toml", "svg", "npz", "npy", "wav", "rst", "cpp", "safetensors", "onnx")
TYPES = {f".{name}": name for name in NAMED_ALIKE} | {
    ".py": "python",
    ".js": "javascript",
    ".md": "markdown",
    ".jpg": "jpeg",
    ".so": "elf",
    ".gz": "gzip",
    ".cuh": "cpp",
    ".hpp": "cpp",
}
SMALLEST_BYTES = 64


class Settings(msgspec.Struct):
    """What a magika model says of itself: its labels in the order of its outputs, and what it reads of a file."""

    target_labels_space: list[str]
    block_size: int
    beg_size: int
    end_size: int
    padding_token: int


def installed_files(card: Card, limit: int) -> Dataset:
    """Files of PACKAGES, spread evenly over the types; top-1 and macro F1."""
    from sklearn.metrics import accuracy_score, f1_score

    settings = _settings(card)
    space = settings.target_labels_space
    by_type: dict[str, list[Path]] = {}
    for path in _files():
        if TYPES[path.suffix] in space:
            by_type.setdefault(TYPES[path.suffix], []).append(path)
    if not by_type:
        cause = "none of the packages whose files are read is installed"
        raise StageError("missing_dataset", cause, f"install one of {', '.join(PACKAGES)}")
    count = max(1, limit // len(by_type))
    chosen = [(path, label) for label in sorted(by_type) for path in spread(by_type[label], count)]
    judged = {path for path, _ in chosen}
    others = {label: [path for path in by_type[label] if path not in judged] for label in sorted(by_type)}

    def metrics(answers: Array, truth: Sequence[int]) -> dict[str, float]:
        return {
            "top1": float(accuracy_score(truth, answers)),
            "f1_macro": float(f1_score(truth, answers, labels=sorted(set(truth)), average="macro", zero_division=0)),
        }

    return Dataset(
        name="installed-files",
        source=f"files of installed packages, type by the name's ending: {', '.join(sorted(by_type))}",
        samples=[path for path, _ in chosen],
        labels=[space.index(label) for _, label in chosen],
        whole=sum(len(paths) for paths in by_type.values()),
        preprocess=lambda path: {card.inputs[0].name: features(path, settings)},
        postprocess=lambda _path, outputs: np.int64(outputs[card.outputs[0]].argmax()),
        metrics=metrics,
        decisions=np.asarray,
        calibration=[paths[turn] for turn in range(0, 8, 2) for paths in others.values() if turn < len(paths)],  # type after type
    )


def features(path: Path, settings: Settings) -> Array:
    """What magika reads of a file: the first bytes after leading blanks, the last ones before trailing blanks, filled up."""
    block, head, tail = settings.block_size, settings.beg_size, settings.end_size
    with path.open("rb") as file:
        first = file.read(block).lstrip()[:head]
        size = file.seek(0, 2)
        file.seek(max(0, size - block))
        last = file.read(block).rstrip()[-tail:]
    values: Array = np.full(head + tail, settings.padding_token, dtype=np.int32)
    values[: len(first)] = list(first)
    values[head + tail - len(last) :] = list(last)
    return values


def _settings(card: Card) -> Settings:
    source = card.source
    folder = source.folder() if isinstance(source, Package) else None
    if folder is None or not isinstance(source, Package):
        raise StageError("missing_dataset", f"{card.name}'s labels come with its package", "pip install --no-deps magika")
    return msgspec.json.decode((folder / source.path).with_name("config.min.json").read_bytes(), type=Settings)


def _files() -> list[Path]:
    """Files of the packages that are installed, by package and path."""
    files: list[Path] = []
    for name in PACKAGES:
        try:
            listed = importlib.metadata.files(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        paths = (Path(str(file.locate())) for file in sorted(listed, key=str) if file.suffix in TYPES)
        files += [path for path in paths if path.is_file() and path.stat().st_size >= SMALLEST_BYTES]
    return files
