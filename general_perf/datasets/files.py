"""Real files of many types: those of installed packages, whose names tell their type. For file type detection.

The truth is the ending of the name, of endings that mean one type alone. Which files there are depends on what is
installed, so figures compare between backends on one machine, and between machines with the same environment.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
from pathlib import Path
from typing import Any

from general_perf.card import Card, Package
from general_perf.datasets.contract import Dataset
from general_perf.failures import StageError

PACKAGES = (
    "magika",
    "networkx",
    "numpy",
    "onnx",
    "plotly",
    "scikit-learn",
    "scipy",
    "silero-vad",
    "torch",
    "transformers",
)
TYPES = {
    ".py": "python",
    ".json": "json",
    ".css": "css",
    ".js": "javascript",
    ".md": "markdown",
    ".csv": "csv",
    ".png": "png",
    ".jpg": "jpeg",
    ".so": "elf",
    ".yaml": "yaml",
    ".toml": "toml",
    ".svg": "svg",
    ".gz": "gzip",
    ".npz": "npz",
    ".npy": "npy",
    ".wav": "wav",
    ".rst": "rst",
    ".cuh": "cpp",
    ".hpp": "cpp",
    ".cpp": "cpp",
    ".safetensors": "safetensors",
    ".onnx": "onnx",
}
SMALLEST_BYTES = 64


def installed_files(card: Card, limit: int) -> Dataset:
    """Files of PACKAGES, spread evenly over the types; top-1 and macro F1."""
    import numpy as np
    from sklearn.metrics import accuracy_score, f1_score

    space, settings = _labels(card)
    by_type: dict[str, list[Path]] = {}
    for path in _files():
        if TYPES[path.suffix] in space:
            by_type.setdefault(TYPES[path.suffix], []).append(path)
    if not by_type:
        raise StageError(
            "missing_dataset", "none of the packages whose files are read is installed", f"install one of {', '.join(PACKAGES)}"
        )
    each = max(1, limit // len(by_type))
    chosen = [(path, label) for label in sorted(by_type) for path in _evenly(by_type[label], each)]

    judged = {path for path, _ in chosen}
    others = {label: [path for path in by_type[label] if path not in judged] for label in sorted(by_type)}

    def metrics(answers: Any, truth: Any) -> dict[str, float]:
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


def features(path: Path, settings: dict[str, Any]) -> Any:
    """What magika reads of a file: the first bytes after leading blanks, the last ones before trailing blanks, filled up."""
    import numpy as np

    block, head, tail, filler = (settings[name] for name in ("block_size", "beg_size", "end_size", "padding_token"))
    with path.open("rb") as file:
        first = file.read(block).lstrip()[:head]
        size = file.seek(0, 2)
        file.seek(max(0, size - block))
        last = file.read(block).rstrip()[-tail:]
    made = np.full(head + tail, filler, dtype=np.int32)
    made[: len(first)] = list(first)
    made[head + tail - len(last) :] = list(last)
    return made


def _labels(card: Card) -> tuple[list[str], dict[str, Any]]:
    """The model's labels in the order of its outputs, and its settings."""
    source = card.source
    spec = importlib.util.find_spec(source.module) if isinstance(source, Package) else None
    if spec is None or spec.origin is None or not isinstance(source, Package):
        raise StageError("missing_dataset", f"{card.name}'s labels come with its package", "pip install --no-deps magika")
    path = (Path(spec.origin).parent / source.path).with_name("config.min.json")
    settings = json.loads(path.read_bytes())
    return list(settings["target_labels_space"]), settings


def _files() -> list[Path]:
    """Files of the packages that are installed, by package and path."""
    found: list[Path] = []
    for name in PACKAGES:
        try:
            listed = importlib.metadata.files(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        paths = (Path(str(each.locate())) for each in sorted(listed, key=str) if each.suffix in TYPES)
        found += [path for path in paths if path.is_file() and path.stat().st_size >= SMALLEST_BYTES]
    return found


def _evenly(paths: list[Path], count: int) -> list[Path]:
    count = min(count, len(paths))
    return [paths[place * len(paths) // count] for place in range(count)]
