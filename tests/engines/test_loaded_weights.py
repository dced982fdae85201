"""The `dtype` of a result says what was loaded, read from the model's own files."""

from __future__ import annotations

import struct
from types import SimpleNamespace

import pytest

from engines.loaded_weights import dtype_text, gguf_weights, ir_weights, quantisation_text
from engines.vllm.engine import _quantisation


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def gguf(*tensors: tuple[int, tuple[int, ...]]) -> bytes:
    pairs = [
        text(b"general.architecture") + struct.pack("<I", 8) + text(b"llama"),
        text(b"llama.context_length") + struct.pack("<II", 4, 2048),
        text(b"tokenizer.tokens") + struct.pack("<IIQ", 9, 8, 2) + text(b"a") + text(b"bc"),
        text(b"tokenizer.scores") + struct.pack("<IIQ", 9, 6, 2) + struct.pack("<ff", 0, 1),
    ]
    infos = [
        text(b"t%d" % place) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, 0) for place, (kind, shape) in enumerate(tensors)
    ]
    return struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(pairs)) + b"".join(pairs + infos)


def test_a_ggufs_types_are_those_of_its_tensors(tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf((12, (256, 100)), (14, (256, 20)), (0, (256,))))
    assert gguf_weights(path) == "Q4_K/Q6_K", "norms in 32 bits are no part of it"
    path.write_bytes(gguf((77, (8,))))
    assert gguf_weights(path) == "type 77"


@pytest.mark.parametrize(
    "content", [b"", b"GGUF", gguf((0, (8,)))[:-9], b"GGUF" + b"\xff" * 60, gguf((0, (8,))).replace(b"<I", b"xx")[:40]]
)
def test_a_torn_file_is_not_known(tmp_path, content):
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    assert gguf_weights(path) == ""
    assert gguf_weights(tmp_path / "none") == ""


def test_an_irs_types_are_those_of_its_constants(tmp_path):
    path = tmp_path / "openvino_model.xml"
    path.write_text(
        '<net><layer type="Const"><data element_type="u4" offset="0" shape="576, 1536" size="442368"/></layer>\n'
        '<layer type="Const"><data element_type="f16" shape="1536" offset="442368" size="3072" /></layer>\n'
        '<layer type="Parameter"><data shape="?,?" element_type="i64"/></layer></net>'
    )
    assert ir_weights(path) == "u4"
    assert ir_weights(tmp_path / "none") == ""


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (None, ""),
        ({}, ""),
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, "awq 4-bit"),
        ({"quant_method": "gptq", "bits": 8}, "gptq 8-bit"),
        ({"quant_method": "fp8"}, "fp8"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes 4-bit"),
        ({"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": {"num_bits": 4}}}}, "compressed-tensors 4-bit"),
        (SimpleNamespace(quant_method=SimpleNamespace(value="awq"), bits=4), "awq 4-bit"),
    ],
)
def test_a_checkpoints_quantisation_is_named(config, said):
    assert quantisation_text(config) == said


def test_vllms_own_quantisation_counts_where_the_checkpoint_has_none():
    assert _quantisation(SimpleNamespace(hf_config=SimpleNamespace(), quantization="fp8")) == "fp8"
    assert (
        _quantisation(
            SimpleNamespace(hf_config=SimpleNamespace(quantization_config={"quant_method": "awq", "bits": 4}), quantization="awq_marlin")
        )
        == "awq 4-bit"
    )


def test_two_models_have_two_dtypes():
    assert dtype_text("", "bfloat16") == dtype_text("bfloat16", "bfloat16") == "bfloat16"
    assert dtype_text("Q4_1/Q8_0", "float32") == "Q4_1/Q8_0 weights, float32 arithmetic"
