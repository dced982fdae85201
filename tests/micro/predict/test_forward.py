"""The operators of a forward pass are those of the real model: their FLOPs are counted by torch itself."""

from __future__ import annotations

from typing import Any

import pytest

from bytemlperf.errors import UserError
from bytemlperf.models.shape import ModelShape, read_shape, shape_of
from micro.predict.costs import call_of
from micro.predict.forward import Pass, forward
from micro.registry import OPERATORS

CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 640,
    "hidden_size": 96,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
}
BATCH, TOKENS = 2, 24


def shape(**more: Any) -> ModelShape:
    return shape_of("tiny", {**CONFIG, **more})


def flops(each: Pass, of: ModelShape, ops: tuple[str, ...], tp: int = 1) -> int:
    steps = [step for step in forward(of, each, "float32", tp) if step.op in ops]
    return sum(step.calls * OPERATORS[step.op].cost(call_of(step, all_hot=True).args).flops for step in steps)


@pytest.mark.parametrize("model_type", ["llama", "mistral", "qwen2", "qwen3"])
def test_matrix_flops_are_those_that_torch_counts_in_the_real_model(model_type: str) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from torch.utils.flop_counter import FlopCounterMode

    config = transformers.AutoConfig.for_model(**{**CONFIG, "model_type": model_type, "tie_word_embeddings": True})
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    prompt = torch.randint(0, CONFIG["vocab_size"], (BATCH, TOKENS))
    with torch.no_grad():
        cache = model(prompt, logits_to_keep=1).past_key_values
        for each, ids, past in (
            (Pass("prefill", BATCH, TOKENS, 0), prompt, None),
            (Pass("decode", BATCH, 1, TOKENS), prompt[:, :1], cache),
        ):
            with FlopCounterMode(display=False) as counter:
                model(ids, logits_to_keep=1, past_key_values=past)
            counted = sum(
                count for op, count in counter.get_flop_counts()["Global"].items() if op in (torch.ops.aten.mm, torch.ops.aten.addmm)
            )
            assert flops(each, shape(model_type=model_type), ("gemm",)) == counted


@pytest.mark.parametrize("each", [Pass("prefill", BATCH, TOKENS, 0), Pass("decode", BATCH, 1, TOKENS)])
def test_a_shapes_work_is_that_of_its_operators(each: Pass) -> None:
    work = shape().work(each.batch, each.new, each.cached)
    assert work.flops == flops(each, shape(), ("gemm", "flash_attention"))
    assert work.weight_values == shape().pass_values
    assert work.cache_values == shape().cache_values(BATCH * (TOKENS + each.cached // TOKENS))
    experts = shape(model_type="mixtral", num_local_experts=8, num_experts_per_tok=2)
    assert experts.work(1, 1, 0).weight_values == pytest.approx(experts.pass_values - 3 * 6 * 3 * 96 * 160)  # 2 experts of 8
    assert experts.work(1, 4096, 0).weight_values == pytest.approx(experts.pass_values)


def test_experts_do_as_much_as_the_tokens_that_they_get() -> None:
    mixtral = shape(model_type="mixtral", num_local_experts=8, num_experts_per_tok=2)
    dense, each = shape(), Pass("prefill", BATCH, TOKENS, 0)
    mlp = 2 * BATCH * TOKENS * 3 * 96 * 160 * 3
    assert flops(each, mixtral, ("group_gemm",)) == 2 * mlp
    gating = 2 * BATCH * TOKENS * 96 * 8 * 3
    assert flops(each, mixtral, ("gemm",)) == flops(each, dense, ("gemm",)) - mlp + gating


def test_ranks_share_the_matrices_and_sum_twice_a_layer() -> None:
    each = Pass("decode", BATCH, 1, TOKENS)
    assert flops(each, shape(), ("gemm",), tp=2) * 2 == flops(each, shape(), ("gemm",))
    steps = {step.part: step for step in forward(shape(), each, "bfloat16", 2)}
    assert steps["all_reduce"].calls == 2 * 3
    assert steps["all_reduce"].args == {"world_size": 2, "batch_size": BATCH, "dim_size": 96, "dtype": "bfloat16"}
    assert "all_gather of logits" in steps


def test_every_operator_of_every_architecture_takes_its_arguments() -> None:
    for more in ({}, {"model_type": "qwen3"}, {"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2}):
        for each in (Pass("prefill", 2, 7, 0), Pass("decode", 2, 1, 7)):
            for step in forward(shape(**more), each, "bfloat16", 2):
                assert call_of(step, all_hot=False).args["dtype"] in ("bfloat16", "float32")


@pytest.mark.parametrize(
    ("more", "cause"),
    [
        ({"model_type": "lama"}, "has model_type 'lama', whose forward pass is not supported"),
        ({"hidden_size": None}, "hidden_size is missing in the configuration"),
        ({"num_hidden_layers": "3"}, "num_hidden_layers is '3' in the configuration"),
        ({"quantization_config": {"bits": 4}}, "has quantised weights"),
    ],
)
def test_a_configuration_that_is_not_understood_is_an_error(more: dict[str, Any], cause: str) -> None:
    with pytest.raises(UserError, match=cause):
        shape(**more)


def test_a_split_that_is_none_is_an_error() -> None:
    with pytest.raises(UserError, match="--tp 4 does not divide tiny's 6 attention heads"):
        forward(shape(), Pass("decode", 1, 1, 1), "bfloat16", 4)


def test_a_folder_without_weights_is_enough(tmp_path: Any) -> None:
    import json

    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    assert read_shape(str(tmp_path)).layers == read_shape(str(tmp_path / "config.json")).layers == 3
