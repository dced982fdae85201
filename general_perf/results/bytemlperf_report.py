"""ByteMLPerf's general report: `bytemlperf/<backend>/<model>/result-<precision>.json` in the run folder, as its reports lie.

Keys, types and units are those of its `result-<precision>.json`: `Subgraph Coverage` is a percentage (the measured share of
operators), `QPS` samples per second, latencies milliseconds, `Exact Match` and `F1 Score` percentages, `Top-1` a share,
`Diff Dist` the name of a picture beside the file. A point of `Performance` has its four keys and no more, and is a closed
loop, as there. What was not measured is left out, never filled in; a p99 that the sample can't carry is null. What its
format has no place for stands under `Bmp`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bytemlperf.runs.folder import write_json
from bytemlperf.runs.records import RunRecords
from general_perf.job.records import (
    AccuracyRecord,
    AnyRecord,
    CompileRecord,
    CoverageRecord,
    NumericsRecord,
    PerformanceRecord,
    SparsityRecord,
)
from general_perf.results.points import first, last_attempts, latency, measured, throughput

FOLDER = "bytemlperf"
WORDS = {"top1": "Top-1", "auc": "AUC", "accuracy": "Accuracy", "exact_match": "Exact Match", "f1_macro": "F1 macro"}
PERCENTAGES = ("Exact Match", "F1 Score")


def write_bytemlperf(folder: Path, run: dict[str, Any], summary: dict[str, Any]) -> list[Path]:
    """Write the reports, and the picture of each that compared its outputs; their paths."""
    jobs = last_attempts(RunRecords(folder, AnyRecord))
    written = []
    for row in summary["rows"]:
        target = folder / FOLDER / row["backend"] / row["model"]
        target.mkdir(parents=True, exist_ok=True)
        report, held = report_of(run, row, jobs.get(row["job"], [])), _histogram(jobs.get(row["job"], []))
        if held is not None:
            picture = target / f"{row['model']}-to-{row['precision']}.png"
            write_histogram(held, picture)
            report["Accuracy"]["Diff Dist"] = picture.name
            written.append(picture)
        path = target / f"result-{row['precision']}.json"
        write_json(path, report)
        written.append(path)
    return written


def report_of(run: dict[str, Any], row: dict[str, Any], records: list[AnyRecord]) -> dict[str, Any]:
    """One model's report as ByteMLPerf lays it out. A failed one has `Error` beside what there is."""
    hardware = run["environment"]["hardware"]
    points = measured(records)
    report: dict[str, Any] = {
        "Model": row["model"].upper(),
        "Backend": row["backend"].upper(),
        "Host Info": hardware["cpu"]["model"],
        "Dataset": _dataset(run, row),
    }
    if clients := {point.instances for point in points if point.loop == "closed"}:
        report |= {"Instance Count": max(clients), "Device Count": 1}  # a job has one device
    report["Graph Compile"] = _compile(row, records)
    if accuracy := _accuracy(records):
        report["Accuracy"] = accuracy
    report["Performance"] = [_point(point) for point in points if point.loop == "closed"]
    report |= {"Version": run["environment"]["bytemlperf_llm"], "Execution Date": run["started_at"], "Bmp": _ours(records, points)}
    if row["error_class"]:
        report["Error"] = {"Class": row["error_class"], "Reason": row["reason"], "Fix": row["fix"]}
    return report


def _dataset(run: dict[str, Any], row: dict[str, Any]) -> str | None:
    """The dataset that was judged on; the card's where it was not, as there."""
    cards = {job["id"]: job["card"] for job in run["config"].get("plan", [])}
    name = row["dataset"] or cards.get(row["job"], {}).get("dataset")
    return str(name).upper() if name else None


def _compile(row: dict[str, Any], records: list[AnyRecord]) -> dict[str, Any]:
    compiled, covered = first(records, CompileRecord, ok=True), first(records, CoverageRecord, ok=True)
    if compiled is None or compiled.compile_s is None:
        return {}
    report = {"Compile Duration": round(compiled.compile_s, 5), "Compile Precision": row["precision"].upper()}
    if covered is not None and covered.coverage.graph_share is not None:
        report["Subgraph Coverage"] = round(100 * covered.coverage.graph_share, 2)
    return {**report, "Optimizations": {name: name for name in compiled.optimisations}}


def _accuracy(records: list[AnyRecord]) -> dict[str, Any]:
    report: dict[str, Any] = {}
    judged, compared = first(records, AccuracyRecord, ok=True), first(records, NumericsRecord, ok=True)
    if judged is not None:
        report["Data Percent"] = judged.data_percent
        report |= dict(_metric(name, value, judged.metrics) for name, value in judged.metrics.items())
    if compared is not None:
        output = next(iter(compared.outputs.values()))
        difference, relative = output["abs"] or {}, output["rel"] or {}
        report |= {"Mean Diff": difference.get("mean"), "Std Diff": difference.get("std"), "Max Diff": difference.get("max")}
        report |= {"Max Rel-Diff": relative.get("max"), "Mean Rel-Diff": relative.get("mean")}
    return report


def _metric(name: str, value: float | None, beside: dict[str, float | None]) -> tuple[str, float | None]:
    """F1 of answers is `F1 Score` there, in percent; F1 of classes is none of its metrics and keeps its name."""
    word = "F1 Score" if name == "f1" and "exact_match" in beside else WORDS.get(name, name)
    return word, 100 * value if value is not None and word in PERCENTAGES else value


def _histogram(records: list[AnyRecord]) -> dict[str, Any] | None:
    """Both distributions of the first output, where it was compared."""
    compared = first(records, NumericsRecord, ok=True)
    held = next(iter(compared.outputs.values()))["histogram"] if compared else None
    return held if held is None else dict(held)


def _point(record: PerformanceRecord) -> dict[str, Any]:
    metric = latency(record)
    assert metric is not None
    p99 = metric.percentiles["99"]
    return {
        "BS": record.batch_size,
        "QPS": throughput(record),
        "AVG Latency": metric.mean / 1e6,
        "P99 Latency": None if isinstance(p99, str) else p99 / 1e6,
    }


def _ours(records: list[AnyRecord], points: list[PerformanceRecord]) -> dict[str, Any]:
    """What ByteMLPerf's format has no place for."""
    report: dict[str, Any] = {
        "Points": [
            {
                **_point(point),
                "Loop": point.loop,
                "Clients": point.instances,
                "Requested Rate": point.requested_rate,
                "Dropped": point.dropped,
            }
            for point in points
        ]
    }
    if compiled := first(records, CompileRecord, ok=True):
        report |= {"Weights": compiled.weights, "Precision Tool": compiled.precision_tool}
    if sparsity := first(records, SparsityRecord, ok=True):
        report["Sparsity"] = sparsity.sparsity
    covered = first(records, CoverageRecord, ok=True)
    if covered is not None and covered.coverage.graph_share is not None:
        coverage = covered.coverage
        report["Coverage"] = {"FLOPs": coverage.flops_share, "Method": coverage.method, "Fell Back": coverage.fallback_operators}
    if compared := first(records, NumericsRecord, ok=True):
        output = next(iter(compared.outputs.values()))
        report["Numerics"] = {"Passed": compared.passed, "Cosine": output["cosine"], "Histogram": output["histogram"]}
    return report


WIDTH, HEIGHT, EDGE = 700, 450, 40
BLUE, ORANGE, GREY = (70, 110, 180), (225, 140, 50), (110, 110, 110)


def write_histogram(held: dict[str, Any], path: Path) -> None:
    """`held` has `edges`, `ours` and `reference`, as measure.numerics.compare gives them."""
    from PIL import Image, ImageDraw, ImageFont

    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(13)
    floor, high = HEIGHT - EDGE, HEIGHT - 2 * EDGE
    largest = max(*held["ours"], *held["reference"], 1)
    step = (WIDTH - 2 * EDGE) / len(held["ours"])
    for bar in range(len(held["ours"])):
        for shift, key, colour in ((0.1, "reference", BLUE), (0.5, "ours", ORANGE)):
            left, tall = EDGE + step * (bar + shift), high * held[key][bar] / largest
            if tall:
                draw.rectangle((left, floor - tall, left + step * 0.4, floor), fill=colour)
    draw.line((EDGE, floor, WIDTH - EDGE, floor), fill=GREY)
    draw.text((EDGE, floor + 8), f"{held['edges'][0]:.4g}", fill=GREY, font=font)
    draw.text((WIDTH - EDGE, floor + 8), f"{held['edges'][-1]:.4g}", fill=GREY, font=font, anchor="ra")
    draw.text((EDGE, 12), f"values of the output, at most {largest} in a bar", fill=GREY, font=font)
    draw.text((WIDTH - EDGE - 90, 12), "reference", fill=BLUE, font=font, anchor="ra")
    draw.text((WIDTH - EDGE, 12), "backend", fill=ORANGE, font=font, anchor="ra")
    image.save(path)
