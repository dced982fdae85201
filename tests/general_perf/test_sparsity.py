"""Sparsity is measured on the weights as compiled, pruning is what it says it is, and the result declares it."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bytemlperf.errors import UserError
from general_perf.backends.contract import Compiled
from general_perf.backends.registry import backend
from general_perf.backends.tensors import weights_of_module
from general_perf.failures import StageError
from general_perf.job import stages
from general_perf.measure.sparsity import measure, pattern_of, patterns_in_words
from general_perf.zoo.sparsify import kind_of, sparsified
from tests.general_perf.models import options, own, reporter, torchao_is_here


def dense(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def kept(array: np.ndarray, n: int, m: int) -> np.ndarray:
    """The first n of every m along the last axis."""
    mask = np.arange(array.shape[-1]) % m < n
    return array * mask


class Layers(torch.nn.Module):
    """A convolution, which --sparsity leaves alone, and two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = torch.nn.Conv1d(1, 16, 3, padding=1)
        self.one, self.two = torch.nn.Linear(64 * 16, 64), torch.nn.Linear(64, 32)

    def forward(self, x):
        return (self.two(torch.relu(self.one(self.first(x[:, None]).flatten(1)))),)


@pytest.fixture
def model():
    return own(Layers(), 64)


# --- what is measured --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("array", "pattern"),
    [
        (dense(64, 64), "none"),
        (kept(dense(64, 64), 2, 4), "2:4"),
        (kept(dense(64, 64), 1, 4), "1:4"),
        (kept(dense(64, 64), 1, 32), "1:32"),
        (kept(dense(64, 64), 3, 8), "3:8"),
        (kept(dense(64, 64), 3, 4), "none"),
        (kept(dense(64, 66), 2, 4), "2:4"),
        (kept(dense(64, 64), 2, 4).T, "2:4"),
        (np.moveaxis(kept(dense(3, 3, 8, 64), 2, 4), 3, 1), "2:4"),
        ((dense(64, 64) * 40).astype(np.int8) * (np.arange(64) % 4 < 2).astype(np.int8), "2:4"),
    ],
)
def test_a_pattern_is_seen_along_any_axis_and_in_integers(array, pattern):
    assert pattern_of(array) == pattern
    found = measure([array])
    assert found.verdict == pattern
    assert found.zero_share == pytest.approx((array == 0).mean())


def test_zeros_at_random_keep_no_pattern_and_are_sparse_from_half_on():
    chance = np.random.default_rng(1).random((64, 64))
    for share, verdict in ((0.3, "none"), (0.6, "unstructured"), (0.8, "unstructured")):
        found = measure([np.where(chance < share, 0, dense(64, 64))])
        assert (found.verdict, found.patterns) == (verdict, {})


def test_what_is_no_weight_does_not_count():
    bias, shape, tiny = np.zeros(500, np.float32), np.zeros((100, 100), np.int64), np.zeros((4, 4), np.float32)
    found = measure([dense(64, 64), bias, shape, tiny])
    assert (found.values, found.zero_share) == (64 * 64 + 16, pytest.approx(16 / (64 * 64 + 16)))
    mask = np.eye(32, dtype=np.float32)
    assert measure([dense(1000, 200), mask]).verdict == "none"
    assert measure([]).verdict == "none"


def test_the_share_of_a_pattern_is_of_all_weights():
    found = measure([kept(dense(64, 64), 2, 4), dense(64, 192)])
    assert found.patterns == {"2:4": 0.25}
    assert patterns_in_words(found) == "2:4 in 25.0%"


def test_tied_weights_count_once():
    layers = torch.nn.Sequential(torch.nn.Linear(16, 16, bias=False), torch.nn.Linear(16, 16, bias=False))
    layers[1].weight = layers[0].weight
    assert len(list(weights_of_module(layers))) == 1


# --- --sparsity --------------------------------------------------------------------------------


def test_a_pattern_keeps_the_largest_of_each_group_in_linear_layers_alone(model):
    pruned, how = sparsified(model, "2:4")
    assert how == "2:4, 2 linear layers by torch.ao.pruning.WeightNormSparsifier"
    before, after = (each.module.one.weight.abs().reshape(-1, 4) for each in (model, pruned))
    assert ((after != 0).sum(1) == 2).all()
    assert torch.equal(after.sum(1), before.topk(2, dim=1).values.sum(1))
    assert torch.equal(pruned.module.first.weight, model.module.first.weight)
    assert (model.module.one.weight != 0).all()


def test_a_share_is_met_in_each_linear_layer(model):
    pruned, how = sparsified(model, "0.75")
    assert how == "0.75, 2 linear layers by torch.nn.utils.prune.l1_unstructured"
    for layer in (pruned.module.one, pruned.module.two):
        assert (layer.weight == 0).float().mean() == pytest.approx(0.75, abs=1e-3)
    assert measure(weights_of_module(pruned.module)).verdict == "unstructured"


@pytest.mark.parametrize("text", ["4:4", "0:4", "2:", "2:4:8", "1.0", "0", "0.0", "-0.5", "half", "nan", ""])
def test_what_is_neither_a_pattern_nor_a_share(text):
    with pytest.raises(UserError, match="neither a pattern nor a share"):
        kind_of(text)


def test_a_model_that_can_not_be_pruned(model):
    with pytest.raises(StageError, match="no linear layer"):
        sparsified(own(torch.nn.ReLU()), "2:4")
    with pytest.raises(StageError, match="file of ONNX"):
        sparsified(replace(model, module=None, format="onnx"), "2:4")


# --- backends and results ----------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("name", ["torch-eager", "torch-inductor", "onnxruntime", "openvino"])
def test_each_backend_shows_the_weights_that_it_compiled(name, precision, model, tmp_path):
    if name.startswith("torch") and precision == "int8" and not torchao_is_here():
        pytest.skip("torchao (the extra general-int8) is not installed")
    maker = backend(name)
    found = {}
    for kind, source in (("dense", model), ("pruned", sparsified(model, "2:4")[0])):
        (work := tmp_path / kind).mkdir()
        found[kind] = measure(maker.weights(maker.compile(source, options(source, work, precision))))
    assert found["dense"].verdict == "none"
    assert found["dense"].patterns == {}
    assert found["pruned"].verdict == "2:4"
    linear = 64 * 16 * 64 + 64 * 32
    assert found["pruned"].patterns["2:4"] == pytest.approx(linear / (linear + 48), rel=0.02)


def said(model, maker, compiled):
    (record,) = stages.sparsity(reporter(model.card), stages.Loaded(maker, model, compiled, None, {}))
    return record


def test_a_backend_that_shows_no_weights_is_taken_at_its_word(model):
    record = said(model, SimpleNamespace(), Compiled(payload=None, sparsity="1:32"))
    assert (record.sparsity, record.backend_says, record.compiled) == ("1:32", "1:32", None)
    assert record.source.zero_share < 0.01


def test_what_is_measured_overrules_the_backends_word(model):
    shows = SimpleNamespace(weights=lambda _: iter([dense(64, 64)]))
    record = said(model, shows, Compiled(payload=None, sparsity="2:4"))
    assert (record.sparsity, record.backend_says) == ("none", "2:4")
