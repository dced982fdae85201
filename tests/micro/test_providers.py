"""Every provider either computes a basic case within tolerance or refuses it with a reason."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest

from micro.cases.case import validate
from micro.measure.correctness import check_outputs
from micro.operators.contract import Maker
from micro.providers.contract import Refused
from micro.providers.registry import find_provider
from micro.registry import OPERATORS

torch = pytest.importorskip("torch")

HEADS = {"q_head_num": 8, "kv_head_num": 2, "head_dim": 32}
PLAIN = {"num_tokens": 24, "hidden_size": 64}
COMPUTED = [
    ("onednn", "gemm", {"M": 5, "K": 64, "N": 48, "dtype": "float32"}),
    ("onednn", "gemv", {"M": 48, "K": 64, "dtype": "float32"}),
    ("onednn", "group_gemm", {"num_groups": 4, "M": 40, "K": 64, "N": 48, "routing": "zipf"}),
    ("onednn", "moe_gating_gemm", {**PLAIN, "num_experts": 16}),
    ("numpy", "gemm", {"M": 5, "K": 64, "N": 48, "dtype": "float64"}),
    ("numpy", "gemv", {"M": 48, "K": 64}),
    ("numpy", "batch_gemm", {"batch_size": 3, "M": 5, "K": 64, "N": 48}),
    ("numpy", "moe_gating_gemm", {**PLAIN, "num_experts": 16}),
    ("sdpa", "flash_attention", {**HEADS, "q_len": 40, "cache_len": 0, "batch_size": 3}),
    ("sdpa", "flash_attention", {**HEADS, "q_len": 40, "cache_len": 24, "block_size": 16}),
    ("sdpa", "flash_attention", {**HEADS, "q_len": 4, "cache_len": 24, "is_causal": False}),
    ("sdpa", "flash_attention", {**HEADS, "q_lens": [3, 40, 1], "cache_lens": [9, 0, 33], "block_size": 16, "cache_dtype": "int8"}),
    ("sdpa", "flash_decoding", {**HEADS, "batch_size": 4, "cache_len": 63}),
    ("torch_compile", "rms_norm", {"batch_size": 3, "dim_size": 37}),
]
ON_VLLM = [
    ("rms_norm", {"batch_size": 24, "dim_size": 64, "dtype": "bfloat16"}),
    ("add_rms_norm", {**PLAIN, "dtype": "bfloat16"}),
    ("swiglu", {**PLAIN, "dtype": "bfloat16"}),
    ("rotary_embedding", {**HEADS, "head_dim": 64, "rope_dim": 64, "q_len": 40, "cache_len": 24}),
    ("scale_dynamic_quant", PLAIN),
    ("quant_matmul", {**PLAIN, "new_hidden_size": 48}),
]


def computed(provider: str, op: str, given: dict[str, Any]) -> str:
    """The fault that the check finds, "" where there is none."""
    operator = OPERATORS[op]
    args = validate(operator, given)
    inputs = operator.inputs(args, Maker(3, "cpu"))
    with torch.inference_mode():
        kernel = find_provider(provider).build(operator, args, "cpu")
        prepared = kernel.prepare(tuple(part.clone() for part in inputs))
        junk = [torch.full_like(part, 77) for part in inputs for _ in range(99)]  # a kernel that points to freed memory reads this
        outputs = kernel.run(*prepared)
        assert junk
        return check_outputs(operator, args, inputs, outputs, operator.reference(args, inputs)).fault


@pytest.mark.parametrize(("provider", "op", "given"), COMPUTED)
def test_a_provider_computes_what_it_says(provider: str, op: str, given: dict[str, Any]) -> None:
    assert computed(provider, op, given) == ""


@pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed")
@pytest.mark.parametrize(("op", "given"), ON_VLLM)
def test_vllm_computes_on_a_cpu(op: str, given: dict[str, Any]) -> None:
    assert computed("vllm", op, given) == ""


@pytest.mark.parametrize(
    ("provider", "op", "given", "reason"),
    [
        ("torch", "gemm", {"M": 1, "K": 1, "N": 1, "dtype": "tf32"}, "CPUs have no tfloat32"),
        ("torch_compile", "gemm", {"M": 1, "K": 1, "N": 1, "dtype": "tf32"}, "CPUs have no tfloat32"),
        ("onednn", "gemm", {"M": 1, "K": 1, "N": 1, "dtype": "float64"}, "oneDNN's linear has no float64"),
        ("onednn", "softmax", {"batch_size": 1, "dim_size": 1}, "not softmax"),
        ("numpy", "gemm", {"M": 1, "K": 1, "N": 1, "dtype": "bf16"}, "numpy's BLAS has no bfloat16"),
        ("sdpa", "gemm", {"M": 1, "K": 1, "N": 1}, "SDPA computes flash_attention"),
        ("triton", "gemm", {"M": 1, "K": 1, "N": 1}, "Triton"),
        ("flash_attn", "flash_attention", HEADS, "flash-attn is"),
        ("flashinfer", "rms_norm", {"batch_size": 1, "dim_size": 1}, "flashinfer is"),
        ("vllm", "gemm", {"M": 1, "K": 1, "N": 1}, "vLLM"),
    ],
)
def test_what_a_provider_lacks_is_refused_with_a_reason(provider: str, op: str, given: dict[str, Any], reason: str) -> None:
    with pytest.raises(Refused, match=reason):
        find_provider(provider).build(OPERATORS[op], validate(OPERATORS[op], given), "cpu")


@pytest.mark.parametrize("name", ["vllm", "triton", "flash_attn", "flashinfer"])
def test_an_absent_package_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("micro.providers.contract.find_spec", lambda _module: None)
    operator = OPERATORS["rms_norm"]
    with pytest.raises(Refused, match="is not installed"):
        find_provider(name).build(operator, validate(operator, {"batch_size": 1, "dim_size": 1}), "cpu")


@pytest.mark.parametrize(
    ("op", "given", "note"),
    [
        ("gemm", {"M": 4, "K": 4, "N": 4, "dtype": "fp8"}, "float8 products are emulated in float32"),
        ("gemm", {"M": 4, "K": 4, "N": 4, "dtype": "int8"}, ""),
        ("quant_matmul", {**PLAIN, "new_hidden_size": 8, "w_dtype": "int4"}, "int4 is emulated: unpacked to int8 in each call"),
        (
            "flash_attention",
            HEADS | dict.fromkeys(("dtype", "cache_dtype", "qk_compute_dtype", "pv_compute_dtype"), "int8"),
            "int8 products are emulated in bfloat16",
        ),
    ],
)
def test_an_emulation_is_called_one(op: str, given: dict[str, Any], note: str) -> None:
    operator = OPERATORS[op]
    assert find_provider("torch").build(operator, validate(operator, given), "cpu").note == note
