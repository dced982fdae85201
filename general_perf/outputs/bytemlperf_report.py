"""ByteMLPerf's general report, one JSON for each model and backend (and precision), under `bytemlperf/` in the run folder.

Keys are those of its `result.json`. What was not measured is left out, never filled in: `Subgraph Coverage` comes from
the measured graph share, QPS are calls per second × batch size, latencies are milliseconds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bytemlperf_llm.runs.folder import write_json
from bytemlperf_llm.runs.suite import suite_records

FOLDER = "bytemlperf"
WORDS = {"top1": "Top-1", "auc": "AUC", "accuracy": "Accuracy", "f1": "F1", "f1_macro": "F1 macro"}


def write_bytemlperf(folder: Path, run: dict[str, Any], summary: dict[str, Any]) -> list[Path]:
    """Write the reports; their paths."""
    from general_perf.run_kind import last_attempts

    jobs = last_attempts(suite_records(folder))
    target = folder / FOLDER
    target.mkdir(exist_ok=True)
    written = []
    for row in summary["rows"]:
        path = target / f"result-{row['job'].replace('/', '-')}.json"
        write_json(path, report_of(run, row, jobs.get(row["job"], [])))
        written.append(path)
    return written


def report_of(run: dict[str, Any], row: dict[str, Any], records: list[dict[str, Any]]) -> dict[str, Any]:
    """One model's report as ByteMLPerf lays it out. A failed one has `Error` beside what there is."""
    stages: dict[str, dict[str, Any]] = {}
    for record in records:
        if record["status"] == "ok":
            stages.setdefault(record["stage"], record)
    hardware = run["environment"]["hardware"]
    report: dict[str, Any] = {
        "Model": row["model"].upper(),
        "Backend": row["backend"].upper(),
        "Host Info": hardware["cpu"]["model"],
        "Dataset": row["dataset"] or None,
        "Version": run["environment"]["bytemlperf_llm"],
        "Execution Date": run["started_at"],
        "Graph Compile": _compile(row, stages),
        "Accuracy": _accuracy(stages),
        "Performance": _performance(records),
    }
    if row["error_class"]:
        report["Error"] = {"Class": row["error_class"], "Reason": row["reason"]}
    return report


def _compile(row: dict[str, Any], stages: dict[str, dict[str, Any]]) -> dict[str, Any]:
    compiled = stages.get("compile")
    if compiled is None:
        return {}
    found = {
        "Compile Duration": compiled["compile_s"],
        "Compile Precision": row["precision"].upper(),
        "Optimizations": {name: name for name in compiled["optimisations"]},
        "Precision Tool": compiled["precision_tool"],
    }
    coverage = stages.get("coverage", {}).get("coverage", {})
    if coverage.get("graph_share") is not None:
        found["Subgraph Coverage"] = {"Graph": coverage["graph_share"], "FLOPs": coverage["flops_share"], "Method": coverage["method"]}
    return found


def _accuracy(stages: dict[str, dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    judged, compared = stages.get("accuracy"), stages.get("numerics")
    if judged is not None:
        found["Data Percent"] = judged["data_percent"]
        found |= {WORDS.get(name, name): value for name, value in judged["metrics"].items()}
    if compared is not None:
        first = next(iter(compared["outputs"].values()))
        difference, relative = first["abs"] or {}, first["rel"] or {}
        found |= {"Mean Diff": difference.get("mean"), "Std Diff": difference.get("std"), "Max Diff": difference.get("max")}
        found |= {"Max Rel-Diff": relative.get("max"), "Mean Rel-Diff": relative.get("mean")}
        found["Diff Dist"] = first["histogram"]
    return found


def _performance(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    from general_perf.measure.latency import describe
    from general_perf.run_kind import throughput

    points = []
    for record in records:
        if record["stage"] != "performance" or record["status"] != "ok" or not record["latency_ns"]:
            continue
        metric = describe(record["latency_ns"])
        p99 = metric["percentiles"]["99"]
        points.append(
            {
                "BS": record["batch_size"],
                "QPS": throughput(record),
                "AVG Latency": metric["mean"] / 1e6,
                "P99 Latency": p99 if p99 == "insufficient" else p99 / 1e6,
                "Loop": record["loop"],
                "Clients": record["instances"],
            }
        )
    return points
