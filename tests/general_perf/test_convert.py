"""bmp convert: files that other programs load, checked against the source, and bad input in one line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

CARD = """\
name: ranker
model_class: regular
task: test
source: {kind: architecture, library: own, model: WideDeep, config: {numbers: 4, cardinalities: [3, 5], embedding: 4, hidden: [8]}}
inputs:
  - {name: dense, shape: [batch, 4], kind: uniform}
  - {name: categories, shape: [batch, 2], dtype: int64, kind: categories, high: [3, 5]}
outputs: [logits]
"""


@pytest.fixture
def place(tmp_path) -> Path:
    (tmp_path / "ranker.yaml").write_text(CARD)
    return tmp_path


def convert(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from bytemlperf.app import main; main()", "convert", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    return subprocess.run(command, capture_output=True, text=True, cwd=place, env=environment, timeout=180, check=False)


def inputs(batch: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {"dense": random.random((batch, 4), dtype=np.float32), "categories": random.integers(0, 3, (batch, 2))}


def expected(place: Path, batch: int) -> np.ndarray:
    import torch

    from general_perf.card import load_card
    from general_perf.zoo.source import build

    model = build(load_card(place / "ranker.yaml"))
    with torch.no_grad():
        return model.module(*[torch.from_numpy(each) for each in inputs(batch).values()])[0].numpy()


def test_onnx_and_openvino_answer_alike_at_another_batch(place):
    import onnxruntime
    import openvino

    for arguments in (["--to", "onnx"], ["--to", "openvino"]):
        done = convert(place, "ranker.yaml", *arguments)
        assert done.returncode == 0, done.stderr
        assert "random weights, seed 0" in done.stdout
        assert "within 0.001" in done.stdout
    session = onnxruntime.InferenceSession(str(place / "ranker-fp32.onnx"), providers=["CPUExecutionProvider"])
    assert np.allclose(session.run(None, inputs(5))[0], expected(place, 5), atol=1e-6)
    compiled = openvino.Core().compile_model(str(place / "ranker-fp32.xml"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    assert np.allclose(compiled(list(inputs(5).values()))[0], expected(place, 5), atol=1e-6)


def test_torch_export(place):
    import torch

    assert convert(place, "ranker.yaml", "--to", "torch-export", "-o", "model.pt2").returncode == 0
    loaded = torch.export.load(str(place / "model.pt2")).module()
    ours = loaded(*[torch.from_numpy(each) for each in inputs(5).values()])[0]
    assert np.allclose(ours.detach().numpy(), expected(place, 5), atol=1e-6)


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_an_engine_for_this_machine(place, backend):
    done = convert(place, "magika", "--to", "engine", "--backend", backend)
    assert done.returncode == 0, done.stderr
    assert "within" in done.stdout
    made = [each for each in place.iterdir() if each.suffix != ".yaml"]
    assert len(made) == 1
    assert made[0].stat().st_size > 1_000_000


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["ranker.yaml", "--to", "onxx"], "--to 'onxx' is unknown; did you mean 'onnx'?"),
        (["rankr", "--to", "onnx"], "model 'rankr' is unknown"),
        (["all", "--to", "onnx"], "models; name one"),
        (["ranker.yaml", "--to", "onnx", "-o", "none/x.onnx"], "is not there; make it"),
        (["ranker.yaml", "--to", "onnx", "-o", "ranker.yaml"], "is there already; give another --out, or --force"),
        (["ranker.yaml", "--to", "torch-export", "--precision", "int8"], "is written in fp32 here"),
        (["ranker.yaml", "--to", "engine", "--backend", "torch-eager"], "has no engine files"),
        (["magika", "--to", "torch-export"], "torch reads no ONNX files; use --to onnx or openvino"),
        (["ranker.yaml", "--to", "onnx", "--backend-option", "opset=99"], "opset 99 is not one that ONNX knows here"),
    ],
)
def test_bad_input_is_one_line(place, arguments, said):
    done = convert(place, *arguments)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert said in done.stderr


def test_an_opset_that_the_exporter_does_not_write_is_said(place):
    done = convert(place, "ranker.yaml", "--to", "onnx", "--backend-option", "opset=12")
    assert done.returncode == 2
    assert "wrote opset" in done.stderr
    assert not (place / "ranker-fp32.onnx").exists()
