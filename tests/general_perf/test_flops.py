"""FLOPs of a model: the same on every backend, and those of its graph."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from general_perf.backends.registry import backend
from general_perf.datasets.inputs import make_inputs
from general_perf.measure.flops import model_flops
from tests.general_perf.models import options, own, source

BATCH = 2


def covered(model, name, work, precision="fp32"):
    maker = backend(name)
    (work / name).mkdir()
    return maker.coverage(maker.compile(model, options(model, work / name, precision, BATCH)), make_inputs(model.card, BATCH, 0))


def bert(layers: int, sequence: int, hidden: int, feed: int, labels: int) -> int:
    """Of a sample, by the book (Megatron-LM's appendix), with the pooler and the head on the first token."""
    layer = 8 * sequence * hidden * hidden + 4 * sequence * sequence * hidden + 4 * sequence * hidden * feed
    return layers * layer + 2 * hidden * hidden + 2 * hidden * labels


@pytest.mark.parametrize("name", ["bert", "resnet50", "deberta"])
def test_every_backend_says_the_same_of_a_model(name, tmp_path):
    model = source(name)
    found = {each: covered(model, each, tmp_path) for each in ("torch-eager", "onnxruntime", "openvino")}
    assert len({each.flops for each in found.values()}) == 1, {each: coverage.flops for each, coverage in found.items()}
    flops = found["torch-eager"].flops
    assert all(each.details["operators_without_flops_formula"] == {} for each in found.values())
    if name == "bert":
        assert flops == BATCH * bert(layers=2, sequence=32, hidden=128, feed=256, labels=2)
    if name != "deberta":  # whose products of weights alone are folded
        assert found["openvino"].details["flops_executed"] == flops  # counted over OpenVINO's own graph
    if name == "resnet50":  # channels filled up to a block are its kernels', not the model's
        assert found["onnxruntime"].details["flops_executed"] > flops


HEADS, TOKENS, WIDTH = 2, 6, 8


class Attends(torch.nn.Module):
    """Nothing but attention: 4 · tokens² · width of a sample."""

    def forward(self, x):
        heads = x.view(-1, TOKENS, HEADS, WIDTH // HEADS).transpose(1, 2)
        return (torch.nn.functional.scaled_dot_product_attention(heads, heads, heads).transpose(1, 2).reshape(x.shape),)


@pytest.mark.parametrize("name", ["torch-eager", "torch-inductor", "onnxruntime", "openvino"])
def test_attention_counts(name, tmp_path):
    found = covered(own(Attends(), TOKENS * WIDTH), name, tmp_path)
    assert found.flops == BATCH * 4 * TOKENS * TOKENS * WIDTH
    assert found.details["operators_without_flops_formula"] == {}
    if name == "torch-inductor":
        assert found.flops_share == 1.0


class Remembers(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = torch.nn.LSTM(WIDTH, 5, num_layers=2, bidirectional=True, batch_first=True)

    def forward(self, x):
        return (self.lstm(x.view(-1, TOKENS, WIDTH))[0],)


def test_recurrent_layers_count(tmp_path):
    model = own(Remembers(), TOKENS * WIDTH)
    step = 2 * 4 * 5 * ((WIDTH + 5) + (2 * 5 + 5))  # four gates of both layers, from the input and the state before
    wanted = BATCH * TOKENS * 2 * step  # two directions
    assert model_flops(model, make_inputs(model.card, BATCH, 0))[0] == wanted
    path = tmp_path / "lstm.onnx"
    torch.onnx.export(model.module, (torch.zeros(BATCH, TOKENS * WIDTH),), str(path), dynamo=False, opset_version=17)
    from general_perf.measure.onnx_profile import flops_of_file

    assert flops_of_file(replace(model, onnx_path=path), make_inputs(model.card, BATCH, 0)) == (wanted, {})


class Spectrum(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, x):
        return (torch.fft.rfft(self.linear(x)).abs(),)


def test_what_is_not_counted_is_named(tmp_path):
    found = covered(own(Spectrum(), WIDTH), "torch-eager", tmp_path)
    assert found.flops == 2 * BATCH * WIDTH * WIDTH
    assert found.details["operators_without_flops_formula"] == {"aten::_fft_r2c": 1}


def test_another_precision_is_the_same_model(tmp_path):
    model = source("bert")
    plain = model_flops(model, make_inputs(model.card, BATCH, 0))[0]
    assert covered(model, "torch-eager", tmp_path, "bf16").flops == plain
