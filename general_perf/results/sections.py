"""The general suite's part of the report page: rows, speed, compile report, numerics with histograms, usability."""

from __future__ import annotations

from typing import Any

from bytemlperf.report.blocks import bars, metric_cells
from bytemlperf.report.text import cell
from bytemlperf.runs.kinds import Plot, Section, Table, Text
from bytemlperf.units import NS_PER_MS
from general_perf.results.points import point_of

Jobs = dict[str, list[dict[str, Any]]]
MAX_HISTOGRAMS = 24
"""Pages stay small: of so many outputs at most."""
MIB = 1 << 20
PERCENTS = ("50", "90", "99")
FEW_JOBS = 6
"""Up to so many jobs, a terminal shows every point of speed."""
SPARE = ("decisions changed", "first answer s", "graph, FLOPs %", "compile s", "int8 %")
OPEN_SPARE = ("dispersion", "expected", "max ms", "1 in 100 ms", "arrivals, Kolmogorov-Smirnov")


def sections(run: dict[str, Any], summary: dict[str, Any], jobs: Jobs) -> list[Section]:
    """Most important first."""
    made: list[Section] = [
        _rows(summary),
        *_failures(summary),
        *_speed(summary, _peaks(jobs)),
        *_open(summary),
        *_throughput(summary),
        *_compile(jobs),
        *_sparsity(jobs),
        *_numerics(jobs),
        *_accuracy(jobs),
    ]
    return [*made, *_usability(summary, jobs), _method(run)]


def terminal_sections(summary: dict[str, Any]) -> list[Section]:
    """A row a job, with speed beside it where there are few; failed ones with the reason."""
    few = len(summary["rows"]) <= FEW_JOBS
    return [_rows(summary), *(_speed(summary, {}) + _open(summary) if few else []), *_failures(summary)]


def _rows(summary: dict[str, Any]) -> Table:
    rows = [_row(row) for row in summary["rows"]]
    first = summary["first_try"]
    note = f"{first['compiled']} of {first['of']} compiled at first try. Every job has a process of its own; a failed one is a row."
    columns = [name for name in rows[0] if any(row[name] is not None for row in rows)] if rows else []
    return Table(
        title="Models and backends", columns=columns, rows=[[row[name] for name in columns] for row in rows], note=note, spare=SPARE
    )


def _row(row: dict[str, Any]) -> dict[str, str | float | int | None]:
    shares = [None if share is None else f"{100 * share:.4g}" for share in (row["graph_share"], row["flops_share"])]
    return {
        "model": row["model"],
        "backend": row["backend"],
        "precision": row["precision"],
        "result": row["status"] + (f": {row['error_class']}" if row["error_class"] else ""),
        "compile s": row["compile_s"],
        "first answer s": row["first_answer_s"],
        "graph, FLOPs %": None if shares == [None, None] else ", ".join(share or cell(None) for share in shares),
        "int8 %": None if row["int8_share"] is None else f"{100 * row['int8_share']:.3g}",
        "numerics": _verdict_of(row),
        "decisions changed": None if row["decisions_changed"] is None else f"{row['decisions_changed']} of {row['decisions']}",
        "accuracy": ", ".join(f"{name} {value:.4f}" for name, value in row["accuracy"].items()) or None,
        "samples/s": row["best_samples_per_s"],
    }


def _verdict_of(row: dict[str, Any]) -> str | None:
    """Pass or fail, with the largest difference over the reference's root mean square."""
    if row["numerics_passed"] is None:
        return None
    word = "pass" if row["numerics_passed"] else "FAIL"
    return word if row["scaled_max"] is None else f"{word} {row['scaled_max']:.1e}"


def _failures(summary: dict[str, Any]) -> list[Section]:
    rows = [(row["job"], row["error_class"], row["reason"], row["fix"]) for row in summary["rows"] if row["error_class"]]
    return [Table(title="Failures and fixes", columns=("job", "class", "reason", "fix"), rows=rows)] if rows else []


def _records(jobs: Jobs, stage: str) -> list[dict[str, Any]]:
    return [each for records in jobs.values() for each in records if each["stage"] == stage and each["status"] == "ok"]


def _points(summary: dict[str, Any]) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    """`job | point` of each measured point, its latency and its throughput."""
    metrics = summary["metrics"]
    points = [name.removesuffix(" | latency") for name in metrics if name.endswith(" | latency")]
    return [(point, metrics[f"{point} | latency"], metrics[f"{point} | throughput"]) for point in points]


def _peaks(jobs: Jobs) -> dict[str, float | None]:
    """The most memory of each point's processes, MiB."""
    peaks = {f"{record['job']} | {point_of(record)}": record["peak_host_bytes"] for record in _records(jobs, "performance")}
    return {point: None if peak is None else peak / MIB for point, peak in peaks.items()}


def _speed(summary: dict[str, Any], peaks: dict[str, float | None]) -> list[Section]:
    rows = [
        [
            *point.split(" | "),
            *metric_cells(latency, PERCENTS, NS_PER_MS),
            latency["count"],
            rate["mean"],
            *([peaks.get(point)] if peaks else []),
        ]
        for point, latency, rate in _points(summary)
    ]
    columns = (
        "job",
        "point",
        "mean",
        *(f"p{percent}" for percent in PERCENTS),
        "calls",
        "samples/s",
        *(["peak host MiB"] if peaks else []),
    )
    note = "95 % intervals below. Closed loop: from call to answer. Open loop: from when the call was due. Percentiles are nearest-rank."
    return [Table(title="Speed", columns=columns, rows=rows, note=note, spare=("p90, ms", "calls"))] if rows else []


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
        rows.append(
            (
                *key.split(" | "),
                facts["requested_rate"],
                facts["offered_rate"],
                facts["planned"],
                facts["dropped"],
                arrivals_text(facts),
                facts["dispersion"],
                facts["expected_dispersion"],
                *(None if late.get(each) is None else late[each] / 1e6 for each in ("p50", "tail", "max")),
                service / 1e6 if isinstance(service, int | float) else service,
            )
        )
    columns = (
        *("job", "point", "target calls/s", "actual calls/s", "calls", "dropped", "arrivals, Kolmogorov-Smirnov", "dispersion", "expected"),
        *("client late p50 ms", "1 in 100 ms", "max ms", "service time p50 ms"),
    )
    note = "A call arrives when it is due plus the client's own delay. The wait for a free instance is in the latency, not in that delay."
    return [Table(title="Open loop: target and actual load", columns=columns, rows=rows, note=note, spare=OPEN_SPARE)] if rows else []


def arrivals_text(facts: dict[str, Any]) -> str:
    """The arrival test in words: D of Kolmogorov and Smirnov, with its p where the process is random."""
    if facts["distance"] is None:
        return f"{facts['process']}, insufficient"
    claim = f"D {facts['distance']:.3f}" + ("" if facts["p_value"] is None else f", p {facts['p_value']:.2g}")
    return f"{facts['process']}: {claim}"


def _compile(jobs: Jobs) -> list[Section]:
    coverage = {each["job"]: each["coverage"] for each in _records(jobs, "coverage")}
    rows = []
    for record in _records(jobs, "compile"):
        found = coverage.get(record["job"], {})
        fell_back = ", ".join(f"{name} ×{count}" for name, count in list(found.get("fallback_operators", {}).items())[:12])
        size = record["artefact_bytes"]
        rows.append(
            (
                record["job"],
                record["weights"],
                record["compile_s"],
                None if size is None else size / MIB,
                found.get("graph_share"),
                found.get("flops_share"),
                None if found.get("flops") is None else found["flops"] / 1e9,
                ", ".join(found.get("details", {}).get("operators_without_flops_formula", {})) or None,
                found.get("partitions"),
                fell_back or found.get("reason") or "none",
                record["precision_tool"],
                found.get("details", {}).get("int8_share_of_products"),
                record["calibration"],
                ", ".join(f"{key}={value}" for key, value in record["options"].items()),
                "; ".join((*record["optimisations"], *record["notes"])) or None,
            )
        )
    columns = (
        "job",
        "weights",
        "compile s",
        "artefact MiB",
        "graph share",
        "FLOPs share",
        "GFLOPs a call",
        "FLOPs not counted of",
        "parts",
        "fell back",
        "precision by",
        "products in int8",
        "calibration",
        "options",
        "optimisations, notes",
    )
    methods = sorted({each["method"] for each in coverage.values()})
    return [Table(title="Compile report", columns=columns, rows=rows, note="Coverage is measured: " + "; ".join(methods))] if rows else []


def _sparsity(jobs: Jobs) -> list[Section]:
    from general_perf.measure.sparsity import patterns_in_words

    rows = []
    for record in _records(jobs, "sparsity"):
        sides = [record["compiled"], record["source"]]
        facts = [fact for side in sides for fact in ((None, None) if side is None else (side["zero_share"], patterns_in_words(side)))]
        how = "measured" if record["compiled"] is not None else "reported by the backend"
        rows.append((record["job"], record["sparsity"], how, (record["compiled"] or record["source"])["values"], *facts))
    columns = ("job", "sparsity", "known by", "weights", "zeros, compiled", "patterns", "zeros, source", "patterns")
    note = "Of the weights with two axes or more. A pattern n:m: no m neighbours along an axis keep more than n."
    return [Table(title="Sparsity of the weights", columns=columns, rows=rows, note=note)] if rows else []


def _numerics(jobs: Jobs) -> list[Section]:
    rows: list[Any] = []
    plots: list[Section] = []
    for record in _records(jobs, "numerics"):
        for name, each in record["outputs"].items():
            wrong = each["nonfinite"]
            kl = each["kl"] or {}
            difference, relative = each["abs"] or {}, each["rel"] or {}
            rows.append(
                (
                    record["job"],
                    name,
                    "pass" if record["passed"] else "FAIL",
                    *(difference.get(key) for key in ("max", "mean", "std")),
                    *(relative.get(key) for key in ("max", "mean", "std")),
                    each["cosine"],
                    kl.get("mean"),
                    wrong["ours_nan"],
                    wrong["ours_inf"],
                    record["reference"],
                )
            )
            if each["histogram"] and len(plots) < MAX_HISTOGRAMS:
                plots.append(_histogram(record["job"], name, each))
    columns = (
        "job",
        "output",
        "verdict",
        "max abs",
        "mean abs",
        "std abs",
        "max rel",
        "mean rel",
        "std rel",
        "cosine",
        "KL mean, nats",
        "NaN",
        "Inf",
        "reference",
    )
    note = "NaN and infinite values are counted, never zeroed; relative differences leave out where the reference is 0."
    return [Table(title="Numerics", columns=columns, rows=rows, note=note), *plots] if rows else []


def _histogram(job: str, output: str, compared: dict[str, Any]) -> Plot:
    held = compared["histogram"]
    middles = [(low + high) / 2 for low, high in zip(held["edges"], held["edges"][1:], strict=False)]
    data = [bars("reference", middles, held["reference"]), bars("backend", middles, held["ours"])]
    zeros = compared["zeros"]
    note = "" if zeros["ours"] is None else f"zeros: backend {zeros['ours']:.2%}, reference {zeros['reference']:.2%}"
    return Plot(title=f"Values of {output}: {job}", data=data, layout={"barmode": "group"}, note=note, alt="Histograms side by side")


def _accuracy(jobs: Jobs) -> list[Section]:
    rows = [
        (
            record["job"],
            record["dataset"],
            record["samples"],
            metric,
            value,
            record["reference_metrics"].get(metric),
            record["decisions_changed"],
            _mean_us(record["preprocess_ns"]),
            _mean_us(record["postprocess_ns"]),
        )
        for record in _records(jobs, "accuracy")
        for metric, value in record["metrics"].items()
    ]
    columns = (
        "job",
        "dataset",
        "samples",
        "metric",
        "backend",
        "reference",
        "decisions changed",
        "pre-processing µs",
        "post-processing µs",
    )
    return (
        [Table(title="Accuracy on real data", columns=columns, rows=rows, note="The reference is the model in fp32 on the CPU.")]
        if rows
        else []
    )


def _mean_us(values_ns: list[int]) -> float | None:
    return sum(values_ns) / len(values_ns) / 1e3 if values_ns else None


def _usability(summary: dict[str, Any], jobs: Jobs) -> list[Section]:
    rows: dict[str, Any] = {}
    for name, records in jobs.items():
        for record in records:
            facts = record.get("usability") if record["stage"] == "job" else None
            backend = name.split("/")[1]
            if facts and "packages" in facts and backend not in rows:
                mine = [row for row in summary["rows"] if row["backend"] == backend]
                share = sum(row["compiled"] for row in mine) / len(mine)
                waits = sorted(row["first_answer_s"] for row in mine if row["first_answer_s"] is not None)
                middle = waits[len(waits) // 2] if waits else None
                rows[backend] = (backend, facts["install_bytes"] / MIB, facts["packages"], facts["adapter_lines"], middle, share)
    columns = ("backend", "installed MiB", "packages", "adapter, lines of code", "median time to first answer, s", "compiled at first try")
    return (
        [Table(title="Usability", columns=columns, rows=list(rows.values()), note="Installed size of the runtime with all it requires.")]
        if rows
        else []
    )


def _method(run: dict[str, Any]) -> Text:
    flags = run["config"]["flags"]
    jobs = run["config"].get("plan") or [flags]
    ran = {f"{each['iterations']} calls an instance" if each["iterations"] else f"{each['seconds']:g} s" for each in jobs}
    body = f"Each point ran {' or '.join(sorted(ran))}."
    return Text(
        title="Measurement method",
        body=f"{body} One benchmark loop for every backend; inputs are seeded and realistic, seed {flags['seed']}.",
    )
