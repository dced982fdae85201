"""Cards: those that come with us are sound, and a bad one names its line."""

from __future__ import annotations

import re

import numpy as np
import pytest

from bytemlperf.errors import UserError
from general_perf.card import PUBLISHED, Architecture, find_cards, load_card, zoo
from general_perf.datasets.inputs import make_inputs
from general_perf.failures import StageError
from general_perf.zoo.modules import config_class, model_class

GOOD = """\
name: mine
model_class: regular
task: test
source: {kind: architecture, library: own, model: WideDeep, config: {numbers: 2, cardinalities: [3]}}
dims: {wide: 2}
inputs:
  - {name: dense, shape: [batch, wide], kind: uniform}
outputs: [logits]
"""

NAMED = [
    *("resnet50", "bert", "albert", "roberta", "deberta", "swin", "wide-deep"),
    *("yolos", "conformer", "roformer", "videomae", "clip", "dlrm", "minilm"),
    *("unet", "vae", "vit", "whisper-encoder", "smollm2-prefill"),
]


def test_every_model_of_the_three_classes_has_a_card():
    assert set(NAMED) <= set(zoo())
    assert {card.model_class for card in zoo().values()} == {"regular", "business", "sota"}


@pytest.mark.parametrize("name", sorted(zoo()))
def test_inputs_fit_the_card_at_every_size(name: str):
    for size in (PUBLISHED, *zoo()[name].sizes):
        card = zoo()[name].at_size(size)
        made = make_inputs(card, 2, seed=0)
        for wanted in card.inputs:
            array = made[wanted.name]
            assert array.shape == card.shape(wanted, 2)
            assert str(array.dtype) == wanted.dtype
            if wanted.kind == "categories":
                highs = wanted.high if isinstance(wanted.high, list) else [wanted.high] * array.shape[-1]
                assert (array < np.array(highs)).all()
                assert (array >= 0).all()


def test_inputs_are_seeded_and_batches_differ():
    card = zoo()["bert"]
    one, again, other = make_inputs(card, 4, 7), make_inputs(card, 4, 7), make_inputs(card, 4, 7, index=1)
    assert np.array_equal(one["input_ids"], again["input_ids"])
    assert not np.array_equal(one["input_ids"], other["input_ids"])


def test_token_ids_are_within_the_vocabulary_and_zero_where_masked():
    made = make_inputs(zoo()["bert"], 32, 0)
    ids, mask = made["input_ids"], made["attention_mask"]
    assert ids.max() < 30522
    assert (ids[mask == 0] == 0).all()
    assert (ids[mask == 1] > 0).all()
    assert len({int(length) for length in mask.sum(axis=1)}) > 4  # texts of different length
    assert (np.diff(mask, axis=1) <= 0).all()  # filled up at the end


def test_a_size_changes_configuration_and_dims():
    small = zoo()["swin"].at_size("small")
    assert small.source.config["embed_dim"] == 32
    assert small.source.config["num_labels"] == 1000
    assert small.dims == {"image": 64}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("task: test", "taks: test"), r"card.yaml:3: 'taks' is not a key here; did you mean 'task'\?"),
        (("kind: uniform", "kind: unifrom"), r"card.yaml:7: .*'unifrom'; did you mean 'uniform'\?"),
        (("wide], kind", "tall], kind"), "speaks of 'tall', which dims doesn't have; add it to dims"),
        (("shape: [batch, wide]", "shape: [wide, batch]"), "must begin with 'batch'"),
        (("kind: uniform", "kind: token_ids"), "without `high`"),
        (("library: own", "library: timm"), "'timm'"),
        (("outputs: [logits]", "outputs: []"), "outputs"),
    ],
)
def test_a_bad_card_names_its_line(tmp_path, change, said):
    path = tmp_path / "card.yaml"
    path.write_text(GOOD.replace(*change))
    with pytest.raises(UserError, match=said):
        load_card(path)


def test_a_good_card_of_ones_own(tmp_path):
    path = tmp_path / "card.yaml"
    path.write_text(GOOD)
    assert find_cards(str(path))[0].name == "mine"


def test_files_that_a_card_names_lie_beside_it_wherever_one_stands(tmp_path, monkeypatch):
    (tmp_path / "cards").mkdir()
    lines = GOOD.splitlines()
    lines[3] = "source: {kind: local, path: mine.onnx, format: onnx}"
    (tmp_path / "cards" / "card.yaml").write_text("\n".join([*lines, "dataset: squad:asked.json"]))
    monkeypatch.chdir(tmp_path)
    card = find_cards("cards/card.yaml")[0]
    assert card.source.path == str(tmp_path / "cards" / "mine.onnx")
    assert card.dataset == f"squad:{tmp_path / 'cards' / 'asked.json'}"


def test_names_that_are_none():
    with pytest.raises(UserError, match="did you mean 'resnet50'"):
        find_cards("resnet5")
    with pytest.raises(UserError, match="no size 'smal'; did you mean 'small'"):
        zoo()["bert"].at_size("smal")
    with pytest.raises(UserError, match="no dimension 'sequense'; did you mean 'sequence'"):
        zoo()["bert"].at_size(PUBLISHED, {"sequense": 3})


def test_classes_and_all():
    assert {card.model_class for card in find_cards("sota")} == {"sota"}
    assert [card.name for card in find_cards("all")] == list(zoo())


# --- a card is data -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    [
        "{kind: architecture, library: transformers, model: utils.hub.cached_file}",
        "{kind: architecture, library: transformers, model: pipeline}",
        "{kind: architecture, library: transformers, model: dynamic_module_utils.get_class_from_dynamic_module}",
        "{kind: architecture, library: diffusers, model: utils.dynamic_modules_utils.get_cached_module_file}",
        "{kind: architecture, library: own, model: math.log}",
        "{kind: architecture, library: transformers, model: BertModel, config_class: utils.import_utils.os}",
        "{kind: architecture, library: transformers, model: BertModel, config_class: BertConfig, method: push_to_hub}",
        "{kind: architecture, library: transformers, model: M, config_class: C, config: {a: {_attn_implementation: kernels-x/y}}}",
        "{kind: architecture, library: transformers, model: M, config_class: C, config: {auto_map: {AutoModel: x.Y}}}",
        "{kind: package, package: p, module: os.path, path: x, format: onnx, licence: MIT}",
        "{kind: package, package: p, module: p, path: ../../secret, format: onnx, licence: MIT}",
        "{kind: package, package: p, module: p, path: /etc/passwd, format: onnx, licence: MIT}",
        "{kind: local, path: x, format: checkpoint, model: pipelines.pipeline}",
    ],
)
def test_what_is_no_class_of_models_is_refused_when_the_card_is_read(source, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(re.sub(r"source: .*", f"source: {source}", GOOD))
    with pytest.raises(UserError, match=r"mine\.yaml"):
        load_card(path)


@pytest.mark.parametrize(
    ("library", "name"),
    [
        ("transformers", "Trainer"),  # a class, not of models
        ("transformers", "PreTrainedModel"),  # not a model of its own
        ("transformers", "BertConfig"),
        ("transformers", "BertTokenizer"),
        ("transformers", "TorchExportableModuleForDecoderOnlyLM"),
        ("transformers", "models.bert.modeling_bert.Callable"),  # of another library, by way of a model's module
        ("transformers", "models.none.modeling_none.NoModel"),
        ("diffusers", "DiffusionPipeline"),
        ("diffusers", "AutoModel"),
        ("own", "Module"),
    ],
)
def test_a_name_that_is_no_class_of_models_is_not_touched(library, name):
    with pytest.raises(StageError, match=f"'{name}' is not a ") as caught:
        model_class(library, name)
    assert caught.value.error_class == "unsupported_format"


def test_every_class_of_the_zoo_is_one_that_may_be_named():
    for card in zoo().values():
        if isinstance(card.source, Architecture):
            assert model_class(card.source.library, card.source.model).__name__ == card.source.model.rpartition(".")[2]
            assert card.source.library != "transformers" or config_class(str(card.source.config_class))
    assert model_class("transformers", "AutoModelForCausalLM").__name__ == "AutoModelForCausalLM"
