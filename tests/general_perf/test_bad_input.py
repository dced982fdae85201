"""Bad input by hand, as somebody types it: a row with the reason and the mend, never a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.general_perf.vendor import relu_card

BMP = [sys.executable, "-c", "from bytemlperf.app import main; main()", "general"]
ROOT = Path(__file__).resolve().parents[2]


def newer_opset(folder: Path) -> None:
    import onnx

    model = onnx.load(str(folder / "relu.onnx"))
    model.opset_import[0].version = 99
    onnx.save(model, str(folder / "relu.onnx"))


def cut(folder: Path) -> None:
    path = folder / "relu.onnx"
    path.write_bytes(path.read_bytes()[:40])


def other_shape(folder: Path) -> None:
    path = folder / "relu.yaml"
    path.write_text(path.read_text().replace("shape: [batch, 8]", "shape: [batch, 16]"))


def absent_dataset(folder: Path) -> None:
    path = folder / "relu.yaml"
    path.write_text(path.read_text() + "dataset: imagenet\n")


def nothing(_folder: Path) -> None:
    return None


@pytest.mark.parametrize(
    ("backend", "spoil", "flags", "error_class", "reason", "fix"),
    [
        ("onnxruntime", lambda folder: (folder / "relu.onnx").unlink(), [], "missing_weights", "relu.onnx is not there", "put the"),
        ("openvino", cut, [], "corrupt_weights", "relu.onnx is not an ONNX", "download or rebuild it"),
        ("onnxruntime", newer_opset, [], "unsupported_opset", "opset", "older opset"),
        ("openvino", newer_opset, [], "unsupported_opset", "relu.onnx wants opset 99", "older opset"),
        ("openvino", other_shape, [], "shape_mismatch", "takes x as [None, 8], the card gives x as [1, 16]", "fix the card's shape"),
        ("onnxruntime", nothing, ["--batch-size", "2000000000"], "out_of_memory", "59.6 GiB for its inputs alone", "smaller --batch-size"),
        ("openvino", absent_dataset, ["--stage", "accuracy"], "missing_dataset", "the dataset imagenet is not here", "sklearn-digits"),
    ],
)
def test_a_row_with_the_reason_and_the_mend(tmp_path, backend, spoil, flags, error_class, reason, fix):
    relu_card(tmp_path)
    spoil(tmp_path)
    stages = [] if "--stage" in flags else ["--stage", "performance"]
    command = [*BMP, "relu.yaml", "--backend", backend, "--iterations", "2", "--memory-limit", "4GiB", *stages, *flags]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--runs-dir", "runs"], capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=120, check=False
    )
    assert done.returncode == 1, done.stderr
    (folder,) = (tmp_path / "runs").iterdir()
    (row,) = json.loads((folder / "summary.json").read_text())["rows"]
    assert (row["status"], row["error_class"]) == ("failed", error_class)
    assert reason in row["reason"]
    assert fix in row["fix"]
    assert f"{error_class}: " in done.stdout
    assert row["fix"] in " ".join(done.stdout.split())
    assert "Traceback" not in done.stdout + done.stderr
