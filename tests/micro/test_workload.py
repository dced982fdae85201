"""ByteMLPerf's and xpu-perf's files, expanded."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from bytemlperf.errors import UserError
from micro.cases.selection import workload_cases
from micro.cases.workload_file import RawCase, expand, read_workloads


def written(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_old_form_the_stem_is_the_operator(tmp_path: Path) -> None:
    path = written(
        tmp_path / "gemm.json", {"cases": [{"__why": "x", "dtype": ["float32", "bfloat16"], "K.N": [[4, 5], [6, 7]], "M": [1, 2]}]}
    )
    cases = read_workloads(path)
    assert len(cases) == 8
    assert cases[0] == RawCase("gemm", {"dtype": "float32", "K": 4, "N": 5, "M": 1}, "gemm.json")
    assert {(case.args["K"], case.args["N"]) for case in cases} == {(4, 5), (6, 7)}


def test_new_form_has_several_operators(tmp_path: Path) -> None:
    path = written(tmp_path / "ops.json", {"__note": [1], "softmax": [{"batch_size": 2, "dim_size": 8}], "add": [{"batch_size": [1, 2]}]})
    assert [case.op for case in read_workloads(path)] == ["softmax", "add", "add"]


def test_csv_has_the_operator_in_task_name(tmp_path: Path) -> None:
    path = written(tmp_path / "x.csv", "task_name,M,dtype,__note\ngemm,4,float32,a\nadd,5,bfloat16,\n")
    assert [(case.op, case.args) for case in read_workloads(path)] == [
        ("gemm", {"M": 4, "dtype": "float32"}),
        ("add", {"M": 5, "dtype": "bfloat16"}),
    ]


def test_a_folder_is_all_its_files(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    written(tmp_path / "deep" / "gemm.json", {"cases": [{"M": 1}]})
    written(tmp_path / "add.csv", "M\n1\n")
    assert [case.op for case in read_workloads(tmp_path)] == ["add", "gemm"]


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        ("{", "is not JSON"),
        ("[]", "not a JSON object"),
        ({"cases": {}}, "not a list of cases"),
        ({"cases": []}, "has no cases"),
    ],
)
def test_bad_files_are_one_sentence(tmp_path: Path, content: object, cause: str) -> None:
    with pytest.raises(UserError, match=cause):
        read_workloads(written(tmp_path / "gemm.json", content))


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        ({"cases": [{"K.N": [[1, 2, 3]]}]}, "needs lists of 2 values"),
        ({"cases": [{"K.N": 3}]}, "needs a list of lists"),
        ({"cases": [{"a": list(range(1000)), "b": list(range(1000))}]}, "more than"),
        ({"to_be_implemented": True}, "a placeholder without cases"),
        ({"operator": "gemm", "iterations": 9, "input_shape_groups": {"M": [4]}, "dtype": ["half"]}, "layout is ByteMLPerf's before 2025"),
        ("", "the file is empty"),
    ],
)
def test_what_cannot_be_asked_is_a_refused_row(tmp_path: Path, content: object, cause: str) -> None:
    (case,) = workload_cases(written(tmp_path / "gemm.json", content), ())
    assert case.op == "gemm"
    assert cause in case.refusal


def test_one_bad_file_does_not_stop_a_folder(tmp_path: Path) -> None:
    written(tmp_path / "a.json", "{")
    written(tmp_path / "gemm.json", {"type": "default", "cases": [{"arg_type": "default", "M": 4, "K": 4, "N": [4, 8]}]})
    written(tmp_path / "rotary_embedding.json", {"to_be_implemented": True})
    bad, *good, placeholder = workload_cases(tmp_path, ())
    assert "is not JSON" in bad.refusal
    assert [(case.op, case.refusal, case.args["N"]) for case in good] == [("gemm", "", 4), ("gemm", "", 8)]
    assert "placeholder" in placeholder.refusal


HEADS = {"q_head_num.kv_head_num.head_dim": [[8, 2, 64]]}
SPREAD = {"world_size.rank": [[4, 1]], "num_shared_experts.dp_size.sp_size": [[0, 1, 1]], "num_experts.topk.ep_size": [[32, 4, 4]]}
SESSION = {"mode": "prefill_session_cache", **HEADS, "batch_size": 3, "q_seq_len": 10, "cache_len": 7}


@pytest.mark.parametrize(
    ("op", "case", "args"),
    [
        (
            "flash_attention",
            {"mode": "decode", **HEADS, "batch_size": 2, "q_seq_len": 3, "cache_len": 9},
            {"attn_mode": "decode", "q_len": 3},
        ),
        ("flash_attention", {"mode": "prefill_session_cache", **HEADS, "batch_size": 4, "q_seq_len": 96, "cache_len": 7}, {"q_len": 24}),
        ("flash_attention", SESSION, {"q_lens": [4, 3, 3], "cache_lens": [7, 7, 7]}),
        ("flash_attention", {"dtype": "float16", **HEADS, "q_len": 3}, {"cache_dtype": "float16", "pv_compute_dtype": "float16"}),
        ("flash_attention", {"phase": "prefill", **HEADS, "q_seq_len.kv_seq_len": [[3, 9]]}, {"cache_len": 6}),
        ("rotary_embedding", {**SESSION, "rope_offset.rope_dim": [[0, 64]], "block_size": 16}, {"q_lens": [4, 3, 3]}),
        (
            "store_kv_cache",
            {"dtype.dst_dtype": [["bfloat16", "int8"]], "mode": "prefill", **HEADS, "q_seq_len": 3},
            {"cache_dtype": "int8"},
        ),
        (
            "flash_attention",
            {"dtype.compute_dtype.cache_dtype": [["bfloat16", "float16", "int8"]], **HEADS, "q_len": 3},
            {"qk_compute_dtype": "float16", "pv_compute_dtype": "float16"},
        ),
        (
            "softmax",
            {"phase": "decode", "batch_size": 2, "head_num": 8, "q_seq_len.kv_seq_len": [[3, 9]]},
            {"batch_size": 48, "dim_size": 9},
        ),
        ("quant_matmul", {"hidden_size.new_hidden_size.trans_w": [[64, 32, True]], "num_tokens": 3}, {"w_dtype": "int8"}),
        ("flash_decoding", {"phase": "decode", **HEADS, "q_seq_len": 1, "cache_len": 3}, {"q_len": 1}),
        ("moe_gather", {**SPREAD, "hidden_size": 64, "num_tokens": 32}, {"ep_rank": 1, "ep_size": 4, "sp_size": 1}),
        ("moe_scatter_dynamic_quant", {**SPREAD, "hidden_size": 64, "num_tokens": 32, "dst_dtype": "int8"}, {"ep_rank": 1}),
        ("moe_swiglu_dynamic_quant", {**SPREAD, "hidden_size": 64, "num_tokens": 32, "dst_dtype": "int8"}, {"ep_rank": 1}),
        (
            "moe_quant_group_gemm",
            {**SPREAD, "hidden_size.new_hidden_size": [[64, 32]], "num_tokens": 32, "dtype": "bfloat16"},
            {"ep_rank": 1, "w_dtype": "bfloat16", "compute_dtype": "bfloat16"},
        ),
        (
            "moe_gating_gemm",
            {"dtype.dst_dtype": [["bfloat16", "float32"]], "num_experts": 8, "hidden_size": 64, "sp_size": 1, "num_tokens": 32},
            {"compute_dtype": "bfloat16", "dst_dtype": "float32"},
        ),
        ("moe_softmax_topk", {"num_experts.topk": [[8, 2]], "hidden_size": 64, "sp_size": 1, "num_tokens": 32}, {"topk": 2}),
    ],
)
def test_byte_mlperfs_names_of_arguments(tmp_path: Path, op: str, case: dict[str, object], args: dict[str, object]) -> None:
    (found,) = workload_cases(written(tmp_path / f"{op}.json", {"cases": [{"arg_type": ["llm"], **case}]}), ())
    assert found.refusal == ""
    assert {name: found.args[name] for name in args} == args


def test_a_batch_is_one_case_as_it_stands(tmp_path: Path) -> None:
    heads = {"q_head_num": 8, "kv_head_num": 2, "head_dim": 64}
    lengths = {"q_lens": [3, 40, 1], "cache_lens": [9, 0, 33], "block_size": 16, "block_table": [[0, -1, -1], [1, 2, 3], [4, 5, 6]]}
    path = written(tmp_path / "replay.json", {"flash_attention": [{"arg_type": "batch_llm", "attn_mode": "prefill", **heads, **lengths}]})
    (case,) = workload_cases(path, ())
    assert case.refusal == ""
    assert (case.args["q_lens"], case.args["cache_lens"], case.args["block_size"]) == ([3, 40, 1], [9, 0, 33], 16)


@pytest.mark.parametrize(
    ("op", "case", "cause"),
    [
        ("moe_gather", {**SPREAD, "num_shared_experts": 2, "hidden_size": 64, "num_tokens": 32}, "shared experts are not measured"),
        ("moe_gather", {**SPREAD, "world_size": 8, "hidden_size": 64, "num_tokens": 32}, "world_size=8 is not ep_size=4"),
        ("flash_attention", {**SESSION, "batch_size": 20}, "at least one token for each of batch_size=20 sequences, not 10"),
        ("flash_attention", {**SESSION, "batch_size": 10**12, "q_seq_len": 10**13}, "at least one token for each"),
        ("flash_attention", {**HEADS, "batch_size": 10**12}, "batch_size=1000000000000 is out of range"),
        ("softmax", {"head_num": "x", "q_seq_len": 1, "kv_seq_len": 1}, "are not sizes"),
        ("flash_attention", {"mode": "train", **HEADS}, "attn_mode='train' is not one of prefill, decode"),
        ("flash_attention", {"dtype": "mxfloat8", **HEADS}, "dtype='mxfloat8' is not one of"),
        ("flash_mla", {"dtype": "bfloat16"}, "there is no operator 'flash_mla'"),
    ],
)
def test_refusals_say_the_true_reason(tmp_path: Path, op: str, case: dict[str, object], cause: str) -> None:
    (found,) = workload_cases(written(tmp_path / f"{op}.json", {"cases": [case]}), ())
    assert cause in found.refusal


def test_a_pipe_is_no_workload(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "gemm.json")
    with pytest.raises(UserError, match="can't be read: it is not a regular file"):
        read_workloads(tmp_path / "gemm.json")


def test_an_empty_list_is_no_case() -> None:
    assert list(expand({"M": [], "N": 1})) == []
