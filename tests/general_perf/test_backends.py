"""The real backends on real graphs: answers, precisions, and coverage that is measured."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from msgspec import structs

from general_perf.backends.contract import LoadOptions
from general_perf.backends.registry import backend, backend_names
from general_perf.backends.tensors import held_by_module
from general_perf.card import zoo
from general_perf.command.flags import Flags
from general_perf.command.plan import plan
from general_perf.datasets.inputs import make_inputs
from general_perf.failures import StageError, classify
from general_perf.job.worker import check_precision
from general_perf.measure.numerics import compare, reference_of, verdict
from general_perf.zoo.source import build
from tests.general_perf.models import options, own, source, torchao_is_here

WIDTH = 128


class Layers(torch.nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two = torch.nn.Linear(width, width), torch.nn.Linear(width, width)

    def forward(self, x):
        return (self.two(torch.relu(self.one(x))),)


ALL = ("torch-eager", "torch-inductor", "onnxruntime", "openvino")
LOAD = LoadOptions(device="cpu", threads=1)


@pytest.fixture(scope="module")
def resnet():
    return source("resnet50")


@pytest.fixture(scope="module")
def bert():
    return source("bert")


def worst(model, session, batch: int = 3) -> dict:
    inputs = make_inputs(model.card, batch, 99)
    predict, kind = reference_of(model, inputs)
    assert "float64" in kind
    name = model.card.outputs[0]
    return compare(session.predict(inputs)[name], predict(inputs)[name], model.card.distribution)


def test_four_backends_come_with_us():
    assert set(ALL) <= set(backend_names())


@pytest.mark.parametrize(
    ("which", "name"),
    [
        *[(which, name) for which in ("resnet", "bert") for name in ("torch-eager", "onnxruntime", "openvino")],
        pytest.param("bert", "torch-inductor", marks=pytest.mark.slow),
    ],
)
def test_answers_are_those_of_the_model_at_any_batch(name, which, request, tmp_path):
    model = request.getfixturevalue(which)
    maker = backend(name)
    compiled = maker.compile(model, options(model, tmp_path))
    session = maker.load(compiled, LOAD)
    for batch in (1, 3):
        found = worst(model, session, batch)
        assert verdict({"logits": found}, model.card.tolerance("fp32")), found
    if name != "torch-inductor":
        assert compiled.artefact is not None
        assert compiled.artefact.stat().st_size > 0


@pytest.mark.parametrize("name", ["torch-eager", "onnxruntime", "openvino"])
@pytest.mark.parametrize("precision", ["bf16", "fp16", "int8"])
def test_a_lower_precision_is_lower_and_says_by_what(name, precision, tmp_path):
    """Either it computes, differs from fp32 and stays within its tolerance; or it's refused or fails with its class."""
    if (name, precision) == ("torch-eager", "int8") and not torchao_is_here():
        pytest.skip("torchao (the extra general-int8) is not installed")
    model = own(Layers(WIDTH), WIDTH)
    maker = backend(name)
    try:
        compiled = maker.compile(model, options(model, tmp_path, precision))
        session = maker.load(compiled, LOAD)
    except Exception as error:
        failure = classify(error, "compile")
        assert (name, precision, failure.error_class) in {
            ("onnxruntime", "bf16", "unsupported_operator"),  # ONNX Runtime's CPU kernels know no bf16
            ("openvino", "bf16", "unsupported_precision"),  # a CPU without it
            ("openvino", "fp16", "unsupported_precision"),
        }, failure
        return
    found = worst(model, session)
    assert found["abs"]["max"] > 1e-7
    assert verdict({"y": found}, model.card.tolerance(precision)), found
    assert compiled.precision_tool != "as the model is"
    assert (compiled.calibration is not None) == (precision == "int8")


def test_onnxruntimes_flops_are_torchs(resnet, tmp_path):
    """The model's, counted once; beside it what each executes."""
    counted = {}
    for name in ("torch-eager", "onnxruntime", "openvino"):
        maker = backend(name)
        (tmp_path / name).mkdir()
        compiled = maker.compile(resnet, options(resnet, tmp_path / name))
        counted[name] = maker.coverage(compiled, make_inputs(resnet.card, 2, 0))
    flops = counted["torch-eager"].flops
    assert flops > 1e6
    assert {each.flops for each in counted.values()} == {flops}
    assert counted["onnxruntime"].details["flops_executed"] == pytest.approx(flops, rel=0.1)  # its blocked kernels fill channels up
    assert counted["onnxruntime"].graph_share == counted["onnxruntime"].flops_share == 1.0
    assert counted["openvino"].flops_share == 1.0
    assert counted["torch-eager"].graph_share is None
    assert "no graph" in counted["torch-eager"].reason


def test_nodes_of_another_provider_are_fallback():
    from general_perf.measure.onnx_profile import coverage_of

    def event(operator: str, provider: str, inputs: list, output: list) -> dict:
        shapes = {"input_type_shape": [{"float": each} for each in inputs], "output_type_shape": [{"float": output}]}
        return {"args": {"op_name": operator, "provider": provider, **shapes}}

    gpu, cpu = "CUDAExecutionProvider", "CPUExecutionProvider"
    events = [
        event("Conv", gpu, [[1, 3, 8, 8], [16, 3, 3, 3]], [1, 16, 8, 8]),
        event("MatMul", cpu, [[4, 10], [10, 6]], [4, 6]),
        event("Relu", gpu, [[4, 6]], [4, 6]),
        event("Einsum", gpu, [[4, 6]], [4, 6]),
    ]
    found = coverage_of(events, gpu)
    conv, matmul = 2 * 16 * 64 * 27, 2 * 24 * 10
    assert (found.nodes, found.taken_nodes, found.partitions) == (4, 3, 3)
    assert found.graph_share == 0.75
    assert found.fallback_operators == {"MatMul": 1}
    assert found.flops == conv + matmul
    assert found.flops_share == pytest.approx(conv / (conv + matmul))
    assert found.details["operators_without_flops_formula"] == {"Einsum": 1}


def test_operators_that_openvino_does_not_name_are_fallback(tmp_path, resnet):
    import openvino

    from general_perf.backends.openvino import coverage_of

    maker = backend("openvino")
    compiled = maker.compile(resnet, options(resnet, tmp_path))
    core = openvino.Core()
    graph = core.read_model(str(compiled.artefact))
    graph.reshape([2, 3, 64, 64])
    supported = set(core.query_model(graph, "CPU"))
    convolutions = {node.get_friendly_name() for node in graph.get_ops() if node.get_type_name() == "Convolution"}
    executed = core.compile_model(graph, "CPU").get_runtime_model()
    found = coverage_of(graph, supported - convolutions, "CPU", executed)
    assert found.fallback_operators["Convolution"] == len(convolutions)
    assert found.flops_share < 0.2
    assert found.graph_share < 1.0


class Breaks(torch.nn.Module):
    """Asks Python about a tensor's value between two layers: TorchDynamo has to break the graph there."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)

    def forward(self, x):
        hidden = self.one(x)
        if hidden.sum().item() > 1e9:
            hidden = hidden * 2
        return (self.two(hidden),)


def test_graph_breaks_are_found(tmp_path):
    model = own(Breaks())
    maker = backend("torch-inductor")
    found = maker.coverage(maker.compile(model, options(model, tmp_path)), make_inputs(model.card, 2, 0))
    assert found.details["graph_breaks"] >= 1
    assert found.partitions == 2
    assert found.graph_share < 1.0
    assert "aten::_local_scalar_dense" in found.fallback_operators
    assert found.flops_share == 1.0


class Outside(torch.nn.Module):
    """A layer that TorchDynamo is told to leave alone: half of the arithmetic."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)

    @torch._dynamo.disable
    def aside(self, x):
        return self.one(x)

    def forward(self, x):
        return (self.two(torch.relu(self.aside(x) + 1)),)


def test_arithmetic_outside_the_graphs_is_not_covered(tmp_path):
    model = own(Outside())
    maker = backend("torch-inductor")
    found = maker.coverage(maker.compile(model, options(model, tmp_path)), make_inputs(model.card, 2, 0))
    assert found.flops_share == pytest.approx(0.5)
    assert found.fallback_operators["aten::addmm"] == 1


def test_one_whole_graph_is_all_of_it(tmp_path):
    model = own(Layers())
    maker = backend("torch-inductor")
    compiled = maker.compile(model, options(model, tmp_path))
    inputs = make_inputs(model.card, 2, 0)
    ours = maker.load(compiled, LOAD).predict(inputs)["y"]
    assert np.allclose(ours, model.module(torch.from_numpy(inputs["x"]))[0].detach().numpy(), atol=1e-6)
    found = maker.coverage(compiled, inputs)
    assert (found.partitions, found.graph_share, found.flops_share) == (1, 1.0, 1.0)
    assert found.details["graph_breaks"] == 0


def test_int8_is_smaller(tmp_path):
    model = own(Layers(WIDTH), WIDTH)
    maker = backend("onnxruntime")
    sizes = {}
    for precision in ("fp32", "int8"):
        (tmp_path / precision).mkdir()
        compiled = maker.compile(model, options(model, tmp_path / precision, precision))
        sizes[precision] = compiled.artefact.stat().st_size
    assert sizes["int8"] < 0.5 * sizes["fp32"]


def test_what_a_backend_does_not_read_is_refused(tmp_path):
    model = source("magika", "published")
    for name in ("torch-eager", "torch-inductor"):
        with pytest.raises(StageError, match="torch runs no ONNX files"):
            backend(name).compile(model, options(model, tmp_path))


def test_real_weights_answer_alike_on_onnxruntime_and_openvino(tmp_path):
    model = source("magika", "published")
    inputs = make_inputs(model.card, 2, 1)
    answers = []
    for name in ("onnxruntime", "openvino"):
        (tmp_path / name).mkdir()
        maker = backend(name)
        answers.append(maker.load(maker.compile(model, options(model, tmp_path / name)), LOAD).predict(inputs)["target_label"])
    assert np.allclose(answers[0].sum(axis=1), 1.0, atol=1e-4)
    assert np.allclose(*answers, atol=1e-4)


def test_a_bias_of_two_axes_is_quantised_by_onnxruntime(tmp_path):
    """magika's last layer has one, which ONNX Runtime's tool can't scale."""
    model = source("magika", "published")
    maker = backend("onnxruntime")
    session = maker.load(maker.compile(model, options(model, tmp_path, "int8", batch=1)), LOAD)
    assert np.isfinite(session.predict(make_inputs(model.card, 1, 0))[model.card.outputs[0]]).all()


# --- labels of precision --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "precision", "ran"), [("onnxruntime", "fp16", "fp32"), ("onnxruntime", "int8", "int8"), ("openvino", "fp32", "fp32")]
)
def test_the_precision_that_products_run_at_is_measured(name, precision, ran, tmp_path):
    """ONNX Runtime's CPU kernels know no fp16: it casts, and multiplies in fp32."""
    model, maker = own(Layers()), backend(name)
    found = maker.coverage(maker.compile(model, options(model, tmp_path, precision)), make_inputs(model.card, 2, 0))
    assert set(found.details["products_by_precision"]) == {ran}


def halved(path, card_dtype):
    """An ONNX file of float16 weights, with the card that takes it."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = numpy_helper.from_array(np.full((8, 8), 0.5, np.float16), "w")
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT16, ["n", 8]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", value[:1], value[1:], [weights])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    card = own(Layers()).card
    return structs.replace(card, inputs=[structs.replace(card.inputs[0], dtype=card_dtype)])


def test_a_file_of_half_precision_is_measured_as_such_alone(tmp_path):
    model = build(halved(tmp_path / "half.onnx", "float16"), tmp_path / "half.onnx")
    assert model.held == "fp16"
    (tmp_path / "work").mkdir()
    maker = backend("onnxruntime")
    compiled = maker.compile(model, options(model, tmp_path / "work", "fp16"))
    assert compiled.precision_tool == "as the model is"
    assert maker.load(compiled, LOAD).predict(make_inputs(model.card, 2, 0))["y"].dtype == np.float16


def test_another_precision_of_a_half_precision_file_is_refused(tmp_path):
    (job,) = plan(Flags(models=("digits-resnet",), backends=("onnxruntime",), precisions=("fp32",)))
    model = replace(own(torch.nn.Linear(8, 8).to(torch.bfloat16)), card=zoo()["digits-resnet"])
    with pytest.raises(StageError, match="the weights of digits-resnet are bf16: measured as fp32 they would be another model") as caught:
        check_precision(job, replace(model, held=held_by_module(model.module)), backend("onnxruntime").describe())
    assert caught.value.fix == "take --precision bf16"
