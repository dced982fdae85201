"""The general suite's part of the report page: rows, speed, compile report, numerics with histograms, usability."""

from __future__ import annotations

from typing import Any

from bytemlperf.command.exits import one_line
from bytemlperf.report.blocks import bars, metric_cells, over, table
from bytemlperf.report.text import cell
from bytemlperf.runs.kinds import Plot, Section, Text
from bytemlperf.units import NS_PER_MS
from general_perf.backends.contract import Coverage
from general_perf.job.records import (
    AccuracyRecord,
    CompileRecord,
    CoverageRecord,
    JobRecord,
    NumericsRecord,
    PerformanceRecord,
    SparsityRecord,
)
from general_perf.measure.sparsity import patterns_in_words
from general_perf.results.points import Jobs, RecordT, point_of

MAX_HISTOGRAMS = 24
"""Pages stay small: of so many outputs at most."""
MIB = 1 << 20
PERCENTS = ("50", "90", "99")
FEW_JOBS = 6
"""Up to so many jobs, a terminal shows every point of speed."""
SPARE = ("decisions changed", "first response s", "graph, FLOPs %", "compile s", "int8 %")
OPEN_SPARE = ("dispersion", "expected", "max ms", "1 in 100 ms", "arrivals, Kolmogorov-Smirnov")


def sections(run: dict[str, Any], summary: dict[str, Any], jobs: Jobs) -> list[Section]:
    """Most important first."""
    parts: list[Section] = [
        *_rows(summary),
        *_failures(summary),
        *_speed(summary, _peaks(jobs)),
        *_open(summary),
        *_throughput(summary),
        *_compile(summary, jobs),
        *_sparsity(jobs),
        *_numerics(jobs),
        *_accuracy(jobs),
    ]
    return [*parts, *_usability(summary, jobs), _method(run)]


def terminal_sections(summary: dict[str, Any]) -> list[Section]:
    """A row a job, with speed beside it where there are few; failed ones with the reason, and a fix that can be copied."""
    few = len(summary["rows"]) <= FEW_JOBS
    return [*_rows(summary), *(_speed(summary, {}) + _open(summary) if few else []), *map(_failed, filter(_error_of, summary["rows"]))]


def _error_of(row: dict[str, Any]) -> str:
    return str(row["error_class"])


def _failed(row: dict[str, Any]) -> Text:
    reason, fix = one_line(row["reason"]), one_line(row["fix"])
    return Text(body=f"{row['job']}: {row['error_class']}: {reason}\n  fix: {fix}", style="code")


def _rows(summary: dict[str, Any]) -> list[Section]:
    first = summary["first_try"]
    note = f"{first['compiled']} of {first['of']} compiled at first try. Every job has a process of its own; a failed one is a row."
    return table("Models and backends", [_row(row) for row in summary["rows"]], note=note, spare=SPARE)


def _row(row: dict[str, Any]) -> dict[str, str | float | int | None]:
    shares = [None if share is None else f"{100 * share:.4g}" for share in (row["graph_share"], row["flops_share"])]
    return {
        "model": row["model"],
        "backend": row["backend"],
        "precision": row["precision"],
        "result": row["status"] + (f": {row['error_class']}" if row["error_class"] else ""),
        "compile s": row["compile_s"],
        "first response s": row["first_answer_s"],
        "graph, FLOPs %": None if shares == [None, None] else ", ".join(share or cell(None) for share in shares),
        "int8 %": None if row["int8_share"] is None else f"{100 * row['int8_share']:.3g}",
        "numerics": _verdict_of(row),
        "decisions changed": None if row["decisions_changed"] is None else f"{row['decisions_changed']} of {row['decisions']}",
        "accuracy": ", ".join(f"{name} {_figure(value)}" for name, value in row["accuracy"].items()) or None,
        "samples/s": row["best_samples_per_s"],
    }


def _verdict_of(row: dict[str, Any]) -> str | None:
    """Pass or fail, with the largest difference over the reference's root mean square."""
    if row["numerics_passed"] is None:
        return None
    word = "pass" if row["numerics_passed"] else "FAIL"
    return word if row["scaled_max"] is None else f"{word} {row['scaled_max']:.1e}"


def _failures(summary: dict[str, Any]) -> list[Section]:
    failed = filter(_error_of, summary["rows"])
    named = {"job": "job", "class": "error_class", "reason": "reason", "fix": "fix"}
    return table("Failures and fixes", [{title: row[name] for title, name in named.items()} for row in failed])


def _records(jobs: Jobs, stage: type[RecordT]) -> list[RecordT]:
    return [record for records in jobs.values() for record in records if isinstance(record, stage) and record.status == "ok"]


def _points(summary: dict[str, Any]) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    """`job | point` of each measured point, its latency and its throughput."""
    metrics = summary["metrics"]
    points = [name.removesuffix(" | latency") for name in metrics if name.endswith(" | latency")]
    return [(point, metrics[f"{point} | latency"], metrics[f"{point} | throughput"]) for point in points]


def _peaks(jobs: Jobs) -> dict[str, float | None]:
    """The most memory of each point's processes, MiB."""
    return {f"{record.job} | {point_of(record)}": over(record.peak_host_bytes, MIB) for record in _records(jobs, PerformanceRecord)}


def _speed(summary: dict[str, Any], peaks: dict[str, float | None]) -> list[Section]:
    rows = []
    for point, latency, rate in _points(summary):
        job, batch = point.split(" | ")
        figures = zip(("mean", *(f"p{percent}" for percent in PERCENTS)), metric_cells(latency, PERCENTS, NS_PER_MS), strict=True)
        more = {"calls": latency["count"], "samples/s": rate["mean"], "peak host MiB": peaks.get(point)}
        rows.append({"job": job, "point": batch, **{f"{name} ms": figure for name, figure in figures}, **more})
    note = "95 % intervals below. Closed loop: from call to response. Open loop: from when the call was due. Percentiles are nearest-rank."
    return table("Speed", rows, note=note, spare=("p90 ms", "calls"))


def _throughput(summary: dict[str, Any]) -> list[Section]:
    points = _points(summary)
    trace = bars("", [rate["mean"] for _, _, rate in points], [point for point, _, _ in points], lying=True)
    layout = {"xaxis": {"title": {"text": "samples/s"}}}
    return [Plot(title="Throughput, samples/s", data=[trace], layout=layout, alt="Throughput of every point")] if points else []


def _open(summary: dict[str, Any]) -> list[Section]:
    rows = []
    for key, facts in summary.get("open_loop", {}).items():
        late = facts["late_ns"] or {}
        service = summary["metrics"].get(f"{key} | service time", {}).get("percentiles", {}).get("50")
        job, point = key.split(" | ")
        rows.append(
            {
                "job": job,
                "point": point,
                "target calls/s": facts["requested_rate"],
                "actual calls/s": facts["offered_rate"],
                "calls": facts["planned"],
                "dropped": facts["dropped"],
                "arrivals, Kolmogorov-Smirnov": arrivals_text(facts),
                "dispersion": facts["dispersion"],
                "expected": facts["expected_dispersion"],
                "client late p50 ms": over(late.get("p50"), NS_PER_MS),
                "1 in 100 ms": over(late.get("tail"), NS_PER_MS),
                "max ms": over(late.get("max"), NS_PER_MS),
                "service time p50 ms": service if isinstance(service, str) else over(service, NS_PER_MS),
            }
        )
    note = "A call arrives when it is due plus the client's own delay. The wait for a free instance is in the latency, not in that delay."
    return table("Open loop: target and actual load", rows, note=note, spare=OPEN_SPARE)


def arrivals_text(facts: dict[str, Any]) -> str:
    """The arrival test in words: D of Kolmogorov and Smirnov, with its p where the process is random."""
    if facts["distance"] is None:
        return f"{facts['process']}, insufficient"
    claim = f"D {facts['distance']:.3f}" + ("" if facts["p_value"] is None else f", p {facts['p_value']:.2g}")
    return f"{facts['process']}: {claim}"


def _compile(summary: dict[str, Any], jobs: Jobs) -> list[Section]:
    coverage = {record.job: record.coverage for record in _records(jobs, CoverageRecord)}
    summed = {row["job"]: row for row in summary["rows"]}
    rows = []
    for record in _records(jobs, CompileRecord):
        covered, row = coverage.get(record.job) or Coverage(), summed[record.job]
        fell_back = ", ".join(f"{name} ×{count}" for name, count in list(covered.fallback_operators.items())[:12])
        rows.append(
            {
                "job": record.job,
                "weights": record.weights,
                "compile s": record.compile_s,
                "artefact MiB": over(record.artefact_bytes, MIB),
                "graph share": covered.graph_share,
                "FLOPs share": covered.flops_share,
                "GFLOPs a call": over(covered.flops, 1e9),
                "FLOPs not counted of": ", ".join(row["flops_leave_out"]) or None,
                "parts": covered.partitions,
                "fell back": fell_back or covered.reason or "none",
                "precision by": record.precision_tool,
                "products in int8": row["int8_share"],
                "calibration": record.calibration,
                "options": ", ".join(f"{key}={value}" for key, value in record.options.items()),
                "optimisations, notes": "; ".join((*record.optimisations, *record.notes)) or None,
            }
        )
    methods = sorted({covered.method for covered in coverage.values()})
    return table("Compile report", rows, note="Coverage is measured: " + "; ".join(methods))


def _sparsity(jobs: Jobs) -> list[Section]:
    rows = []
    for record in _records(jobs, SparsityRecord):
        sides = {"compiled": record.compiled, "source": record.source}
        known: dict[str, str | float | None] = {f"zeros, {side}": facts.zero_share if facts else None for side, facts in sides.items()}
        known |= {f"patterns, {side}": patterns_in_words(facts) if facts else None for side, facts in sides.items()}
        how = "measured" if sides["compiled"] is not None else "reported by the backend"
        weights = next((facts.values for facts in sides.values() if facts), None)
        rows.append({"job": record.job, "sparsity": record.sparsity, "known by": how, "weights": weights, **known})
    note = "Of the weights with two axes or more. A pattern n:m: no m neighbours along an axis keep more than n."
    return table("Sparsity of the weights", rows, note=note)


def _numerics(jobs: Jobs) -> list[Section]:
    outputs = [(record, name, output) for record in _records(jobs, NumericsRecord) for name, output in record.outputs.items()]
    rows = [_compared(record, name, output) for record, name, output in outputs]
    plots = [_histogram(record.job, name, output) for record, name, output in outputs if output["histogram"]]
    note = "NaN and infinite values are counted, never zeroed; relative differences leave out where the reference is 0."
    return [*table("Numerics", rows, note=note), *plots[:MAX_HISTOGRAMS]]


def _compared(record: NumericsRecord, name: str, output: dict[str, Any]) -> dict[str, Any]:
    differences = {
        f"{statistic} {kind}": (output[kind] or {}).get(statistic) for kind in ("abs", "rel") for statistic in ("max", "mean", "std")
    }
    return {
        "job": record.job,
        "output": name,
        "verdict": "pass" if record.passed else "FAIL",
        **differences,
        "cosine": output["cosine"],
        "KL mean, nats": (output["kl"] or {}).get("mean"),
        "NaN": output["nonfinite"]["ours_nan"],
        "Inf": output["nonfinite"]["ours_inf"],
        "reference": record.reference,
    }


def _histogram(job: str, output: str, compared: dict[str, Any]) -> Plot:
    held = compared["histogram"]
    middles = [(low + high) / 2 for low, high in zip(held["edges"], held["edges"][1:], strict=False)]
    data = [bars("reference", middles, held["reference"]), bars("backend", middles, held["ours"])]
    zeros = compared["zeros"]
    note = "" if zeros["ours"] is None else f"zeros: backend {zeros['ours']:.2%}, reference {zeros['reference']:.2%}"
    return Plot(title=f"Values of {output}: {job}", data=data, layout={"barmode": "group"}, note=note, alt="Histograms side by side")


def _accuracy(jobs: Jobs) -> list[Section]:
    rows = [
        {
            "job": record.job,
            "dataset": record.dataset,
            "samples": record.samples,
            "metric": metric,
            "backend": value,
            "reference": record.reference_metrics.get(metric),
            "decisions changed": record.decisions_changed,
            "pre-processing µs": _mean_us(record.preprocess_ns),
            "post-processing µs": _mean_us(record.postprocess_ns),
        }
        for record in _records(jobs, AccuracyRecord)
        for metric, value in record.metrics.items()
    ]
    return table("Accuracy on real data", rows, note="The reference is the model in fp32 on the CPU.")


def _figure(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4f}"


def _mean_us(values_ns: list[int]) -> float | None:
    return sum(values_ns) / len(values_ns) / 1e3 if values_ns else None


def _usability(summary: dict[str, Any], jobs: Jobs) -> list[Section]:
    rows: dict[str, Any] = {}
    for name, records in jobs.items():
        backend = name.split("/")[1]
        for record in records:
            facts = record.usability if isinstance(record, JobRecord) else None
            if facts and "packages" in facts and backend not in rows:
                mine = [row for row in summary["rows"] if row["backend"] == backend]
                waits = sorted(row["first_answer_s"] for row in mine if row["first_answer_s"] is not None)
                rows[backend] = {
                    "backend": backend,
                    "installed MiB": facts["install_bytes"] / MIB,
                    "packages": facts["packages"],
                    "adapter, lines of code": facts["adapter_lines"],
                    "median time to first response, s": waits[len(waits) // 2] if waits else None,
                    "compiled at first try": sum(row["compiled"] for row in mine) / len(mine),
                }
    return table("Usability", list(rows.values()), note="Installed size of the runtime with all it requires.")


def _method(run: dict[str, Any]) -> Text:
    flags = run["config"]["flags"]
    jobs = run["config"].get("plan") or [flags]
    ran = {f"{job['iterations']} calls an instance" if job["iterations"] else f"{job['seconds']:g} s" for job in jobs}
    body = f"Each point ran {' or '.join(sorted(ran))}."
    return Text(
        title="Measurement method",
        body=f"{body} One benchmark loop for every backend; inputs are seeded and realistic, seed {flags['seed']}.",
    )
