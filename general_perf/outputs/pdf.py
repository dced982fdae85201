"""One page of PDF for each model and backend (and precision), under `pdf/` in the run folder.

The page holds what decides: result, compile report, speed with intervals, what open loops offered, numerics with both
histograms, accuracy, usability. Where a page is too full it is drawn smaller, and then with fewer points, which it says.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bytemlperf.errors import UserError
from bytemlperf.runs.records import suite_records
from general_perf.outputs.paper import Layout, Paper

FOLDER = "pdf"
MIB = 1 << 20
MOST_OUTPUTS = 2
LAYOUTS = (
    Layout(scale=1.0, points=10, bars_mm=16, characters=450),
    Layout(scale=0.93, points=10, bars_mm=14, characters=450),
    Layout(scale=0.85, points=10, bars_mm=12, characters=450),
    Layout(scale=0.75, points=10, bars_mm=8, characters=450),
    Layout(scale=0.7, points=6, bars_mm=6, characters=300),
    Layout(scale=0.65, points=4, bars_mm=5, characters=200),
)
"""The first at which all of a page fits is taken."""
SPEED_MM = (40, 15, 29, 29, 29, 11, 15, 14)
OPEN_MM = (40, 16, 16, 12, 14, 36, 16, 16, 16)


def write_pdfs(folder: Path, run: dict[str, Any], summary: dict[str, Any]) -> list[Path]:
    """Write a page for each job; their paths. Raises UserError without fpdf2."""
    from general_perf.results.points import last_attempts

    try:
        import fpdf  # noqa: F401
    except ImportError:
        raise UserError("a PDF needs fpdf2, which is not installed", "pip install 'bytemlperf-llm[general]'") from None
    jobs = last_attempts(suite_records(folder))
    target = folder / FOLDER
    target.mkdir(exist_ok=True)
    written = []
    for row in summary["rows"]:
        path = target / f"{row['job'].replace('/', '-')}.pdf"
        _page(run, row, jobs.get(row["job"], [])).output(str(path))
        written.append(path)
    return written


def _page(run: dict[str, Any], row: dict[str, Any], records: list[dict[str, Any]]) -> Any:
    for layout in LAYOUTS:
        paper = Paper(layout)
        _draw(paper, run, row, records)
        if paper.fits():
            break
    return paper.pdf


def _draw(paper: Paper, run: dict[str, Any], row: dict[str, Any], records: list[dict[str, Any]]) -> None:
    stages: dict[str, dict[str, Any]] = {}
    for record in records:
        if record["status"] == "ok":
            stages.setdefault(record["stage"], record)
    paper.head(f"{row['model']} on {row['backend']}, {row['precision']}")
    paper.grey(f"{run['environment']['hardware']['cpu']['model']} | {run['started_at'][:19]}Z | run {run['label']}")
    paper.section("Result", _result(row))
    paper.section("Compile", [*_compile(row, stages), *_int8(row)])
    _speed(paper, records)
    _numerics(paper, stages.get("numerics"))
    paper.section("Accuracy on real data", _accuracy(stages.get("accuracy")))
    paper.section("Usability", _usability(row, records))


def _result(row: dict[str, Any]) -> list[tuple[str, str]]:
    lines = [("result", row["status"]), ("weights", row["weights"] or "not loaded")]
    if row["error_class"]:
        lines += [("error class", row["error_class"]), ("reason", row["reason"]), ("fix", row["fix"])]
    return lines


def _compile(row: dict[str, Any], stages: dict[str, dict[str, Any]]) -> list[tuple[str, str]]:
    compiled = stages.get("compile")
    if compiled is None:
        return [("", "not compiled")]
    coverage = stages.get("coverage", {}).get("coverage", {})
    size = compiled["artefact_bytes"]
    fell_back = ", ".join(f"{name} x{count}" for name, count in list(coverage.get("fallback_operators", {}).items())[:8])
    return [
        ("duration, first answer", f"{compiled['compile_s']:.2f} s, {_number(row['first_answer_s'])} s after the process began"),
        ("artefact", "none kept" if size is None else f"{size / MIB:.1f} MiB; {compiled['parameters']:,} parameters"),
        ("precision by", compiled["precision_tool"] + (f"; calibrated on {compiled['calibration']}" if compiled["calibration"] else "")),
        ("sparsity", _sparsity(stages.get("sparsity"))),
        ("options", ", ".join(f"{key}={value}" for key, value in compiled["options"].items()) or "none"),
        ("share taken", _shares(coverage)),
        ("fell back", fell_back or ("none" if coverage.get("graph_share") is not None else "not applicable")),
    ]


def _sparsity(record: dict[str, Any] | None) -> str:
    from general_perf.measure.sparsity import in_words

    if record is None:
        return "not measured"
    if record["compiled"] is None:
        return f"{record['sparsity']}, by the backend's own word; of the source's weights {in_words(record['source'])}"
    return f"{record['sparsity']}; of the compiled weights {in_words(record['compiled'])}"


def _shares(coverage: dict[str, Any]) -> str:
    if coverage.get("graph_share") is None:
        return str(coverage.get("reason") or "not measured")
    flops = coverage.get("flops_share")
    return f"{coverage['graph_share']:.1%} of {coverage['nodes']} operators, {'no' if flops is None else f'{flops:.1%} of the'} FLOPs"


def _int8(row: dict[str, Any]) -> list[tuple[str, str]]:
    """Which part of the products is in int8, where the backend tells it."""
    share = row["int8_share"]
    return [] if share is None else [("products in int8", f"{share:.1%} of those in the graph")]


def _speed(paper: Paper, records: list[dict[str, Any]]) -> None:
    points = [each for each in records if each["stage"] == "performance" and each["status"] == "ok"]
    shown = points[: paper.layout.points]
    paper.title("Speed")
    if not shown:
        paper.line("not measured")
        return
    closed = [("latency, ms", "mean", "p50 (95 %)", "p90 (95 %)", "p99 (95 %)", "calls", "samples/s", "peak MiB")]
    paper.table([*closed, *(_latency(each) for each in shown if each["latency_ns"])], SPEED_MM)
    opened = [cells for each in shown if (cells := _offered(each)) is not None]
    if opened:
        head = ("open loop, ms", "asked/s", "offered/s", "due", "dropped", "arrivals", "late p50", "1 in 100", "service p50")
        paper.table([head, *opened], OPEN_MM)
        paper.grey("open loop: latency runs from when a call was due; late: the client's own delay with an instance free")
    if len(points) > len(shown):
        paper.grey(f"{len(points) - len(shown)} more points are in the run's page and table")


def _latency(record: dict[str, Any]) -> Sequence[str]:
    from general_perf.measure.latency import describe
    from general_perf.results.points import point_of, throughput

    metric = describe(record["latency_ns"])
    claims = [_with_interval(value, metric["ci95"][name]) for name, value in metric["percentiles"].items()]
    peak = record["peak_host_bytes"]
    last = [str(metric["count"]), _number(throughput(record)), "-" if peak is None else f"{peak / MIB:.0f}"]
    return (point_of(record), _ms(metric["mean"]), *claims, *last)


def _offered(record: dict[str, Any]) -> Sequence[str] | None:
    """What an open loop offered, and who was late; None of a closed one."""
    from general_perf.measure.arrived import offered
    from general_perf.measure.latency import describe
    from general_perf.results.points import point_of
    from general_perf.results.table import arrivals_text

    facts = offered(record)
    if facts is None:
        return None
    late = facts["late_ns"] or {"p50": None, "tail": None}
    service = describe(record["service_ns"])["percentiles"]["50"] if record["service_ns"] else None
    rates = (_number(facts["requested_rate"]), _number(facts["offered_rate"]))
    return (
        *(point_of(record), *rates, str(facts["planned"]), str(facts["dropped"]), arrivals_text(facts)),
        *(_ms(each) for each in (late["p50"], late["tail"], service)),
    )


def _with_interval(value: Any, bounds: Any) -> str:
    if value == "insufficient":
        return "insufficient"
    return f"{_ms(value)} ({'no interval' if bounds == 'insufficient' else f'{_ms(bounds[0])} - {_ms(bounds[1])}'})"


def _ms(value_ns: Any) -> str:
    return value_ns if isinstance(value_ns, str) else _number(None if value_ns is None else value_ns / 1e6)


def _numerics(paper: Paper, record: dict[str, Any] | None) -> None:
    paper.title("Numerics")
    if record is None:
        paper.line("not compared")
        return
    word = "pass" if record["passed"] else "FAIL"
    limit = ", ".join(f"{key} {value:g}" for key, value in record["tolerance"].items())
    paper.line(f"{word} ({limit}); reference: {record['reference']}; {record['samples']} samples")
    if record["decisions"]:
        paper.line(f"decisions changed: {record['decisions_changed']} of {record['decisions']}")
    for name, each in list(record["outputs"].items())[:MOST_OUTPUTS]:
        wrong, difference = each["nonfinite"], each["abs"] or {}
        parts = [f"{key} {_small(difference.get(key))}" for key in ("max", "mean", "std")]
        relative = (each["rel"] or {}).get("mean")
        paper.line(
            f"{name}: abs difference {', '.join(parts)}; relative mean {_small(relative)}; cosine {_small(each['cosine'], 8)}; "
            f"NaN {wrong['ours_nan']}, Inf {wrong['ours_inf']}",
        )
        if each["histogram"]:
            paper.histogram(each["histogram"])
    if len(record["outputs"]) > MOST_OUTPUTS:
        paper.grey(f"{len(record['outputs']) - MOST_OUTPUTS} more outputs are in the run's page")


def _accuracy(record: dict[str, Any] | None) -> list[tuple[str, str]]:
    if record is None:
        return [("", "no real data for this model, or not measured")]
    lines = [("data", f"{record['data_source']}; judged on {record['samples']}, {record['data_percent']:.1f} % of what there is")]
    for name, value in record["metrics"].items():
        before = record["reference_metrics"].get(name)
        lines.append((name, f"{value:.4f}" + ("" if before is None else f" (reference {before:.4f})")))
    return lines


def _usability(row: dict[str, Any], records: list[dict[str, Any]]) -> list[tuple[str, str]]:
    facts: dict[str, Any] = next((each["usability"] for each in records if each["stage"] == "job"), {})
    if "packages" not in facts:
        return [("", "not measured")]
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    return [
        ("runtime", f"{versions}: {facts['packages']} packages, {facts['install_bytes'] / MIB:.0f} MiB installed"),
        ("adapter", f"{facts['adapter_lines']} lines of code"),
        ("compiled at first try", "yes" if row["compiled"] else "no"),
    ]


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}" if value >= 1 else f"{value:.3f}"


def _small(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}g}"
