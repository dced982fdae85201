"""ByteMLPerf's own pair of files, as it writes them."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
import torch

from bytemlperf.errors import UserError
from general_perf.backends.contract import CompileOptions, LoadOptions
from general_perf.backends.onnxruntime import OnnxRuntime
from general_perf.backends.torch_eager import TorchEager
from general_perf.command.flags import Flags
from general_perf.command.plan import plan
from general_perf.datasets.inputs import make_inputs
from general_perf.zoo.bytemlperf_files import read_workload
from general_perf.zoo.source import build

WORKLOAD = {
    "model": "resnet50-torch-fp32",
    "test_perf": True,
    "test_accuracy": True,
    "test_numeric": True,
    "clients": 3,
    "iterations": 100,
    "batch_sizes": [4, 8, 16, 32, 64],
    "data_percent": 100,
    "compile_only": False,
}
MODEL = {
    "model": "resnet50-torch-fp32",
    "model_path": "general_perf/model_zoo/regular/open_resnet50/resnet50.pt",
    "framework": "Pytorch",
    "framework_version": "1.8.1",
    "model_format": "pt",
    "model_precision": "FP32",
    "inputs": "input_1.1",
    "outputs": "softmax_tensor:0",
    "input_shape": {"input_1.1": [1, 3, 224, 224]},
    "input_type": "FLOAT32",
    "dataset_name": "open_imagenet",
    "max_batch_size": 64,
    "layout": "NCHW",
}


def pair(folder: Path, workload: dict | None = None, model: dict | None = None) -> Path:
    path = folder / "workload-resnet50-torch-fp32.json"
    path.write_text(json.dumps({**WORKLOAD, **(workload or {})}))
    (folder / "model-resnet50-torch-fp32.json").write_text(json.dumps({**MODEL, **(model or {})}))
    return path


def flags(path: Path) -> Flags:
    return Flags(models=(str(path),), backends=("onnxruntime",), precisions=("fp32",))


def test_the_workload_becomes_jobs(tmp_path):
    (job,) = plan(flags(pair(tmp_path)))
    assert job.id == "resnet50-torch-fp32/onnxruntime/fp32"
    assert job.batch_sizes == (4, 8, 16, 32, 64)
    assert job.instances == (3,)
    assert job.iterations == 100
    assert job.data_percent == 100
    assert job.weights == str(Path(MODEL["model_path"]).absolute())
    assert job.card.dataset == "open_imagenet"


def test_compile_only_measures_nothing(tmp_path):
    (job,) = plan(flags(pair(tmp_path, {"compile_only": True})))
    assert set(job.stages) == {"compile", "load", "coverage"}


def test_parts_switched_off(tmp_path):
    (job,) = plan(flags(pair(tmp_path, {"test_perf": False, "test_accuracy": False})))
    assert "numerics" in job.stages
    assert not {"performance", "accuracy"} & set(job.stages)


def test_a_workload_speaks_for_its_own_model_alone(tmp_path):
    given = flags(pair(tmp_path, {"test_accuracy": False}))
    given = given.changed(models=(*given.models, "magika"))
    theirs, ours = plan(given)
    assert (theirs.iterations, theirs.instances, "accuracy" in theirs.stages) == (100, (3,), False)
    assert (ours.iterations, ours.instances, "accuracy" in ours.stages) == (None, (1,), True)


def test_a_part_of_the_data_is_taken_where_the_workload_says_so(tmp_path):
    (job,) = plan(flags(pair(tmp_path, {"data_percent": 12.5})))
    assert job.data_percent == 12.5


def test_weights_beside_the_card_are_found(tmp_path):
    (tmp_path / "resnet50.pt").write_bytes(b"")
    assert read_workload(pair(tmp_path, model={"model_path": "resnet50.pt"})).weights == str(tmp_path / "resnet50.pt")


@pytest.mark.parametrize(
    ("workload", "model", "said"),
    [
        ({}, {"max_batch_size": 8}, "asks for batch 16, .* allows 8"),
        ({"batch_sizes": []}, {}, "batch_sizes"),
        ({"batch_sizes": [4, 0]}, {}, "batch_sizes.1 can't be '0'; give a whole number >= 1"),
        ({"batch_sizes": [10**20]}, {}, "batch_sizes.0 can't be .*; give a whole number <= "),
        ({"clients": 10**20}, {}, "clients can't be .*; give a whole number <= 1024"),
        ({"iterations": "many"}, {}, "iterations"),
        ({"iterations": 10**20}, {}, "iterations can't be .*; give a whole number <= "),
        ({"model": ""}, {}, "model can't be ''; give text matching regex"),
        (
            {"model": "lenet"},
            {},
            "the model lenet, whose card is neither beside it nor in a model_zoo/ .*; put model-lenet.json there",
        ),
        ({"model": "../secret"}, {}, "model can't be .*; give text matching regex"),
        ({"perf_config": {}}, {}, "is of a language model; measure those with bmp-llm"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, workload, model, said):
    with pytest.raises(UserError, match=said):
        plan(flags(pair(tmp_path, workload, model)))


@pytest.mark.parametrize(
    ("text", "said"),
    [("{", "is not valid JSON"), ("", "is not valid JSON"), ("[" * 100_000, "is not valid JSON"), ("[1]", "is not a JSON object")],
)
def test_no_json(tmp_path, text, said):
    path = tmp_path / "w.json"
    path.write_text(text)
    with pytest.raises(UserError, match=f"w.json {said}"):
        read_workload(path)
    os.mkfifo(tmp_path / "pipe.json")  # whose reader would wait for ever
    for name in ("none.json", "pipe.json"):
        with pytest.raises(UserError, match="can't be read"):
            read_workload(tmp_path / name)


# --- the repository's own layout ------------------------------------------------------------------------------


def zoo_pair(root: Path, name: str, model: dict, workload: dict | None = None) -> Path:
    """workloads/NAME.json, and model_zoo/NAME.json beside its folder."""
    path = root / "workloads" / f"{name}.json"
    for folder, content in (
        ("workloads", {**WORKLOAD, **(workload or {}), "model": name}),
        ("model_zoo", {**MODEL, **model, "model": name}),
    ):
        (root / folder).mkdir(exist_ok=True)
        (root / folder / f"{name}.json").write_text(json.dumps(content))
    return path


QUESTIONS = {
    "inputs": "input_ids.1,attention_mask.1,token_type_ids.1",
    "outputs": "start_logits,end_logits",
    "input_shape": {"input_ids.1": [1, 48], "attention_mask.1": [1, 48], "token_type_ids.1": [1, 48]},
    "input_type": "LONG,LONG,LONG",
    "model_path": "zoo/bert.pt",
}


def test_workloads_beside_a_model_zoo_take_the_inputs_of_the_card(tmp_path):
    path = zoo_pair(tmp_path, "bert-torch-fp32", QUESTIONS)
    for name in (path, tmp_path / "model_zoo" / path.name):  # either stands for both
        (job,) = plan(flags(name))
        assert job.batch_sizes == (4, 8, 16, 32, 64)
        assert [(each.name, each.shape, each.dtype, each.kind) for each in job.card.inputs] == [
            ("input_ids.1", ["batch", 48], "int64", "token_ids"),
            ("attention_mask.1", ["batch", 48], "int64", "attention_mask"),
            ("token_type_ids.1", ["batch", 48], "int64", "timestep"),
        ]
        assert job.card.outputs == ["start_logits", "end_logits"]
        assert job.failed is not None
        assert job.failed[0] == "missing_weights"


def test_a_folder_is_a_row_for_each_of_its_files(tmp_path):
    zoo_pair(
        tmp_path, "bert-tf-fp32", {**QUESTIONS, "framework": "Tensorflow", "model_format": "saved_model", "model_path": "zoo/bert_fp32"}
    )
    zoo_pair(
        tmp_path, "chatglm2-torch-fp16", {"inputs": None, "outputs": None, "input_shape": None, "input_type": None, "max_batch_size": None}
    )
    zoo_pair(tmp_path, "yolov5-onnx-fp32", {"model_path": "zoo/yolov5s.onnx", "input_type": "STRING"})
    (tmp_path / "workloads" / "broken.json").write_text("{")
    failed = {job.id.split("/")[0]: job.failed for job in plan(flags(tmp_path / "workloads"))}
    assert {name: each and each[0] for name, each in failed.items()} == dict.fromkeys(failed, "unsupported_format")
    assert "Tensorflow saved_model is not read here" in failed["bert-tf-fp32"][1]
    assert "language models are measured by bmp-llm" in failed["chatglm2-torch-fp16"][1]
    assert "an input of type STRING" in failed["yolov5-onnx-fp32"][1]
    assert "is not valid JSON" in failed["broken"][1]


@pytest.mark.parametrize(
    ("name", "model", "dims"),
    [
        ("bert-torch-fp32", QUESTIONS, {"sequence": 48}),
        ("resnet50-tf-fp32", {"input_shape": {"input:0": [1, 96, 96, 3]}, "layout": "NHWC"}, {"image": 96}),
        (
            "roformer-tf",
            {"input_shape": {"in_segment:0": [1, 99], "in_token:0": [1, 99]}, "input_type": "FLOAT32,FLOAT32"},
            {"sequence": 99},
        ),
    ],
)
def test_our_architecture_stands_in_at_their_sizes(tmp_path, name, model, dims):
    given = flags(zoo_pair(tmp_path, name, model))
    given = given.changed(random_weights=True)
    (job,) = plan(given)
    assert job.failed is None
    assert job.weights is None
    assert job.card.dims == dims
    assert job.card.source.stands_for == name


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("yolov5-onnx-fp32", "no architecture of ours stands in for yolov5-onnx-fp32"),
        ("vae-encoder", "our vae is more than the encoder"),
        ("clip-onnx-fp32", r"our clip takes input_ids \[batch, sequence\], which clip-onnx-fp32 doesn't: it takes input_1.1"),
    ],
)
def test_where_none_stands_in_the_row_says_why(tmp_path, name, said):
    given = flags(zoo_pair(tmp_path, name, {}))
    given = given.changed(random_weights=True)
    (job,) = plan(given)
    assert job.failed is not None
    assert re.search(said, job.failed[1])


def answered(path: Path, backend, batch: int, work: Path) -> dict:
    (job,) = plan(flags(path))
    assert job.failed is None
    card = read_workload(path).card
    model = build(card, Path(job.weights))
    example = make_inputs(card, batch, seed=0)
    options = CompileOptions(precision="fp32", device="cpu", work=work, example=example, batch_sizes=(batch,), threads=1)
    return backend.load(backend.compile(model, options), LoadOptions(device="cpu", threads=1)).predict(example)


def test_an_onnx_file_with_inputs_in_another_order_and_a_list_that_has_no_batch(tmp_path):
    """As videobert's: pictures by the batch, the classes' texts once."""
    onnx_helper = pytest.importorskip("onnx").helper
    kinds = {"text": (7, [5, 2]), "image": (1, ["n", 3])}
    nodes = [onnx_helper.make_node("Cast", ["text"], ["numbers"], to=1), onnx_helper.make_node("Gemm", ["image", "weights"], ["two"])]
    nodes.append(onnx_helper.make_node("Gemm", ["two", "numbers"], ["output"], transB=1))
    inputs = [onnx_helper.make_tensor_value_info(name, *kind) for name, kind in kinds.items()]
    weights = onnx_helper.make_tensor("weights", 1, [3, 2], [0.5] * 6)
    output = onnx_helper.make_tensor_value_info("output", 1, ["n", 5])
    graph = onnx_helper.make_graph(nodes, "g", inputs, [output], [weights])
    import onnx

    onnx.save(onnx_helper.make_model(graph, opset_imports=[onnx_helper.make_opsetid("", 17)], ir_version=9), tmp_path / "video.onnx")
    shapes = {"inputs": "image,text", "input_shape": {"image": [1, 3], "text": [5, 2]}, "input_type": "FLOAT32,LONG"}
    path = zoo_pair(tmp_path, "video-onnx-fp32", {**shapes, "outputs": "output,345", "model_path": "video.onnx", "framework": "Onnx"})
    found = answered(path, OnnxRuntime(), 4, tmp_path)
    assert {name: array.shape for name, array in found.items()} == {"output": (4, 5)}


class Spans(torch.nn.Module):
    def forward(self, input_ids, attention_mask, token_type_ids):
        return {"end_logits": input_ids * 2.0, "start_logits": input_ids * 1.0}


def test_a_traced_model_that_answers_with_a_mapping(tmp_path):
    traced = torch.jit.trace(Spans(), tuple(torch.ones(1, 48, dtype=torch.int64) for _ in range(3)), strict=False)
    (tmp_path / "zoo").mkdir()
    traced.save(str(tmp_path / "zoo" / "bert.pt"))
    found = answered(zoo_pair(tmp_path, "bert-torch-fp32", QUESTIONS), TorchEager(), 2, tmp_path)
    assert found["start_logits"].shape == (2, 48)
    assert (found["end_logits"] == 2 * found["start_logits"]).all()
