"""Weights from files: whole ones load, and what is wrong with the others is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from general_perf.backends.contract import LoadOptions
from general_perf.backends.registry import backend
from general_perf.card import load_card, zoo
from general_perf.datasets.inputs import make_inputs
from general_perf.failures import StageError, classify
from general_perf.zoo.source import build
from tests.general_perf.models import options
from tests.general_perf.vendor import relu_card


def resnet():
    return zoo()["resnet50"].at_size("small")


def refused(card, weights: Path | None = None) -> StageError:
    with pytest.raises(StageError) as raised:
        build(card, weights)
    return raised.value


def test_a_missing_file_is_named(tmp_path):
    error = refused(resnet(), tmp_path / "none.safetensors")
    assert error.error_class == "missing_weights"
    assert "none.safetensors is not there" in error.cause


@pytest.mark.parametrize("name", ["x.safetensors", "x.onnx", "x.pt"])
@pytest.mark.parametrize("content", [b"", b"\x10" * 300, b"PK\x03\x04cut"])
def test_a_damaged_file_is_no_traceback(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    card = load_card(relu_card(tmp_path, "relu")) if name.endswith(".onnx") else resnet()
    assert refused(card, path).error_class == "corrupt_weights"


def test_a_cut_onnx_file(tmp_path):
    whole = build(zoo()["magika"]).onnx_path
    path = tmp_path / "cut.onnx"
    path.write_bytes(whole.read_bytes()[:100_000])
    assert refused(zoo()["magika"], path).error_class == "corrupt_weights"


def test_safetensors_of_the_architecture_are_the_weights_taken(tmp_path):
    import torch
    from safetensors.torch import save_file

    model = build(resnet())
    state = {name: tensor.clone() for name, tensor in model.module.model.state_dict().items()}
    state["classifier.1.bias"] = torch.full_like(state["classifier.1.bias"], 7.0)
    save_file(state, tmp_path / "mine.safetensors")
    mine = build(resnet(), tmp_path / "mine.safetensors")
    assert mine.weights == "file mine.safetensors"
    assert (mine.module.model.classifier[1].bias == 7.0).all()
    del state["classifier.1.bias"]
    save_file(state, tmp_path / "less.safetensors")
    error = refused(resnet(), tmp_path / "less.safetensors")
    assert (error.error_class, "classifier.1.bias" in error.cause) == ("corrupt_weights", True)
    error = refused(zoo()["resnet50"], tmp_path / "mine.safetensors")
    assert error.error_class == "shape_mismatch"


def test_an_onnx_file_of_another_shape_than_the_card(tmp_path):
    path = relu_card(tmp_path)
    path.write_text(path.read_text().replace("shape: [batch, 8]", "shape: [batch, 16]"))
    error = refused(load_card(path))
    assert error.error_class == "shape_mismatch"
    assert "takes x as [None, 8], the card gives x as [1, 16]" in error.cause
    path.write_text(path.read_text().replace("  - {name: x", "  - {name: w, shape: [batch, 1], kind: features}\n  - {name: x"))
    assert "has 1 inputs, the card 2" in refused(load_card(path)).cause


def test_an_onnx_file_of_another_dtype_than_the_card(tmp_path):
    path = relu_card(tmp_path)
    path.write_text(path.read_text().replace("kind: features", "kind: features, dtype: int64"))
    error = refused(load_card(path))
    assert (error.error_class, "takes x as float32, the card gives x as int64" in error.cause) == ("shape_mismatch", True)


def test_weights_beside_an_onnx_file_are_taken_along_or_missed(tmp_path):
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    card = load_card(relu_card(tmp_path))
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 8]) for name in ("x", "y"))
    weights = numpy_helper.from_array(np.full(8, 3.0, dtype=np.float32), "w")
    graph = helper.make_graph([helper.make_node("Mul", ["x", "w"], ["y"])], "g", [x], [y], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.save(model, str(tmp_path / "mul.onnx"), save_as_external_data=True, location="mul.weights", size_threshold=0)
    source, inputs = build(card, tmp_path / "mul.onnx"), make_inputs(card, 2, 0)
    for name in ("onnxruntime", "openvino"):
        (tmp_path / name).mkdir()
        maker = backend(name)
        session = maker.load(maker.compile(source, options(source, tmp_path / name)), LoadOptions(device="cpu", threads=1))
        assert np.allclose(session.predict(inputs)["y"], inputs["x"] * 3)
    beside = tmp_path / "mul.weights"
    beside.write_bytes(beside.read_bytes()[:20])
    error = refused(card, tmp_path / "mul.onnx")
    assert (error.error_class, "mul.weights is shorter" in error.cause) == ("corrupt_weights", True)
    beside.unlink()
    error = refused(card, tmp_path / "mul.onnx")
    assert (error.error_class, "mul.weights, which is not beside it" in error.cause) == ("missing_weights", True)


def test_a_checkpoint_folder_is_read_by_the_class_that_the_card_names(tmp_path):
    from safetensors.torch import load_file, save_file

    model = build(resnet())
    model.module.model.classifier[1].bias.fill_(7.0)
    model.module.model.save_pretrained(tmp_path / "mine")
    mine = build(resnet(), tmp_path / "mine")
    assert mine.weights == "checkpoint mine"
    assert (mine.module.model.classifier[1].bias == 7.0).all()
    part = load_file(tmp_path / "mine" / "model.safetensors")
    lost = part.pop("classifier.1.weight")
    save_file(part, tmp_path / "mine" / "model.safetensors")
    error = refused(resnet(), tmp_path / "mine")
    assert (error.error_class, error.cause) == ("corrupt_weights", "mine lacks classifier.1.weight")
    save_file({**part, "classifier.1.weight": lost[:7].clone()}, tmp_path / "mine" / "model.safetensors")
    error = refused(resnet(), tmp_path / "mine")
    assert (error.error_class, "has classifier.1.weight as [7, 64]" in error.cause) == ("shape_mismatch", True)
    (tmp_path / "mine" / "config.json").write_text("{broken")
    with pytest.raises(OSError, match="not a valid JSON") as raised:
        build(resnet(), tmp_path / "mine")
    assert classify(raised.value, "compile").error_class == "corrupt_weights"


def test_an_opset_that_onnx_runtime_lacks(tmp_path):
    import onnx

    card = load_card(relu_card(tmp_path))
    path = tmp_path / "relu.onnx"
    model = onnx.load(str(path))
    model.opset_import[0].version = 99
    onnx.save(model, str(path))
    source = build(card)
    with pytest.raises(Exception, match="opset") as raised:
        backend("onnxruntime").compile(source, options(source, tmp_path))
    assert classify(raised.value, "compile").error_class == "unsupported_opset"


def test_a_hub_checkpoint_that_is_not_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    path = relu_card(tmp_path)
    path.write_text(
        path.read_text().replace("{kind: local, path: ", "{kind: hub, id: nobody/nothing} # ").replace("[batch, 8]", "[batch, 8]")
    )
    error = refused(load_card(path))
    assert error.error_class == "missing_weights"
    assert "hf download nobody/nothing" in error.fix


def test_torchscript_runs_where_torch_runs(tmp_path):
    import torch

    class Double(torch.nn.Module):
        def forward(self, x):
            return x * 2

    torch.jit.script(Double()).save(str(tmp_path / "double.pt"))
    card = load_card(relu_card(tmp_path))
    model = build(card, tmp_path / "double.pt")
    inputs = make_inputs(card, 3, 0)
    for name in ("torch-eager", "openvino"):
        (tmp_path / name).mkdir()
        maker = backend(name)
        session = maker.load(maker.compile(model, options(model, tmp_path / name)), LoadOptions(device="cpu", threads=1))
        assert np.allclose(session.predict(inputs)["y"], inputs["x"] * 2)
    with pytest.raises(StageError, match="exports no TorchScript"):
        backend("onnxruntime").compile(model, options(model, tmp_path))


def test_random_weights_are_seeded():
    one, two = (build(resnet()).module.model.state_dict() for _ in range(2))
    assert all(bool((one[name] == two[name]).all()) for name in one)
    assert build(resnet()).weights == "random weights, seed 0"
