"""ByteMLPerf's own pair of files, as it writes them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bytemlperf_llm.errors import UserError
from general_perf.plan import Flags, plan
from general_perf.zoo.bytemlperf_files import read_workload

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
    return Flags(models=[str(path)], backends=["onnxruntime"], precisions=["fp32"])


def test_the_workload_becomes_jobs(tmp_path):
    (job,) = plan(flags(pair(tmp_path)))
    assert job.id == "resnet50-torch-fp32/onnxruntime/fp32"
    assert job.batch_sizes == (4, 8, 16, 32, 64)
    assert job.instances == (3,)
    assert job.iterations == 100
    assert job.data_percent == 100
    assert job.weights == str(Path(MODEL["model_path"]).absolute())
    assert job.card["dataset"] == "open_imagenet"


def test_compile_only_measures_nothing(tmp_path):
    (job,) = plan(flags(pair(tmp_path, {"compile_only": True})))
    assert set(job.stages) == {"compile", "load", "coverage"}


def test_parts_switched_off(tmp_path):
    (job,) = plan(flags(pair(tmp_path, {"test_perf": False, "test_accuracy": False})))
    assert "numerics" in job.stages
    assert not {"performance", "accuracy"} & set(job.stages)


def test_a_workload_speaks_for_its_own_model_alone(tmp_path):
    given = flags(pair(tmp_path, {"test_accuracy": False}))
    given.models.append("magika")
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
        ({}, {"input_shape": {"input_1.1": [1, 3, 299, 299]}}, r"\[1, 3, 299, 299\], our card resnet50 takes \[1, 3, 224, 224\]"),
        ({}, {"max_batch_size": 8}, "asks for batch 16, .* allows 8"),
        ({"batch_sizes": []}, {}, "batch_sizes"),
        ({"batch_sizes": [4, 0]}, {}, "batch_sizes.1: Input should be greater than or equal to 1"),
        ({"batch_sizes": [10**20]}, {}, "batch_sizes.0: Input should be less than"),
        ({"clients": 10**20}, {}, "clients: Input should be less than or equal to 1024"),
        ({"iterations": "many"}, {}, "iterations"),
        ({"iterations": 10**20}, {}, "iterations: Input should be less than"),
        ({"model": ""}, {}, "model: String should have at least 1 character"),
        ({"model": "lenet"}, {}, "names the model lenet, whose card is not beside it; put model-lenet.json there"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, workload, model, said):
    with pytest.raises(UserError, match=said):
        plan(flags(pair(tmp_path, workload, model)))


@pytest.mark.parametrize(
    ("text", "said"),
    [("{", "is not valid JSON"), ("", "is not valid JSON"), ("[" * 100_000, "is not valid JSON"), ("[1]", "holds no JSON object")],
)
def test_no_json(tmp_path, text, said):
    path = tmp_path / "w.json"
    path.write_text(text)
    with pytest.raises(UserError, match=f"w.json {said}"):
        read_workload(path)
    with pytest.raises(UserError, match="can't be read"):
        read_workload(tmp_path / "none.json")
