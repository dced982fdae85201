"""What a run tells, from records alone: summary, figures, sections, ByteMLPerf's report, table."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest
from rich.console import Console

from bytemlperf.report.terminal import print_run
from general_perf.job.records import AccuracyRecord, AnyRecord, CompileRecord, JobRecord, PerformanceRecord
from general_perf.measure.numerics import compare
from general_perf.results.bytemlperf_report import report_of, write_bytemlperf
from general_perf.results.kind import KIND
from general_perf.results.points import last_attempts

GOOD, BAD = "resnet50/onnxruntime/int8", "bert/openvino/fp32"
HOSTILE = "no <script>alert(1)</script>\u2028 [red]kernel[/red] \x1b[31m"
LATENCIES_NS = [1_000_000 + 1000 * (37 * place % 500) for place in range(500)]


def record(job: str, stage: str, attempt: int = 1, **fields) -> AnyRecord:
    model, backend, precision = job.split("/")
    about = {"stage": stage, "job": job, "attempt": attempt, "model": model, "backend": backend, "precision": precision, "device": "cpu"}
    return msgspec.convert(about | fields, AnyRecord)


@pytest.fixture
def records() -> list[AnyRecord]:
    reference = np.linspace(-1, 1, 40).reshape(4, 10)
    failed = {"status": "failed", "error_class": "unsupported_operator", "reason": HOSTILE, "fix": "take another"}
    return [
        record(
            GOOD, "compile", weights="random weights, seed 0", compile_s=2.5, artefact_bytes=4096, calibration="16 samples", parameters=12
        ),
        record(GOOD, "load", load_s=0.1, first_call_s=0.01, first_answer_s=6.0),
        record(
            GOOD,
            "numerics",
            passed=True,
            samples=4,
            outputs={"logits": compare(reference + 0.01, reference, "softmax")},
            decisions=4,
            decisions_changed=1,
        ),
        record(GOOD, "accuracy", dataset="d", data_source="real", samples=8, metrics={"top1": 0.75}, reference_metrics={"top1": 0.8}),
        record(GOOD, "performance", batch_size=4, latency_ns=LATENCIES_NS, window_ns=1_000_000_000, peak_host_bytes=1 << 20),
        record(GOOD, "performance", batch_size=8, status="failed", error_class="out_of_memory", reason="too large"),
        record(
            GOOD,
            "coverage",
            coverage={"method": "m", "nodes": 10, "graph_share": 0.9, "flops_share": 0.5, "fallback_operators": {"Sin": 1}},
        ),
        record(GOOD, "job", usability={"packages": 3, "install_bytes": 1 << 20, "adapter_lines": 90, "versions": {"onnxruntime": "1"}}),
        record(BAD, "compile", **failed),
        record(BAD, "job", **failed),
    ]


def run_json(*jobs: str) -> dict:
    return {
        "kind": "general",
        "label": "test",
        "started_at": "2026-01-01T00:00:00.000+00:00",
        "config": {"jobs": list(jobs), "flags": {"iterations": None, "seconds": 3.0, "seed": 0}},
        "environment": {"bytemlperf_llm": "0", "hardware": {"cpu": {"model": "a CPU"}}},
    }


def show(summary: dict, folder, columns: int = 200) -> None:
    print_run(Console(width=columns, force_terminal=True, color_system=None), folder, run_json(), summary)


def test_every_planned_job_has_a_row(records):
    summary = KIND.summarise(run_json(GOOD, BAD, "vit/openvino/fp32"), records)
    assert [row["status"] for row in summary["rows"]] == ["ok", "failed", "not run"]
    assert summary["verdict"] == "invalid"
    assert summary["reasons"] == ["1 of 3 jobs were not run"]
    assert summary["errors"] == {"unsupported_operator": 1}
    assert summary["first_try"] == {"compiled": 1, "of": 3}


def test_a_failed_row_beside_a_good_one_is_partial(records):
    summary = KIND.summarise(run_json(GOOD, BAD), records)
    assert (summary["verdict"], summary["reasons"]) == ("partial", ["1 of 2 jobs failed"])
    assert KIND.summarise(run_json(GOOD), records)["verdict"] == "valid"
    alone = KIND.summarise(run_json(BAD), records)
    assert (alone["verdict"], alone["reasons"]) == ("invalid", ["no job was measured: 1 failed"])
    assert any("random weights" in warning for warning in summary["warnings"])


@pytest.mark.parametrize(
    ("error_class", "verdict"), [("runtime_error", "invalid"), ("out_of_memory", "invalid"), ("missing_dataset", "partial")]
)
def test_a_run_whose_only_row_failed_after_it_compiled_is_invalid(records, error_class, verdict):
    failed = {"status": "failed", "error_class": error_class, "reason": "why", "fix": "how"}
    left = [each for each in records if each.job == GOOD and not isinstance(each, JobRecord)]
    summary = KIND.summarise(run_json(GOOD), [*left, record(GOOD, "job", **failed)])
    assert (summary["rows"][0]["compiled"], summary["rows"][0]["points"], summary["verdict"]) == (True, 1, verdict)


@pytest.mark.parametrize(
    ("latencies_ns", "verdict", "said"),
    [
        ([10**6] * 3, "thin", "insufficient samples for an interval of the median"),
        ([10**6, 3 * 10**6] * 20, "noisy", "has no steady median"),
        ([10**6 + each for each in range(40)], "valid", ""),
    ],
)
def test_the_verdict_says_when_most_is_thin_or_noise(records, latencies_ns, verdict, said):
    for each in records:
        if isinstance(each, PerformanceRecord):
            each.latency_ns = latencies_ns
    summary = KIND.summarise(run_json(GOOD), records)
    assert summary["verdict"] == verdict
    assert said in " ".join(summary["reasons"])


def test_figures_of_speed_are_those_of_the_records(records):
    run = run_json(GOOD, BAD)
    summary = KIND.summarise(run, records)
    metric = summary["metrics"][f"{GOOD} | batch 4, closed | latency"]
    ordered = sorted(LATENCIES_NS)
    assert metric["percentiles"] == {"50": ordered[249], "90": ordered[449], "99": ordered[494]}
    assert metric["mean"] == pytest.approx(sum(LATENCIES_NS) / 500)
    figures = {(each.key, each.metric): each for each in KIND.figures(run, summary, records)}
    throughput = figures[f"{GOOD} | batch 4, closed", "throughput"]
    assert throughput.value == 500 * 4 / 1.0
    assert figures[f"{GOOD} | batch 4, closed", "latency p50"].value == ordered[249] / 1e9
    assert figures[GOOD, "accuracy: top1"].value == 0.75
    failed = figures[BAD, "result"]
    assert failed.value is None
    assert failed.reason.startswith("unsupported_operator")


def test_an_open_loops_throughput_is_what_was_offered(records):
    run = run_json(GOOD)
    closed = {figure.metric: figure for figure in KIND.figures(run, KIND.summarise(run, records), records)}
    assert (closed["throughput"].offered, closed["throughput"].load) == (False, "")
    for each in records:
        if isinstance(each, PerformanceRecord):
            each.loop, each.process, each.requested_rate, each.due_ns, each.late_ns = "open", "poisson", 40.0, [0, 1], [0, 0]
    opened = {figure.metric: figure for figure in KIND.figures(run, KIND.summarise(run, records), records)}
    assert (opened["throughput"].offered, opened["throughput"].load) == (True, "poisson, 40 calls/s")
    assert not opened["latency p50"].offered


def test_only_the_last_attempt_counts(records):
    again = [record(GOOD, "compile", attempt=2, compile_s=9.0), record(GOOD, "job", attempt=2)]
    kept = last_attempts([*records[:5], *again])[GOOD]
    assert list(map(type, kept)) == [CompileRecord, JobRecord]
    row = KIND.summarise(run_json(GOOD), [*records[:5], *again])["rows"][0]
    assert (row["compile_s"], row["points"]) == (9.0, 0)


def test_outputs_out_of_tolerance_and_nan_are_warned_of(records):
    records[2].passed = False
    records[2].outputs["logits"]["nonfinite"]["ours_nan"] = 3
    warnings = KIND.summarise(run_json(GOOD), records)["warnings"]
    assert f"{GOOD}: outputs are not within the tolerance" in warnings
    assert f"{GOOD}: 3 outputs are NaN or infinite" in warnings


def test_products_at_another_precision_than_the_rows_are_warned_of(records):
    for products, said in (({"int8": 9, "fp32": 1}, False), ({"fp32": 12}, True), ({}, False)):
        records[6].coverage = msgspec.structs.replace(records[6].coverage, details={"products_by_precision": products})
        warnings = KIND.summarise(run_json(GOOD), records)["warnings"]
        assert any("multiplies in another precision than int8: of its products 12 in fp32" in each for each in warnings) == said


def test_what_flops_leave_out_is_warned_of(records):
    details = {"operators_without_flops_formula": {"Einsum": 2}}
    records[6].coverage = msgspec.structs.replace(records[6].coverage, flops=12, details=details)
    summary = KIND.summarise(run_json(GOOD), records)
    assert summary["rows"][0]["flops"] == 12
    assert f"{GOOD}: FLOPs leave out Einsum" in summary["warnings"]


def test_an_accuracy_without_the_references_is_warned_of(records):
    warning = f"{GOOD}: no reference accuracy to compare with"
    assert warning not in KIND.summarise(run_json(GOOD), records)["warnings"]
    records[3].reference_metrics = {}
    assert warning in KIND.summarise(run_json(GOOD), records)["warnings"]


def test_a_metric_that_is_not_finite_is_said(records, tmp_path, capsys):
    judged = record(GOOD, "accuracy", dataset="d", samples=8, metrics={"f1": None}, reference_metrics={"f1": 0.8})
    kept = [*(each for each in records if not isinstance(each, AccuracyRecord)), judged]
    summary = KIND.summarise(run_json(GOOD), kept)
    show(summary, tmp_path)
    assert "f1 not finite" in " ".join(capsys.readouterr().out.split())
    assert KIND.sections(run_json(GOOD), summary, kept)


def test_sections_are_plain_and_small(records):
    run = run_json(GOOD, BAD)
    made = KIND.sections(run, KIND.summarise(run, records), records)
    titles = [each.title for each in made]
    for wanted in (
        "Models and backends",
        "Failures and fixes",
        "Speed",
        "Compile report",
        "Numerics",
        "Accuracy on real data",
        "Usability",
    ):
        assert wanted in titles
    for section in made:
        for row in getattr(section, "rows", ()):
            assert len(row) == len(section.columns)
    assert len(msgspec.json.encode(made)) < 20_000


def test_summary_and_figures_are_json(records):
    run = run_json(GOOD, BAD)
    summary = KIND.summarise(run, records)
    json.dumps(summary, allow_nan=False)
    assert summary == KIND.summarise(run, iter(records))


THEIRS = {
    "Model": str,
    "Backend": str,
    "Host Info": str,
    "Dataset": str,
    "Instance Count": int,
    "Device Count": int,
    "Graph Compile": {"Compile Duration": float, "Compile Precision": str, "Subgraph Coverage": float, "Optimizations": dict},
    "Accuracy": {
        "Data Percent": float,
        "Top-1": float,
        **dict.fromkeys(("Mean Diff", "Std Diff", "Max Diff", "Max Rel-Diff", "Mean Rel-Diff"), float),
        "Diff Dist": str,
    },
    "Performance": list,
}
"""Keys and types of the reports that ByteMLPerf publishes (reports/HPU/resnet50-torch-fp32/result-fp32.json)."""


def same_kinds(report: dict, wanted: dict) -> None:
    for key, kind in wanted.items():
        if isinstance(kind, dict):
            same_kinds(report[key], kind)
        else:
            assert isinstance(report[key], kind), key


def test_bytemlperfs_report_has_its_keys_types_and_units(records, tmp_path):
    run = run_json(GOOD, BAD)
    (tmp_path / "records.jsonl").write_bytes(b"".join(msgspec.json.encode(each) + b"\n" for each in records))
    written = write_bytemlperf(tmp_path, run, KIND.summarise(run, records))
    names = [str(each.relative_to(tmp_path / "bytemlperf")) for each in written]
    assert names == [
        "onnxruntime/resnet50/resnet50-to-int8.png",
        "onnxruntime/resnet50/result-int8.json",
        "openvino/bert/result-fp32.json",
    ]
    report = json.loads(written[1].read_bytes())
    same_kinds(report, THEIRS)
    assert [each for each in report if each in THEIRS] == list(THEIRS)
    assert report["Graph Compile"]["Subgraph Coverage"] == 90.0
    assert written[0].with_name(report["Accuracy"]["Diff Dist"]).read_bytes().startswith(b"\x89PNG")
    (point,) = report["Performance"]
    assert point == {"BS": 4, "QPS": 2000.0, "AVG Latency": pytest.approx(1.2495), "P99 Latency": sorted(LATENCIES_NS)[494] / 1e6}
    failed = json.loads(written[2].read_bytes())
    assert failed["Error"]["Class"] == "unsupported_operator"
    assert (failed["Graph Compile"], failed["Performance"]) == ({}, [])
    assert "Accuracy" not in failed
    assert "Instance Count" not in failed


def test_bytemlperfs_report_names_the_dataset_that_was_not_there(records):
    run = run_json(GOOD)
    run["config"]["plan"] = [{"id": GOOD, "card": {"dataset": "open_imagenet"}}]
    left = [each for each in records if not isinstance(each, AccuracyRecord)]
    row = KIND.summarise(run, left)["rows"][0]
    assert report_of(run, row, last_attempts(left)[GOOD])["Dataset"] == "OPEN_IMAGENET"


def test_bytemlperfs_report_has_percent_where_it_has_percent(records):
    run = run_json(GOOD)
    records[3].metrics = {"exact_match": 0.5, "f1": 0.75}
    row = KIND.summarise(run, records)["rows"][0]
    found = report_of(run, row, last_attempts(records)[GOOD])["Accuracy"]
    assert (found["Exact Match"], found["F1 Score"]) == (50.0, 75.0)


def test_an_open_loop_is_no_point_of_bytemlperfs(records):
    run = run_json(GOOD)
    records[4].loop = "open"
    row = KIND.summarise(run, records)["rows"][0]
    report = report_of(run, row, last_attempts(records)[GOOD])
    assert report["Performance"] == []
    assert report["Bmp"]["Points"][0]["Loop"] == "open"


def test_the_table_has_the_share_of_int8_where_there_is_one(records, tmp_path, capsys):
    show(KIND.summarise(run_json(GOOD), records), tmp_path)
    assert "int8 %" not in capsys.readouterr().out
    records[6].coverage = msgspec.structs.replace(records[6].coverage, details={"int8_share_of_products": 0.875})
    show(KIND.summarise(run_json(GOOD, BAD), records), tmp_path)
    shown = capsys.readouterr().out
    assert "int8 %" in shown
    assert "87.5" in shown


@pytest.mark.parametrize("columns", [200, 120, 80])
def test_a_narrow_terminal_gets_fewer_columns_and_every_figure_whole(columns, records, tmp_path, capsys):
    summary = KIND.summarise(run_json(GOOD, BAD), records)
    show(summary, tmp_path, columns)
    rows = capsys.readouterr().out.split("Speed")[0]
    assert "…" not in rows
    good = next(row for row in summary["rows"] if row["status"] == "ok")
    assert f"pass {good['scaled_max']:.1e}" in rows
    assert max(map(len, rows.splitlines())) <= columns
    heads = " ".join(rows.split())
    assert all(name in heads for name in ("model", "samples/s", "accuracy")), "nothing is lost where the table goes on below itself"


def test_the_table_shows_hostile_text_as_text(records, tmp_path, capsys):
    show(KIND.summarise(run_json(GOOD, BAD), records), tmp_path)
    shown = capsys.readouterr().out
    assert "[red]kernel[/red]" in shown
    assert "\x1b" not in shown
    assert "unsupported_operator" in shown
    assert "PARTIAL" in shown
