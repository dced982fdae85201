"""int8 of the torch backends: static on a calibration set by torchao's PT2E, dynamic only where it is asked for."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from general_perf.backends.contract import LoadOptions
from general_perf.backends.registry import backend
from general_perf.datasets.contract import answer_all
from general_perf.datasets.inputs import make_inputs
from general_perf.datasets.registry import load_dataset
from general_perf.failures import StageError, classify
from tests.general_perf.models import options, own, source, torchao_is_here

needs_torchao = pytest.mark.skipif(not torchao_is_here(), reason="torchao (the extra general-int8) is not installed")
BOTH = ("torch-eager", "torch-inductor")
LOAD = LoadOptions(device="cpu", threads=1)
WIDTH = 128


@pytest.fixture(autouse=True)
def _freezing_ends_with_the_test():
    import torch._inductor

    with torch._inductor.config.patch(freezing=False):
        yield


class Layers(torch.nn.Module):
    """A third layer whose answer nobody reads, as the pooler of many encoders."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two, self.unread = (torch.nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.tanh = torch.nn.Tanh()

    def forward(self, x):
        hidden = torch.relu(self.one(x))
        self.tanh(self.unread(hidden))
        return (self.two(hidden),)


class Positions(torch.nn.Module):
    """Counts positions in integers, which are multiplied, as roberta does; then a layer that is quantised."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.places, self.one = torch.nn.Embedding(WIDTH + 1, 16), torch.nn.Linear(16, 16)

    def forward(self, x):
        there = (x > 0).to(torch.int64)
        return (self.one(self.places(there.cumsum(1) * there) + x[..., None]),)


class Product(torch.nn.Module):
    """Multiplies activations alone: nothing there that the quantizer takes."""

    def forward(self, x):
        return (x.unsqueeze(2) @ x.unsqueeze(1),)


@needs_torchao
@pytest.mark.parametrize("name", BOTH)
def test_digits_are_told_apart_as_well_in_static_int8(name, tmp_path):
    model = source("digits-resnet", "published")
    data = load_dataset(model.card, 200)
    batches = [{key: np.asarray(array)[None] for key, array in data.preprocess(sample).items()} for sample in data.calibration[:16]]
    asked = replace(options(model, tmp_path, "int8"), calibration=batches, calibration_source="16 samples of sklearn-digits")
    maker = backend(name)
    compiled = maker.compile(model, asked)
    assert compiled.options["int8"] == "static"
    assert compiled.calibration == "16 samples of sklearn-digits"
    assert "torchao" in compiled.precision_tool
    top1 = {}
    for label, answer in (("int8", maker.load(compiled, LOAD).predict), ("fp32", _plain(model))):
        top1[label] = data.metrics(answer_all(answer, data, 4).answers, data.labels)["top1"]
    assert top1["fp32"] > 0.9
    assert top1["int8"] == pytest.approx(top1["fp32"], abs=0.03)
    found = maker.coverage(compiled, make_inputs(model.card, 2, 0)).details
    assert (found["int8_share_of_products"], found["int8_products"], found["float_products"]) == (1.0, {"conv2d": 9, "linear": 1}, {})
    assert found["products_by_precision"] == ({"fp32": 10} if name == "torch-eager" else {"int8": 10, "fp32": 0})
    if name == "torch-inductor":
        assert any(note.startswith("10 int8 kernels of oneDNN") for note in compiled.notes), compiled.notes


def _plain(model):
    def answer(inputs):
        with torch.inference_mode():
            answers = model.module(*(torch.from_numpy(inputs[key]) for key in model.input_names))
        return dict(zip(model.card.outputs, [each.numpy() for each in answers], strict=True))

    return answer


@needs_torchao
@pytest.mark.parametrize("name", BOTH)
def test_scales_come_from_the_calibration_set(name, tmp_path):
    """Calibrated on values a hundredth as large, the same inputs are cut off: without the set's scales they would not be."""
    model, maker = own(Layers(), WIDTH), backend(name)
    inputs = make_inputs(model.card, 3, 99)
    right = _plain(model)(inputs)["y"]
    errors = {}
    for label, factor in (("own", 1.0), ("small", 0.01)):
        (tmp_path / label).mkdir()
        asked = options(model, tmp_path / label, "int8")
        asked = replace(asked, calibration=[{"x": each["x"] * np.float32(factor)} for each in asked.calibration])
        answer = maker.load(maker.compile(model, asked), LOAD).predict(inputs)["y"]
        errors[label] = np.abs(answer - right).max() / np.sqrt((right**2).mean())
    assert 1e-6 < errors["own"] < 0.2
    assert errors["small"] > 5 * errors["own"]


@needs_torchao
def test_what_is_shipped_has_no_float_weights(tmp_path):
    model, maker = own(Layers(), WIDTH), backend("torch-eager")
    sizes = {}
    for precision in ("fp32", "int8"):
        (tmp_path / precision).mkdir()
        sizes[precision] = maker.compile(model, options(model, tmp_path / precision, precision)).artefact.stat().st_size
    assert sizes["int8"] < 0.5 * sizes["fp32"]


@needs_torchao
def test_one_batch_size_is_calibrated_at_that_size(tmp_path):
    model, maker = own(Layers(), WIDTH), backend("torch-eager")
    compiled = maker.compile(model, options(model, tmp_path, "int8", batch=3, dynamic="false"))  # four samples: 3 and 1
    assert maker.load(compiled, LOAD).predict(make_inputs(model.card, 3, 99))["y"].shape == (3, WIDTH)


def test_dynamic_is_asked_for_and_said(tmp_path):
    model, maker = own(Layers(), WIDTH), backend("torch-eager")
    compiled = maker.compile(model, options(model, tmp_path, "int8", int8="dynamic"))
    assert compiled.options["int8"] == "dynamic"
    assert compiled.calibration is None
    assert "quantize_dynamic" in compiled.precision_tool
    inputs = make_inputs(model.card, 3, 99)
    answer = maker.load(compiled, LOAD).predict(inputs)["y"]
    assert np.allclose(answer, _plain(model)(inputs)["y"], atol=0.1)


def test_without_torchao_the_row_says_what_to_install(tmp_path, monkeypatch):
    model = own(Layers(), WIDTH)
    _hide_torchao(monkeypatch)
    with pytest.raises(StageError) as told:
        backend("torch-eager").compile(model, options(model, tmp_path, "int8"))
    failure = classify(told.value, "compile")
    assert (failure.status, failure.error_class) == ("refused", "missing_package")
    assert "torchao" in failure.reason
    assert "bytemlperf-llm[general-int8]" in failure.fix
    assert "int8=dynamic" in failure.fix


def _hide_torchao(monkeypatch):
    for name in [each for each in sys.modules if each.split(".")[0] == "torchao"]:
        monkeypatch.delitem(sys.modules, name)

    class Absent:
        def find_spec(self, name, path=None, target=None):
            if name == "torchao":
                raise ModuleNotFoundError("No module named 'torchao'", name=name)

    monkeypatch.setattr(sys, "meta_path", [Absent(), *sys.meta_path])


@needs_torchao
@pytest.mark.parametrize(
    ("extra", "samples", "module", "error_class", "words"),
    [
        ({"int8": "weights"}, 4, Layers, "compile_error", "int8=weights is unknown"),
        ({}, 0, Layers, "missing_dataset", "needs a calibration set"),
        ({}, 4, Product, "unsupported_precision", "1 matmul"),
    ],
)
def test_what_static_int8_refuses(extra, samples, module, error_class, words, tmp_path):
    model = own(module(), WIDTH)
    asked = options(model, tmp_path, "int8", **extra)
    with pytest.raises(StageError, match=words) as told:
        backend("torch-eager").compile(model, replace(asked, calibration=list(asked.calibration)[:samples]))
    assert told.value.error_class == error_class


@needs_torchao
def test_a_model_that_does_not_export_says_so(tmp_path):
    class Asks(Layers):
        def forward(self, x):
            return super().forward(x * 2 if x.sum().item() > 0 else x)

    model = own(Asks(), WIDTH)
    with pytest.raises(StageError, match=r"torch\.export does not take the model") as told:
        backend("torch-eager").compile(model, options(model, tmp_path, "int8"))
    assert "int8=dynamic" in told.value.fix


@needs_torchao
def test_integers_are_left_as_they_are(tmp_path):
    """Torchao's quantizer would look at whatever is multiplied."""
    model = own(Positions(), WIDTH)
    maker = backend("torch-eager")
    session = maker.load(maker.compile(model, options(model, tmp_path, "int8")), LOAD)
    inputs = make_inputs(model.card, 3, 7)
    with torch.no_grad():
        (wanted,) = model.module(torch.from_numpy(inputs["x"]))
    found = session.predict(inputs)["y"]
    assert np.abs(found - wanted.numpy()).max() < 0.1
    assert not np.array_equal(found, wanted.numpy())
