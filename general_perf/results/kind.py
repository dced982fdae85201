"""What a run of kind `general` can tell: summary, comparable figures, page sections. A pure function of the records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import accumulate, pairwise
from typing import Any

import msgspec

from bytemlperf.export.timeline import Fact, Slice, Story, placed
from bytemlperf.report.text import counted
from bytemlperf.runs.kinds import Figure, PlannedJob, RunKind, Section, came_to_its_end
from bytemlperf.runs.records import once
from bytemlperf.runs.verdicts import VerdictName, median_reasons, worst
from bytemlperf.units import NS_PER_S
from general_perf.backends.contract import Coverage
from general_perf.job.records import (
    AccuracyRecord,
    AnyRecord,
    CompileRecord,
    CoverageRecord,
    JobRecord,
    LoadRecord,
    NumericsRecord,
    PerformanceRecord,
    Record,
    SparsityRecord,
)
from general_perf.measure.performance import faults, offered
from general_perf.results.points import (
    Records,
    figures,
    first,
    last_attempts,
    latency,
    measured,
    point_of,
    service_time,
    speed,
    throughput,
)
from general_perf.results.sections import sections, terminal_sections

LATENCY = " | latency"
"""How the names of a point's latencies end."""


class GeneralKind(RunKind):
    """See bytemlperf.runs.kinds.RunKind."""

    name = "General models"
    record = AnyRecord

    def summarise(self, run: dict[str, Any], records: Records) -> dict[str, Any]:
        """`rows` (one for each planned job), `metrics` by `job | point`, `counts` of jobs by status."""
        planned = [str(job) for job in run["config"]["jobs"]]
        by_job = once(records, last_attempts)
        rows = [row_of(name, by_job.get(name, [])) for name in planned]
        metrics: dict[str, Any] = {}
        opened: dict[str, Any] = {}
        for name in planned:
            for record in by_job.get(name, []):
                if not isinstance(record, PerformanceRecord) or record.status != "ok":
                    continue
                if record.latency_ns:
                    metrics |= _metrics(name, record)
                if (facts := offered(record)) is not None:
                    opened[f"{name} | {point_of(record)}"] = facts
        counts = Counter(row["status"] for row in rows)
        verdict, reasons = _verdict(rows, counts, metrics)
        return {
            "verdict": verdict,
            "reasons": reasons,
            "warnings": _warnings(rows) + _load_warnings(opened, metrics),
            "counts": dict(sorted(counts.items())),
            "first_try": {"compiled": sum(row["compiled"] for row in rows), "of": len(rows)},
            "errors": dict(sorted(Counter(row["error_class"] for row in rows if row["error_class"]).items())),
            "rows": rows,
            "metrics": metrics,
            **({"open_loop": opened} if opened else {}),
        }

    def contradictions(self, run: dict[str, Any], records: Records) -> Iterator[str]:
        """Records against the jobs of run.json: each is of one of them; a sweep that ended has an end for each."""
        planned = {str(name) for name in run["config"]["jobs"]}
        left = set(planned)
        for record in records:
            if record.job not in planned:
                yield f"there is a record of {record.job}, which the plan doesn't have"
            if isinstance(record, JobRecord):
                left.discard(record.job)
        if came_to_its_end(run):
            yield from (f"there is no end of {job}" for job in sorted(left))

    def jobs(self, run: dict[str, Any], records: Records) -> list[PlannedJob]:
        """Of run.json's plan, and the last attempt of each."""
        planned = [entry for entry in run.get("config", {}).get("plan", ()) if isinstance(entry, dict) and "id" in entry]
        jobs = {
            name: PlannedJob(name=name, model=name.split("/")[0].split("@")[0], size=str(entry["size"]), precision=name.split("/")[-1])
            for entry in planned
            for name in [str(entry["id"])]
        }
        for record in records:
            job = jobs.get(record.job)
            if job is not None and isinstance(record, SparsityRecord):
                job.sparsity = record.sparsity
            if job is not None and isinstance(record, JobRecord):
                job.status, job.reason = record.status, record.reason
        return list(jobs.values())

    def model_of(self, figure: Figure) -> str:
        """The first word of the key."""
        return figure.key.split("/")[0].split(" | ")[0]

    def case_of(self, figure: Figure) -> tuple[str, str]:
        """The backend; precision, batch and loop."""
        _, _, rest = figure.key.partition("/")
        backend, _, case = rest.partition("/")
        return backend, case

    def figures(self, run: dict[str, Any], summary: dict[str, Any], records: Records) -> list[Figure]:  # noqa: ARG002
        """Latency, throughput, memory, compile and start-up time, accuracy and numerics of every job."""
        return figures(summary, once(records, last_attempts))

    def sections(self, run: dict[str, Any], summary: dict[str, Any], records: Records) -> list[Section]:
        """Rows, speed, compile report, numerics with histograms, usability."""
        return sections(run, summary, once(records, last_attempts))

    def story(self, run: dict[str, Any], summary: dict[str, Any], records: Records) -> Story:  # noqa: ARG002
        """A slice a job with its stages, on its backend's track."""
        return placed(run, _slices(records))

    def terminal(self, run: dict[str, Any], summary: dict[str, Any], records: Records) -> list[Section]:  # noqa: ARG002
        """Rows, speed of a few, failures."""
        return terminal_sections(summary)


KIND = GeneralKind()


def _slices(records: Records) -> Iterator[tuple[Slice, int]]:
    """Of every attempt that came to its end, with the throughput of its points."""
    points: dict[str, Fact] = {}
    for record in records:
        if isinstance(record, PerformanceRecord) and record.latency_ns:
            points[f"{point_of(record)}, samples/s"] = throughput(record)
        if isinstance(record, JobRecord):
            ends = accumulate(round(seconds * NS_PER_S) for seconds in record.stages_s.values())
            stages = [(name, start, end) for name, (start, end) in zip(record.stages_s, pairwise([0, *ends]), strict=True)]
            job = Slice(
                noun="job",
                track=("jobs", record.backend),
                name=record.job,
                start_ns=0,
                end_ns=round(record.wall_s * NS_PER_S),
                stages=stages,
                facts={"status": record.status, "reason": record.reason, "reference_s": record.reference_s, **points},
                failed=record.error_class or record.status if record.status == "failed" else "",
            )
            yield job, record.ended_unix_ns
            points = {}


def row_of(name: str, records: list[AnyRecord]) -> dict[str, Any]:
    """One job in a line. A job without an end is `not run`."""
    compiled, covered, judged = first(records, CompileRecord), first(records, CoverageRecord), first(records, AccuracyRecord)
    coverage = Coverage() if covered is None else covered.coverage
    speed = measured(records)
    model, backend, precision = name.split("/")
    return {
        "job": name,
        "model": model,
        "backend": backend,
        "precision": precision,
        **_kept(first(records, JobRecord), status="not run", error_class="", reason="", fix=""),
        **_kept(compiled, weights=""),
        "compiled": compiled is not None and compiled.status == "ok",
        **_kept(compiled, compile_s=None, artefact_bytes=None),
        **_kept(first(records, SparsityRecord), sparsity=""),
        **_kept(first(records, LoadRecord), first_answer_s=None),
        "graph_share": coverage.graph_share,
        "flops_share": coverage.flops_share,
        "flops": coverage.flops,
        "flops_leave_out": coverage.details.get("operators_without_flops_formula", {}),
        "products": coverage.details.get("products_by_precision", {}),
        "int8_share": coverage.details.get("int8_share_of_products"),
        "points": len(speed),
        "best_samples_per_s": max(map(throughput, speed), default=None),
        **_numerics(first(records, NumericsRecord)),
        **_kept(judged, dataset=""),
        "accuracy": judged.metrics if judged else {},
        "reference_accuracy": judged.reference_metrics if judged else {},
    }


def _kept(record: Record | None, **absent: Any) -> dict[str, Any]:
    """Fields of a record by name, or what stands for each where there is no such record."""
    return {name: getattr(record, name, other) for name, other in absent.items()}


def _numerics(record: NumericsRecord | None) -> dict[str, Any]:
    outputs = [] if record is None else list(record.outputs.values())
    scaled = [output for output in outputs if output["scaled_max"] is not None]
    return {
        "numerics_passed": record.passed if record else None,
        "scaled_max": max((output["scaled_max"] for output in scaled), default=None),
        "cosine": min((output["cosine"] for output in scaled if output["cosine"] is not None), default=None),
        "nonfinite": sum(output["nonfinite"]["ours_nan"] + output["nonfinite"]["ours_inf"] for output in outputs),
        **_kept(record, decisions=None, decisions_changed=None),
    }


def _metrics(name: str, record: PerformanceRecord) -> dict[str, Any]:
    point = f"{name} | {point_of(record)}"
    summaries = {
        point + LATENCY: latency(record),
        f"{point} | throughput": speed(record),
        f"{point} | service time": service_time(record),
    }
    return {name: msgspec.to_builtins(metric) for name, metric in summaries.items() if metric is not None}


def _verdict(rows: list[dict[str, Any]], counts: Counter[str], metrics: dict[str, Any]) -> tuple[VerdictName, list[str]]:
    """The worst that holds, and the reasons. A refusal is a row like any other; so is one that lacks but the dataset of accuracy."""
    if counts["not run"]:
        return "invalid", [f"{counts['not run']} of {len(rows)} jobs were not run"]
    if not any(row["status"] == "ok" or (row["error_class"] == "missing_dataset" and row["points"]) for row in rows):
        return "invalid", [f"no job was measured: {', '.join(f'{count} {status}' for status, count in sorted(counts.items()))}"]
    points = {name.removesuffix(LATENCY): metric for name, metric in metrics.items() if name.endswith(LATENCY)}
    reasons = median_reasons("point", points)
    if counts["failed"]:
        reasons["partial"] = f"{counts['failed']} of {counted(len(rows), 'job')} failed"
    return worst(reasons), list(reasons.values())


def _warnings(rows: list[dict[str, Any]]) -> list[str]:
    notes = [f"{row['job']}: outputs are not within the tolerance" for row in rows if row["numerics_passed"] is False]
    notes += [f"{row['job']}: {row['nonfinite']} outputs are NaN or infinite" for row in rows if row["nonfinite"]]
    notes += [f"{row['job']}: the weights are sparse, {row['sparsity']}" for row in rows if row["sparsity"] not in ("", "none")]
    notes += [f"{row['job']}: FLOPs leave out {', '.join(row['flops_leave_out'])}" for row in rows if row["flops_leave_out"]]
    notes += [f"{row['job']}: {said}" for row in rows if (said := _run_elsewhere(row))]
    notes += [f"{row['job']}: no reference accuracy to compare with" for row in rows if row["accuracy"] and not row["reference_accuracy"]]
    if random := sorted({row["model"] for row in rows if row["weights"].startswith("random weights")}):
        notes.append(f"random weights, so accuracy is meaningless: {', '.join(random)}")
    return notes


def _run_elsewhere(row: dict[str, Any]) -> str:
    """Where the row's name says one precision and most of its products ran at another; "" where they didn't."""
    products, named = row["products"], row["precision"]
    if not products or 2 * products.get(named, 0) > sum(products.values()):
        return ""
    ran = ", ".join(f"{count} in {precision}" for precision, count in sorted(products.items()))
    return f"the backend multiplies in another precision than {named}: of its products {ran}"


def _load_warnings(opened: dict[str, Any], metrics: dict[str, Any]) -> list[str]:
    warnings = []
    for point, facts in opened.items():
        median = metrics.get(point + LATENCY, {}).get("percentiles", {}).get("50")
        warnings += [f"{point}: {fault}" for fault in faults(facts, median if isinstance(median, int | float) else None)]
    return warnings
