"""ByteMLPerf's and xpu-perf's files, expanded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bytemlperf_llm.errors import UserError
from micro.workload import RawCase, expand, read_workloads


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
        ({"cases": {}}, "no list of cases"),
        ({"cases": []}, "has no cases"),
        ({"cases": [{"K.N": [[1, 2, 3]]}]}, "needs lists of 2 values"),
        ({"cases": [{"K.N": 3}]}, "needs a list of lists"),
        ({"cases": [{"a": list(range(1000)), "b": list(range(1000))}]}, "more than"),
    ],
)
def test_bad_files_are_one_sentence(tmp_path: Path, content: object, cause: str) -> None:
    with pytest.raises(UserError, match=cause):
        read_workloads(written(tmp_path / "gemm.json", content))


def test_an_empty_list_is_no_case() -> None:
    assert list(expand({"M": [], "N": 1})) == []
