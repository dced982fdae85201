"""Formulas by hand, mistakes that kernels really make, routing, and ByteMLPerf's argument names."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from micro.cases.case import BadCase, validate
from micro.cases.workload_file import expand
from micro.measure.correctness import check_outputs
from micro.measure.estimate import Rates, estimate
from micro.operators import attention, kv_cache, llm_norm, product
from micro.operators.contract import Maker, Operator
from micro.operators.routing import Routing, spread
from micro.registry import OPERATORS

torch = pytest.importorskip("torch")

HEADS = {"q_head_num": 8, "kv_head_num": 2, "head_dim": 32}
TOKENS = {"num_tokens": 24, "hidden_size": 64}
MOE = {**TOKENS, "num_experts": 8, "topk": 2, "ep_size": 2}


def fault(operator: Operator, given: dict[str, Any], kernel: Callable[..., Any] | None = None) -> str:
    """What the check finds in the plain kernel's outputs, or another's."""
    args = validate(operator, given)
    inputs = operator.inputs(args, Maker(7, "cpu"))
    copies = tuple(part.clone() for part in inputs)
    outputs = (kernel or operator.kernel(args))(*copies)
    return check_outputs(operator, args, inputs, outputs, operator.reference(args, inputs)).fault


def cost_of(op: str, given: dict[str, Any]) -> tuple[int, int, int]:
    cost = OPERATORS[op].cost(validate(OPERATORS[op], given))
    return cost.flops, cost.read_bytes, cost.write_bytes


@pytest.mark.parametrize(
    ("op", "given", "flops", "read", "written"),
    [
        ("rms_norm", {"batch_size": 2, "dim_size": 10}, 4 * 20, 4 * 30, 4 * 20),
        ("reduce_max", {"batch_size": 2, "dim_size": 10, "dtype": "bf16"}, 20, 40, 2 * 2 + 2 * 8),
        ("topk", {"batch_size": 2, "dim_size": 10, "k": 3}, 0, 80, 2 * 3 * (4 + 8)),
        ("gather", {"src_batch_size": 4, "dst_batch_size": 6, "dim_size": 5}, 0, 4 * 4 * 5 + 6 * 8, 4 * 6 * 5),
        ("index_add", {"src_batch_size": 6, "dst_batch_size": 4, "dim_size": 5}, 30, 4 * (30 + 20) + 6 * 8, 4 * 20),
        ("scatter", {"src_batch_size": 4, "dst_batch_size": 6, "dim_size": 5}, 0, 80 + 32, 80),
        ("gemv", {"M": 3, "K": 5}, 30, 4 * 20, 12),
        ("batch_gemm", {"batch_size": 2, "M": 3, "K": 4, "N": 5}, 2 * 2 * 60, 4 * 2 * 32, 4 * 2 * 15),
        ("gemm", {"M": 2, "K": 3, "N": 5, "dtype": "int8"}, 60, 6 + 15, 40),
        ("quant_matmul", {"num_tokens": 4, "sp_size": 2, "hidden_size": 6, "new_hidden_size": 5}, 120, 12 + 8 + 30 + 20, 20),
        ("quant_matmul", {"num_tokens": 2, "hidden_size": 6, "new_hidden_size": 5, "w_dtype": "int4"}, 120, 12 + 8 + 15 + 20, 20),
        ("scale_dynamic_quant", {"num_tokens": 2, "hidden_size": 6}, 4 * 12, 24 + 24, 12 + 8),
        ("add_rms_norm", {"num_tokens": 2, "hidden_size": 6, "dtype": "bf16"}, 5 * 12, 2 * 30, 2 * 24),
        ("swiglu", {"num_tokens": 2, "hidden_size": 6}, 2 * 12, 4 * 24, 4 * 12),
        # q 2·4·8 bf16, a cache of 2 kv heads · 5 keys · 8 twice, one block number a sequence
        ("flash_attention", {**HEADS, "q_head_num": 4, "head_dim": 8, "q_len": 2, "cache_len": 3}, 4 * 4 * 8 * 9, 128 + 4 + 320, 128),
        # 3 tokens, k and v of 2 heads by 32, and their slots; the cache in int8, scales in float32
        ("store_kv_cache", {**HEADS, "q_len": 3, "cache_dtype": "int8"}, 2 * 384, 768 + 24 + 512, 384),
        ("rotary_embedding", {**HEADS, "q_len": 3, "rope_dim": 16}, 3 * 480, 2 * (480 + 2 * 3 * 16) + 24, 960),
    ],
)
def test_costs_by_hand(op: str, given: dict[str, Any], flops: int, read: int, written: int) -> None:
    assert cost_of(op, given) == (flops, read, written)


@pytest.mark.parametrize(("query", "cached"), [(1, 0), (1, 9), (5, 0), (5, 7)])
def test_attention_counts_the_pairs_of_a_causal_mask(query: int, cached: int) -> None:
    pairs = sum(1 for token in range(query) for key in range(query + cached) if key <= cached + token)
    assert cost_of("flash_attention", {**HEADS, "q_len": query, "cache_len": cached})[0] == 4 * 8 * 32 * pairs


def test_positions_that_sequences_share_are_read_once() -> None:
    args = validate(OPERATORS["rotary_embedding"], {**HEADS, "rope_dim": 32, "q_lens": [3, 4, 2], "cache_lens": [0, 1, 9]})
    assert kv_cache.different_positions(kv_cache.Sequences.of(args)) == len({0, 1, 2} | {1, 2, 3, 4} | {9, 10})


def _truncating(x: Any, smooth: Any) -> Any:
    smoothed = x.float() * smooth
    scale = smoothed.abs().amax(-1, keepdim=True) / 127
    return (smoothed / scale).trunc().to(torch.int8), scale[:, 0]


def _scaled_by_128(x: Any, smooth: Any) -> Any:
    smoothed = x.float() * smooth
    scale = smoothed.abs().amax(-1, keepdim=True) / 128
    return (smoothed / scale).round().clamp(-128, 127).to(torch.int8), scale[:, 0]


def _not_smoothed(x: Any, smooth: Any) -> Any:
    return product.quantise(x.float(), torch.ones_like(smooth), "int8")


def _by_tensor(x: Any, smooth: Any) -> Any:
    smoothed = x.float() * smooth
    scale = smoothed.abs().amax() / 127
    return (smoothed / scale).round().to(torch.int8), scale.expand(len(x))


@pytest.mark.parametrize("wrong", [_truncating, _scaled_by_128, _not_smoothed, _by_tensor])
def test_a_wrong_quantisation_is_found(wrong: Callable[..., Any]) -> None:
    assert fault(OPERATORS["scale_dynamic_quant"], TOKENS) == ""
    assert "values are wrong" in fault(OPERATORS["scale_dynamic_quant"], TOKENS, wrong)


def _attention_with(args: dict[str, Any], change: Callable[[attention.One], attention.One], causal: bool = True) -> Callable[..., Any]:
    def kernel(*tensors: Any) -> Any:
        dtype = getattr(torch, attention.compute_type(args))
        ones = [change(one) for one in attention.each_sequence(args, tensors, dtype)]
        return torch.cat([attention._plain(one, causal) for one in ones])

    return kernel


LONG = {"q_head_num": 8, "kv_head_num": 2, "head_dim": 64, "attn_mode": "decode", "batch_size": 4}


@pytest.mark.parametrize("op", ["flash_attention", "flash_decoding"])
@pytest.mark.parametrize("cached", [127, 4095, 16383])
@pytest.mark.parametrize("layout", [{"block_size": 0}, {"block_size": 64}, {"block_size": 64, "cache_dtype": "int8"}])
def test_every_key_of_a_long_cache_counts(op: str, cached: int, layout: dict[str, Any]) -> None:
    args = validate(OPERATORS[op], {**LONG, "cache_len": cached, **layout})

    def kept(one: attention.One, keys: slice, factor: float = 1.0) -> attention.One:
        return one._replace(k=one.k[:, keys], v=one.v[:, keys] * factor)

    inputs = OPERATORS[op].inputs(args, Maker(7, "cpu"))
    reference = OPERATORS[op].reference(args, inputs)
    wrong = {"newest": slice(0, cached), "half": slice(cached // 2, None), "a block": slice(min(64, cached // 2), None)}
    for what, keys in {"": slice(None), **wrong}.items():
        outputs = _attention_with(args, lambda one: kept(one, keys), causal=False)(*inputs)  # noqa: B023
        assert bool(check_outputs(OPERATORS[op], args, inputs, outputs, reference).fault) == bool(what), what
    outputs = _attention_with(args, lambda one: kept(one, slice(None), 1.03), causal=False)(*inputs)
    assert check_outputs(OPERATORS[op], args, inputs, outputs, reference).fault


@pytest.mark.parametrize("layout", [{"block_size": 0}, {"block_size": 16}, {"block_size": 16, "cache_dtype": "int8"}])
def test_wrong_attention_is_found(layout: dict[str, Any]) -> None:
    operator, given = OPERATORS["flash_attention"], {**HEADS, "q_len": 20, "cache_len": 30, **layout}
    args = validate(operator, given)
    right = _attention_with(args, lambda one: one)
    assert fault(operator, given, right) == ""
    assert fault(operator, given, _attention_with(args, lambda one: one, causal=False)), "later keys seen"
    assert fault(operator, given, _attention_with(args, lambda one: one._replace(cached=one.cached + 1))), "mask off by one"
    assert fault(operator, given, _attention_with(args, lambda one: one._replace(q=one.q * 2))), "another softmax scale"
    assert fault(operator, given, _attention_with(args, lambda one: one._replace(k=one.k.flip(0)))), "another head's keys"
    assert fault(operator, given, _attention_with(args, lambda one: one._replace(v=one.v.roll(1, 1)))), "values of other tokens"


def test_a_cache_slot_written_beside_its_place_is_found() -> None:
    operator, given = OPERATORS["store_kv_cache"], {**HEADS, "q_len": 4, "cache_len": 9, "block_size": 8, "cache_dtype": "int8"}
    kernel = operator.kernel(validate(operator, given))
    assert fault(operator, given) == ""
    assert fault(operator, given, lambda packed, slots, *rest: kernel(packed, slots ^ 1, *rest))

    def scribbling(packed: Any, slots: Any, *rest: Any) -> Any:
        caches = kernel(packed, slots, *rest)
        spare = next(slot for slot in range(16) if slot not in slots)
        caches[1][spare // 8, 0, spare % 8, 0] += 1
        return caches

    assert fault(operator, given, scribbling)


def test_rotation_by_the_wrong_angle_or_of_the_values_is_found() -> None:
    operator, given = OPERATORS["rotary_embedding"], {**HEADS, "q_len": 5, "cache_len": 9, "rope_dim": 16, "rope_offset": 8}
    args = validate(operator, given)
    kernel = operator.kernel(args)
    assert fault(operator, given) == ""
    assert fault(operator, given, lambda packed, positions, cos, sin: kernel(packed, positions - 1, cos, sin))
    assert fault(operator, given, lambda packed, positions, cos, sin: kernel(packed, positions, cos, -sin))
    shifted = operator.kernel({**args, "rope_offset": 0})
    assert fault(operator, given, shifted)


def test_wrong_scales_of_products_are_found() -> None:
    operator, given = OPERATORS["quant_matmul"], {**TOKENS, "new_hidden_size": 48}
    kernel = operator.kernel(validate(operator, given))
    assert fault(operator, given) == ""
    assert fault(operator, given, lambda x, x_scale, w, w_scale: kernel(x, x_scale.flip(0), w, w_scale))
    assert fault(operator, given, lambda x, x_scale, w, w_scale: kernel(x, x_scale, w, w_scale.mean().expand(48)))
    assert fault(operator, given, lambda x, x_scale, w, w_scale: kernel(x, x_scale, w, w_scale) * 1.05)


@pytest.mark.parametrize("routing", ["balanced", "zipf"])
def test_experts_that_swap_weights_or_tokens_are_found(routing: str) -> None:
    group, scatter, gather = (OPERATORS[name] for name in ("moe_quant_group_gemm", "moe_scatter_dynamic_quant", "moe_gather"))
    given = {**MOE, "routing": routing}
    product_of = group.kernel(validate(group, {**given, "new_hidden_size": 48}))
    assert fault(group, {**given, "new_hidden_size": 48}, lambda x, s, w, c, *rest: product_of(x, s, w.flip(0), c, *rest))
    dispatch = scatter.kernel(validate(scatter, given))
    assert fault(scatter, given) == ""
    assert fault(scatter, given, lambda x, smooth, *rest: dispatch(x, smooth.flip(0), *rest))
    assert fault(scatter, given, lambda x, smooth, chosen, weights: dispatch(x, smooth, chosen, weights.flip(0)))
    bring = gather.kernel(validate(gather, given))
    assert fault(gather, given, lambda rows, token, weight, residual: bring(rows, token, torch.ones_like(weight), residual))
    assert fault(gather, given, lambda rows, token, weight, residual: bring(rows, token, weight, residual * 0.9))


def test_rows_of_an_expert_may_come_in_another_order() -> None:
    operator = OPERATORS["moe_dispatch_local"]
    args = validate(operator, MOE)
    kernel = operator.kernel(args)

    def reordered(*inputs: Any) -> Any:
        rows, token, weight, counts, offsets = kernel(*inputs)
        order = torch.cat([torch.arange(count).flip(0) + start for count, start in zip(counts, offsets, strict=True)])
        return rows[order], token[order], weight[order], counts, offsets

    assert fault(operator, MOE, reordered) == ""
    assert fault(operator, MOE, lambda *inputs: [part.flip(0) for part in kernel(*inputs)])


def test_norm_weights_and_the_formula_matter() -> None:
    for name, given in (("add_rms_norm", TOKENS), ("qk_rms_norm", {"num_tokens": 5, "q_head_num": 4, "kv_head_num": 2, "qk_head_dim": 16})):
        operator = OPERATORS[name]
        kernel = operator.kernel(validate(operator, given))
        assert fault(operator, given) == ""
        assert fault(operator, given, lambda *inputs, kernel=kernel: kernel(*inputs[:-1], inputs[-1] * -1))
    swiglu = OPERATORS["swiglu"]
    assert fault(swiglu, TOKENS, lambda x: llm_norm.swiglu(torch.cat(x.chunk(2, -1)[::-1], -1))), "the halves are not alike"


def test_int4_pairs_come_back() -> None:
    values = torch.arange(-8, 8, dtype=torch.int8).view(2, 8)
    packed = product.pack_int4(values)
    assert packed.shape == (2, 4)
    assert torch.equal(product.unpack_int4(packed), values)


# --- routing ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("routing", ["balanced", "zipf", "zipf:2.5"])
@pytest.mark.parametrize(("tokens", "topk", "experts", "ranks"), [(1, 2, 8, 4), (50, 4, 16, 8), (33, 3, 12, 4), (5, 8, 8, 2)])
def test_a_token_takes_different_experts_and_the_counts_are_true(routing: str, tokens: int, topk: int, experts: int, ranks: int) -> None:
    for rank in range(ranks):
        args = {"num_tokens": tokens, "topk": topk, "num_experts": experts, "ep_size": ranks, "ep_rank": rank, "routing": routing}
        part = Routing.of(args)
        chosen = part.selection(Maker(rank, "cpu")).long()
        assert (chosen.sort(-1).values.diff(dim=-1) > 0).all()
        assert tuple(torch.bincount(chosen.flatten(), minlength=experts).tolist()) == part.all_counts
        mine = (chosen >= part.first) & (chosen < part.first + experts // ranks)
        assert (int(mine.sum()), int(mine.any(1).sum())) == (part.rows, part.used_tokens)


def test_shares_of_zipfs_law_and_of_a_file(tmp_path: Path) -> None:
    assert spread(25, 3, "zipf:0") == [9, 8, 8]
    assert spread(110, 4, "zipf") == [53, 26, 18, 13]  # 110 · (1, 1/2, 1/3, 1/4) / (25/12) = 52.8, 26.4, 17.6, 13.2
    assert spread(64, 8, "zipf", most=16)[0] == 16
    path = tmp_path / "counts.json"
    path.write_text("[30, 10, 0, 0]")
    assert spread(80, 4, str(path)) == [60, 20, 0, 0]
    assert spread(80, 4, str(path), most=40) == [40, 40, 0, 0]
    assert sum(spread(100, 4, str(path), most=40)) == 100


@pytest.mark.parametrize(
    ("content", "sentence"),
    [("[1, 2]", "not a list of 8 counts"), ('{"a": 1}', "not a list of 8"), ("[0,0,0,0,0,0,0,0]", "all are 0"), ("{", "truncated")],
)
def test_bad_files_of_counts(tmp_path: Path, content: str, sentence: str) -> None:
    path = tmp_path / "counts.json"
    path.write_text(content)
    with pytest.raises(BadCase, match=sentence):
        validate(OPERATORS["moe_swiglu"], {**MOE, "routing": str(path)})


@pytest.mark.parametrize(
    ("op", "given", "sentence"),
    [
        ("topk", {"batch_size": 1, "dim_size": 3, "k": 4}, "k=4 is more than dim_size=3"),
        ("scatter", {"src_batch_size": 4, "dst_batch_size": 3, "dim_size": 1}, "in any order"),
        ("moe_swiglu", {**MOE, "ep_size": 3}, "ep_size=3 does not divide num_experts=8"),
        ("moe_swiglu", {**MOE, "topk": 9}, "topk=9 is more than"),
        ("moe_swiglu", {**MOE, "ep_rank": 2}, "ep_rank=2 is not one of"),
        ("moe_swiglu", {**MOE, "num_tokens": 1, "topk": 1, "ep_rank": 1}, "no token comes to rank 1"),
        ("moe_swiglu", {**MOE, "routing": "zipf:99"}, "exponent"),
        ("moe_swiglu", {**MOE, "routing": "/nowhere"}, "neither balanced, zipf nor a file"),
        ("moe_dispatch_tokens", {**MOE, "ep_size": 3}, "world_size=3 does not divide num_experts=8"),
        ("moe_dispatch_tokens", {**MOE, "num_tokens": 25}, "num_tokens=25 can't be dealt to 2 ranks"),
        ("moe_dispatch_tokens", {**MOE, "topk": 9}, "topk=9 is more than"),
        ("moe_dispatch_tokens", {**TOKENS, "topk": 2, "world_size": 1}, "world_size=1 is out of range"),
        ("moe_dispatch_tokens", {**MOE, "routing": "/nowhere"}, "neither balanced, zipf nor a file"),
        ("quant_matmul", {**TOKENS, "new_hidden_size": 8, "w_dtype": "float8"}, "does not go with dtype=int8"),
        ("quant_matmul", {**TOKENS, "new_hidden_size": 8, "dtype": "mxfloat8"}, "'mxfloat8' is not one of"),
        ("quant_matmul", {**TOKENS, "num_tokens": 1, "sp_size": 2, "new_hidden_size": 8}, "sp_size=2 ranks share num_tokens=1"),
        ("flash_attention", {**HEADS, "kv_head_num": 3}, "kv_head_num=3 does not divide"),
        ("flash_attention", {**HEADS, "q_lens": [1, 2], "cache_lens": [1]}, "2 q_lens and 1 cache_lens"),
        ("flash_attention", {**HEADS, "dtype": "int8", "cache_dtype": "bfloat16"}, "needs a cache of the same"),
        ("rotary_embedding", {**HEADS, "rope_dim": 31}, "is odd"),
        ("head_rms_norm", {**TOKENS, "total_head_num": 4, "head_dim": 8, "norm_head_start": 3, "norm_head_num": 2}, "hidden_size"),
        ("cast", {"batch_size": 1, "dim_size": 1, "dtype": "float32", "dst_dtype": "float32"}, "to itself"),
    ],
)
def test_impossible_arguments_are_one_sentence(op: str, given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadCase, match=sentence):
        validate(OPERATORS[op], given)


# --- ByteMLPerf's names ----------------------------------------------------------------------------------------

BYTEMLPERF = {
    "moe_gating_gemm": {
        "dtype.compute_dtype.dst_dtype": [["float32"] * 3],
        "sp_size.hidden_size.num_experts": [[1, 8192, 128]],
        "num_tokens": 8192,
    },
    "quant_matmul": {
        "dtype.w_dtype.compute_dtype.dst_dtype": [["int8", "int8", "int8", "bfloat16"]],
        "sp_size.hidden_size.new_hidden_size": [[1, 8192, 8192]],
        "num_tokens": [48, 8192],
    },
    "moe_quant_group_gemm": {
        "dtype.w_dtype.compute_dtype.dst_dtype": [["int8", "int8", "int8", "bfloat16"], ["int8", "int4", "int8", "bfloat16"]],
        "ep_size.num_experts.topk": [[8, 128, 8]],
        "sp_size.hidden_size.new_hidden_size": [[1, 8192, 8192]],
        "num_tokens": [48, 8192],
    },
    "flash_attention": {
        "attn_mode": "prefill",
        "dtype.cache_dtype.qk_compute_dtype.pv_compute_dtype.dst_dtype": [["bfloat16"] * 5, ["int8"] * 4 + ["bfloat16"]],
        "q_head_num.kv_head_num.head_dim": [[80, 8, 128]],
        "block_size": 512,
        "batch_size.cache_len.q_len": [[1, 0, 10240], [1, 5120, 5120]],
    },
    "rotary_embedding": {
        "attn_mode": "decode",
        "dtype": "bfloat16",
        "q_head_num.kv_head_num.head_dim": [[80, 8, 128]],
        "rope_offset.rope_dim": [[0, 128]],
        "batch_size.cache_len.q_len": [[16, 10240, 4]],
    },
    "store_kv_cache": {
        "attn_mode": "decode",
        "dtype.cache_dtype": [["bfloat16", "int8"]],
        "store_mode": ["both", "k"],
        "q_head_num.kv_head_num.head_dim": [[80, 8, 128]],
        "block_size": 512,
        "batch_size.cache_len.q_len": [[16, 10240, 1]],
    },
    "moe_gather": {"dtype": "bfloat16", "num_experts.topk.ep_size": [[128, 8, 8]], "sp_size.num_tokens": [[8, 10240]], "hidden_size": 1536},
    "moe_quant_group_gemm_combine": {
        "dtype.w_dtype.compute_dtype.dst_dtype": [["int8", "int8", "int8", "bfloat16"]],
        "num_experts.topk.ep_size": [[128, 8, 8]],
        "sp_size.num_tokens": [[1, 10240]],
        "hidden_size.new_hidden_size": [[1536, 4096]],
    },
    "moe_dispatch_tokens": {"dtype": ["bfloat16", "int8"], "world_size": 8, "topk": 8, "num_tokens": 10240, "hidden_size": 4096},
    "moe_scatter_dynamic_quant": {
        "dtype.dst_dtype": [["bfloat16", "int8"]],
        "num_experts.topk.ep_size": [[128, 8, 8]],
        "num_tokens": 10240,
        "hidden_size": 4096,
    },
}


@pytest.mark.parametrize("op", BYTEMLPERF)
def test_workloads_of_accelerators_are_read_and_estimated_in_no_time(op: str) -> None:
    for raw in expand({"arg_type": "llm", **BYTEMLPERF[op]}):
        args = validate(OPERATORS[op], json.loads(json.dumps(raw)))
        guess = estimate(OPERATORS[op], args, "torch", Rates(), 0)
        assert guess.memory_bytes > 0
        if op == "flash_attention":
            assert guess.case_s > 600, "2 TFLOP forty times"


def test_an_expert_parallel_rank_has_its_eighth() -> None:
    sizes = {"num_tokens": 8192, "hidden_size": 64, "new_hidden_size": 32}
    flops, _, written = cost_of("moe_quant_group_gemm", {**sizes, "num_experts": 128, "topk": 8, "ep_size": 8})
    assert flops == 2 * 8192 * 64 * 32
    assert written == 2 * 8192 * 32


def test_an_operator_with_a_wrong_formula_fails_its_own_check() -> None:
    softmax = OPERATORS["moe_softmax_topk"]
    given = {"num_tokens": 8, "num_experts": 16, "topk": 4}
    assert fault(softmax, given) == ""
    unnormalised = replace(softmax, kernel=lambda _args: lambda gates: _swapped(torch.topk(gates.softmax(-1), 4)))
    assert fault(unnormalised, given)


def _swapped(found: Any) -> Any:
    return found.indices.int(), found.values
