"""A GGUF file's first layers alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bytemlperf.errors import UserError
from bytemlperf.models.fewer_layers import with_layers
from engines.contract import Model

gguf = pytest.importorskip("gguf")


def test_the_first_layers_are_kept_with_the_rest_as_it_was(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    (checkpoint / "config.json").write_text(json.dumps({"num_hidden_layers": 3, "hidden_size": 32}))
    (checkpoint / "tokenizer.json").write_text("{}")
    whole = gguf.GGUFWriter(tmp_path / "whole.gguf", "llama")
    whole.add_block_count(3)
    whole.add_array("tokenizer.ggml.tokens", ["a", "b"])
    for place, name in enumerate(("token_embd.weight", "blk.0.w", "blk.1.w", "blk.2.w")):
        whole.add_tensor(name, np.full((2, 32), place, np.float32))
    quantised = gguf.quants.quantize(np.ones((2, 32), np.float32), gguf.GGMLQuantizationType.Q4_1)
    whole.add_tensor("blk.10.w", quantised, raw_dtype=gguf.GGMLQuantizationType.Q4_1)
    whole.add_tensor("blk.1.q", quantised, raw_dtype=gguf.GGMLQuantizationType.Q4_1)
    for write in (whole.write_header_to_file, whole.write_kv_data_to_file, whole.write_tensors_to_file, whole.close):
        write()
    model = Model(name="whole", path=str(checkpoint), gguf_path=str(tmp_path / "whole.gguf"))
    folder = with_layers(model, 2, tmp_path / "fewer")
    read = gguf.GGUFReader(folder / "model.gguf")
    assert {tensor.name: tensor.tensor_type.name for tensor in read.tensors} == {
        "token_embd.weight": "F32",
        "blk.0.w": "F32",
        "blk.1.w": "F32",
        "blk.1.q": "Q4_1",
    }
    assert next(tensor for tensor in read.tensors if tensor.name == "blk.1.q").data.tobytes() == quantised.tobytes()
    assert read.fields["llama.block_count"].contents() == 2
    assert read.fields["tokenizer.ggml.tokens"].contents() == ["a", "b"]
    assert json.loads((folder / "config.json").read_text()) == {"num_hidden_layers": 2, "hidden_size": 32}
    assert (folder / "tokenizer.json").read_text() == "{}"
    assert json.loads((checkpoint / "config.json").read_text())["num_hidden_layers"] == 3


def test_a_model_without_such_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="model 'plain' has no GGUF file"):
        with_layers(Model(name="plain", path=str(tmp_path)), 2, tmp_path / "fewer")
