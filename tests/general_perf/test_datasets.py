"""Real data: there, the same every time, apart from what models were trained on, and judged rightly."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from msgspec.structs import replace

from general_perf.card import zoo
from general_perf.datasets.contract import Dataset, answer_all, spread
from general_perf.datasets.files import Settings, features
from general_perf.datasets.registry import load_dataset
from general_perf.datasets.tabular import digits_split
from general_perf.failures import StageError
from general_perf.zoo import train

SETTINGS = Settings(target_labels_space=[], block_size=4096, beg_size=4, end_size=4, padding_token=256)


def counting(samples: int) -> Dataset:
    return Dataset(
        name="counting",
        source="here",
        samples=list(range(samples)),
        labels=list(range(samples)),
        whole=samples,
        preprocess=lambda sample: {"x": np.array([sample], dtype=np.float32)},
        postprocess=lambda _sample, outputs: np.float64(outputs["y"][0]),
        metrics=lambda answers, labels: {"right": float((np.asarray(answers) == labels).mean())},
        decisions=np.asarray,
    )


@pytest.mark.parametrize("batch", [1, 3, 7, 10])
def test_the_last_batch_is_filled_up_and_the_filling_left_out(batch):
    sizes = []

    def predict(inputs):
        sizes.append(len(inputs["x"]))
        return {"y": inputs["x"]}

    answered = answer_all(predict, counting(7), batch)
    assert answered.answers.tolist() == list(range(7))
    assert set(sizes) == {batch}
    assert len(answered.preprocess_ns) == len(answered.postprocess_ns) == 7


def test_a_dataset_that_is_not_there_names_those_that_are():
    card = replace(zoo()["resnet50"], dataset="imagenet")
    with pytest.raises(StageError, match=r"imagenet is not here; .*sklearn-digits") as raised:
        load_dataset(card, 10)
    assert raised.value.error_class == "missing_dataset"


def test_spread_covers_the_whole():
    assert spread(range(100), 4) == [0, 25, 50, 75]
    assert spread(range(3), 10) == [0, 1, 2]


def test_test_samples_were_never_trained_on():
    halves = digits_split()
    seen = {image.tobytes() for image in halves.train["pixel_values"]}
    test_images = halves.test["pixel_values"]
    twice = sum(image.tobytes() in seen for image in test_images)
    assert twice == 0
    data = load_dataset(zoo()["digits-resnet"], 50)
    assert len(data.samples) == data.count == 50
    assert data.whole == len(test_images)
    assert all(sample["pixel_values"].tobytes() not in seen for sample in data.samples)
    assert all(sample["pixel_values"].tobytes() in seen for sample in data.calibration)


def identity(sample) -> object:
    """What tells a sample from others, array or not."""
    if isinstance(sample, dict):
        return tuple(array.tobytes() for array in sample.values())
    return sample.tobytes() if hasattr(sample, "tobytes") else str(sample)


@pytest.mark.parametrize("limit", [7, 200])
@pytest.mark.parametrize("name", [name for name, card in zoo().items() if card.dataset and name != "smollm2-qa"])
def test_nothing_is_judged_that_int8_was_calibrated_on(name, limit):
    data = load_dataset(zoo()[name], limit)
    judged, others = ({identity(sample) for sample in part} for part in (data.samples, data.calibration))
    assert others
    assert not judged & others


@pytest.mark.parametrize(("name", "percent"), [("digits-resnet", 10), ("digits-resnet", 100), ("minilm", 1), ("minilm", 0.001)])
def test_a_percentage_is_of_what_is_judged(name, percent):
    most = load_dataset(zoo()[name], 200)
    assert load_dataset(zoo()[name], 200, percent).count == min(most.count, math.ceil(most.whole * percent / 100))


def test_perfect_and_reversed_scores_have_the_auc_they_should():
    data = load_dataset(zoo()["cancer-wide-deep"], 100)
    truth = np.asarray(data.labels)
    assert data.metrics(truth * 2.0 - 1, truth) == {"auc": 1.0, "accuracy": 1.0, "f1": 1.0}
    assert data.metrics(1.0 - truth * 2, truth)["auc"] == 0.0


def test_retrieval_finds_what_is_nearest():
    data = load_dataset(zoo()["minilm"], 40)
    count = len(data.samples) // 2
    assert data.count == count == 20
    assert data.whole > 100
    perfect = np.concatenate([np.eye(count), np.eye(count)])
    assert data.metrics(perfect, data.labels) == {"recall@1": 1.0, "recall@10": 1.0}
    shifted = np.concatenate([np.eye(count), np.roll(np.eye(count), 1, axis=0)])
    assert data.metrics(shifted, data.labels)["recall@1"] == 0.0
    assert (data.decisions(perfect) == np.arange(count)).all()
    inputs = data.preprocess(data.samples[0])
    assert inputs["input_ids"].shape == (128,)
    assert inputs["attention_mask"].sum() > 3
    assert not set(data.samples) & set(data.calibration)


def test_retrieval_is_the_same_every_time():
    assert load_dataset(zoo()["minilm"], 40).samples == load_dataset(zoo()["minilm"], 40).samples


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"  abcdef  ", [97, 98, 99, 100, 99, 100, 101, 102]),
        (b"ab", [97, 98, 256, 256, 256, 256, 97, 98]),
        (b"", [256] * 8),
    ],
)
def test_features_of_a_file(tmp_path, content, expected):
    path = tmp_path / "file"
    path.write_bytes(content)
    assert features(path, SETTINGS).tolist() == expected


def test_magika_knows_most_files_and_its_features_are_those_of_its_package():
    import onnxruntime
    from magika import Magika

    from general_perf.zoo.source import build

    card = zoo()["magika"]
    data = load_dataset(card, 60)
    session = onnxruntime.InferenceSession(str(build(card).onnx_path), providers=["CPUExecutionProvider"])
    answered = answer_all(lambda inputs: {"target_label": session.run(None, {"bytes": inputs["bytes"]})[0]}, data, 8)
    assert data.metrics(answered.answers, data.labels)["top1"] > 0.7
    config = (build(card).onnx_path).with_name("config.min.json")
    space = json.loads(config.read_bytes())["target_labels_space"]
    theirs = [str(found.dl.label) for found in Magika().identify_paths(list(data.samples))]
    assert [space[answer] for answer in answered.answers] == theirs


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "least"), [("digits-resnet", 0.93), ("cancer-wide-deep", 0.97)])
def test_training_is_seeded_and_reaches_what_it_says(recipe, least, monkeypatch, tmp_path):
    import torch

    monkeypatch.setenv("BMP_CACHE", str(tmp_path))
    _, said = train.trained(recipe)
    (facts,) = tmp_path.glob(f"general-{recipe}/training.json")
    (reached,) = json.loads(facts.read_text())["test"].values()
    assert reached >= least
    assert f"{reached:.4f}" in said
    short = train.RECIPES[recipe]._replace(epochs=2)
    (first, one), (second, two) = (train.train(short) for _ in range(2))
    assert one == two
    assert all(torch.equal(*pair) for pair in zip(first.state_dict().values(), second.state_dict().values(), strict=True))
