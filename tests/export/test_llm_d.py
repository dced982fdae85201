"""llm-d's Benchmark Report v0.2, against its own JSON schema, and its figures against the run's.

`fixtures/llm-d-benchmark-report-v0.2.schema.json` is a copy of llm-d/llm-d-benchmark (Apache-2.0),
llmdbenchmark/analysis/benchmark_report/br_v0_2_json_schema.json at f0dd0ba6ad5c, without its line breaks: the package is in no registry.
"""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from typer.testing import CliRunner

from bytemlperf.checked import plain
from bytemlperf.errors import UserError
from bytemlperf.runs.suite import verify_suite
from bytemlperf_llm.cli import app
from bytemlperf_llm.plan.scenario import load
from tests.metrics.records import answered, failed
from tests.report.made import llm_run_json, write_run

SCHEMA = json.loads((Path(__file__).parent / "fixtures" / "llm-d-benchmark-report-v0.2.schema.json").read_text())
RECORDS = [
    *(answered(index, 100 * index, 100 * index, [100 * index + 50 + 10 * place for place in range(5)]) for index in range(200)),
    failed(200, 20_000, 20_100),
]


def made(folder: Path, *, remote: bool = False, **scenario: Any) -> Path:
    config = {
        "flags": {"engine": "openai" if remote else "vllm", "device": "h200*8" if remote else None},
        "scenario": plain(load("chat").override({"arrival": {"process": "poisson", "rate": 10.0}} | scenario)),
        "scenario_folder": "built in",
        "metadata": {},
        "engine_options": {"base_url": "http://127.0.0.1:8000"} if remote else {"tensor_parallel_size": "2"},
    }
    run = llm_run_json(config=config)
    run["engine"] = {
        "name": "openai" if remote else "vllm",
        "versions": {"vllm": "0.32"},
        "model": "tiny",
        "dtype": "bfloat16",
        "remote": remote,
    }
    run["environment"]["hardware"] = {"gpus": [{"name": "NVIDIA H200"}, {"name": "NVIDIA H200"}], "cpu": {"model": "a CPU"}}
    run["facts"] |= {"requested_rate": 10.0, "scheduled_requests": len(RECORDS)}
    run["end"] = run["end"] | {"at": "2026-11-24T12:00:21+00:00", "duration_ns": 21 * 10**9, "issued_requests": len(RECORDS)}
    return write_run(folder, run, RECORDS)


def exported(folder: Path) -> dict[str, Any]:
    result = CliRunner().invoke(app, ["export", str(folder), "--llm-d"])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0
    report: dict[str, Any] = yaml.safe_load((folder / "llm-d-report.yaml").read_text())
    return report


@pytest.mark.parametrize("remote", [False, True])
@pytest.mark.parametrize(
    "scenario",
    [
        {},
        {"arrival": {"process": "closed", "max_concurrency": 4}},
        {"prompts": {"synthetic": {"tokens": {"distribution": "normal", "mean": 100, "std": 9, "min": 50, "max": 150}}}},
        {"output_tokens": {"distribution": "empirical", "values": [1, 2]}},
    ],
)
def test_it_is_valid_by_llm_ds_schema(tmp_path: Path, remote: bool, scenario: dict[str, Any]) -> None:
    report = exported(made(tmp_path / "run", remote=remote, **scenario))
    assert list(jsonschema.Draft202012Validator(SCHEMA).iter_errors(report)) == []


def test_the_schema_refuses_what_is_not_in_it(tmp_path: Path) -> None:
    report = exported(made(tmp_path / "run"))
    report["results"]["request_performance"]["aggregate"]["latency"]["ttft"] = 1
    assert not jsonschema.Draft202012Validator(SCHEMA).is_valid(report)


def test_the_figures_are_the_runs(tmp_path: Path) -> None:
    report = exported(made(tmp_path / "run"))
    aggregate = report["results"]["request_performance"]["aggregate"]
    assert aggregate["requests"]["total"] == 201
    assert (aggregate["requests"]["failures"], aggregate["requests"]["incomplete"]) == (1, 0)
    assert aggregate["requests"]["output_length"] == {"units": "count", "mean": 5, "min": 5, "max": 5}
    ttft = aggregate["latency"]["time_to_first_token"]
    assert ttft["units"] == "s"
    assert [ttft[name] for name in ("mean", "min", "p50", "p90", "max")] == pytest.approx([0.05] * 5)
    assert "p99" not in ttft  # 200 requests can't carry it
    assert aggregate["latency"]["time_per_output_token"]["mean"] == pytest.approx(0.01)
    assert aggregate["latency"]["request_latency"]["mean"] == pytest.approx(0.09)
    rates = aggregate["throughput"]
    assert rates["total_token_rate"]["mean"] == pytest.approx(rates["input_token_rate"]["mean"] + rates["output_token_rate"]["mean"])
    assert rates["request_rate"]["units"] == "queries/s"
    assert report["run"]["time"]["duration"] == "PT21.000000S"


def test_the_system_is_what_is_known_of_it(tmp_path: Path) -> None:
    (local,) = exported(made(tmp_path / "local"))["scenario"]["stack"]
    assert local["standardized"]["kind"] == "inference_engine"
    assert local["standardized"]["accelerator"] == {"model": "NVIDIA H200", "count": 2, "parallelism": {"tp": 2}}
    report = exported(made(tmp_path / "remote", remote=True))
    (remote,) = report["scenario"]["stack"]
    assert (remote["standardized"]["kind"], remote["standardized"]["device"]) == ("generic", "8 × NVIDIA H200 SXM 141GB (as stated)")
    load_of = report["scenario"]["load"]["standardized"]
    assert (load_of["rate_qps"], load_of["concurrency"], load_of["source"]) == (10.0, math.inf, "sampled")
    assert load_of["output_seq_len"] == {"distribution": "other", "value": 48, "max": 128}


def test_export_writes_the_other_formats_of_an_old_run_too(tmp_path: Path) -> None:
    folder = made(tmp_path / "run")
    before = verify_suite(folder).findings
    result = CliRunner().invoke(app, ["export", str(folder), "--csv", "--save-result"])
    assert result.exit_code == 0
    with (folder / "records.csv").open(newline="") as file:
        assert len(list(csv.reader(file))) == 1 + len(RECORDS)
    assert json.loads((folder / "vllm-bench.json").read_text())["completed"] == 200
    assert verify_suite(folder).findings == before


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    folder = made(tmp_path / "run")
    result = CliRunner().invoke(app, ["export", str(folder)])
    assert isinstance(result.exception, UserError)
    assert "nothing says which file to write" in str(result.exception)
    (folder / "summary.json").unlink()
    result = CliRunner().invoke(app, ["export", str(folder), "--llm-d"])
    assert result.exit_code == 1
    assert "write it with: bmp summarize" in result.output
