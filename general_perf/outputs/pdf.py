"""One page of PDF for each model and backend (and precision), under `pdf/` in the run folder. Drawn by fpdf2, text only.

The page holds what decides: result, compile report, speed, numerics with both histograms, accuracy, usability. The
built-in fonts know Latin-1; what they don't know becomes `?`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bytemlperf_llm.errors import UserError
from bytemlperf_llm.runs.suite import suite_records

FOLDER = "pdf"
MARGIN_MM, LINE_MM = 14, 4.6
MAX_POINTS = 10
MIB = 1 << 20
GREY, BLUE, ORANGE = (110, 110, 110), (70, 110, 180), (225, 140, 50)


def write_pdfs(folder: Path, run: dict[str, Any], summary: dict[str, Any]) -> list[Path]:
    """Write a page for each job; their paths. Raises UserError without fpdf2."""
    from general_perf.run_kind import last_attempts

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
    from fpdf import FPDF

    pdf = FPDF(format="A4")
    pdf.set_margins(MARGIN_MM, MARGIN_MM)
    pdf.set_auto_page_break(False)
    pdf.add_page()
    stages: dict[str, dict[str, Any]] = {}
    for record in records:
        if record["status"] == "ok":
            stages.setdefault(record["stage"], record)
    pdf.set_font("helvetica", "B", 17)
    _line(pdf, f"{row['model']} on {row['backend']}, {row['precision']}", 8)
    _grey(pdf, f"{run['environment']['hardware']['cpu']['model']} | {run['started_at'][:19]}Z | run {run['label']}")
    _section(pdf, "Result", _result(row))
    _section(pdf, "Compile", _compile(row, stages))
    _speed(pdf, records)
    _numerics(pdf, stages.get("numerics"))
    _section(pdf, "Accuracy on real data", _accuracy(stages.get("accuracy")))
    _section(pdf, "Usability", _usability(row, records))
    return pdf


def _result(row: dict[str, Any]) -> list[tuple[str, str]]:
    lines = [("result", row["status"]), ("weights", row["weights"] or "not loaded")]
    if row["error_class"]:
        lines += [("error class", row["error_class"]), ("reason", row["reason"]), ("mend", row["fix"])]
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
        ("options", ", ".join(f"{key}={value}" for key, value in compiled["options"].items()) or "none"),
        ("share taken", _shares(coverage)),
        ("fell back", fell_back or ("none" if coverage.get("graph_share") is not None else "not applicable")),
    ]


def _shares(coverage: dict[str, Any]) -> str:
    if coverage.get("graph_share") is None:
        return str(coverage.get("reason") or "not measured")
    flops = coverage.get("flops_share")
    return f"{coverage['graph_share']:.1%} of {coverage['nodes']} operators, {'no' if flops is None else f'{flops:.1%} of the'} FLOPs"


def _speed(pdf: Any, records: list[dict[str, Any]]) -> None:
    from general_perf.measure.latency import describe
    from general_perf.run_kind import point_of, throughput

    rows: list[Sequence[str]] = [("point", "mean ms", "p50 ms", "p90 ms", "p99 ms", "calls", "samples/s", "peak MiB")]
    for record in records:
        if record["stage"] == "performance" and record["status"] == "ok" and record["latency_ns"] and len(rows) <= MAX_POINTS:
            metric = describe(record["latency_ns"])
            claims = [value if value == "insufficient" else _number(value / 1e6) for value in metric["percentiles"].values()]
            peak = record["peak_host_bytes"]
            last = [str(metric["count"]), _number(throughput(record)), "-" if peak is None else f"{peak / MIB:.0f}"]
            rows.append((point_of(record), _number(metric["mean"] / 1e6), *claims, *last))
    _title(pdf, "Speed")
    if len(rows) == 1:
        _line(pdf, "not measured")
        return
    widths = (46, 19, 19, 19, 21, 16, 22, 20)
    for place, row in enumerate(rows):
        pdf.set_font("helvetica", "B" if place == 0 else "", 8.5)
        for text, width in zip(row, widths, strict=True):
            pdf.cell(width, LINE_MM, _latin(text))
        pdf.ln(LINE_MM)


def _numerics(pdf: Any, record: dict[str, Any] | None) -> None:
    _title(pdf, "Numerics")
    if record is None:
        _line(pdf, "not compared")
        return
    word = "pass" if record["passed"] else "FAIL"
    limit = ", ".join(f"{key} {value:g}" for key, value in record["tolerance"].items())
    _line(pdf, f"{word} ({limit}); reference: {record['reference']}; {record['samples']} samples")
    if record["decisions"]:
        _line(pdf, f"decisions changed: {record['decisions_changed']} of {record['decisions']}")
    for name, each in list(record["outputs"].items())[:2]:
        wrong, difference = each["nonfinite"], each["abs"] or {}
        parts = [f"{key} {_small(difference.get(key))}" for key in ("max", "mean", "std")]
        relative = (each["rel"] or {}).get("mean")
        _line(
            pdf,
            f"{name}: abs difference {', '.join(parts)}; relative mean {_small(relative)}; cosine {_small(each['cosine'], 8)}; "
            f"NaN {wrong['ours_nan']}, Inf {wrong['ours_inf']}",
        )
        if each["histogram"]:
            _histogram(pdf, each["histogram"])


def _histogram(pdf: Any, held: dict[str, Any]) -> None:
    """Both distributions, bar beside bar, 18 mm high."""
    left, top, width, height = MARGIN_MM, pdf.get_y() + 1, 182.0, 16.0
    bins = len(held["ours"])
    largest = max(*held["ours"], *held["reference"], 1)
    step = width / bins
    for place in range(bins):
        for shift, key, colour in ((0.1, "reference", BLUE), (0.5, "ours", ORANGE)):
            tall = height * held[key][place] / largest
            pdf.set_fill_color(*colour)
            pdf.rect(left + step * (place + shift), top + height - tall, step * 0.4, tall, style="F")
    pdf.set_y(top + height)
    _grey(pdf, f"values from {held['edges'][0]:.4g} to {held['edges'][-1]:.4g}; blue: reference, orange: backend")


def _accuracy(record: dict[str, Any] | None) -> list[tuple[str, str]]:
    if record is None:
        return [("", "no real data for this model, or not measured")]
    lines = [("data", f"{record['data_source']}; judged by {record['samples']}, {record['data_percent']:.1f} % of what there is")]
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


# --- drawing ------------------------------------------------------------------------------------


def _section(pdf: Any, title: str, lines: list[tuple[str, str]]) -> None:
    _title(pdf, title)
    for name, text in lines:
        _line(pdf, f"{name}: {text}" if name else text)


def _title(pdf: Any, text: str) -> None:
    pdf.ln(2.5)
    pdf.set_font("helvetica", "B", 11)
    _line(pdf, text, 6)
    pdf.set_font("helvetica", "", 8.5)


def _line(pdf: Any, text: str, height: float = LINE_MM) -> None:
    pdf.multi_cell(0, height, _latin(text), new_x="LMARGIN", new_y="NEXT")


def _grey(pdf: Any, text: str) -> None:
    pdf.set_font("helvetica", "", 7.5)
    pdf.set_text_color(*GREY)
    _line(pdf, text)
    pdf.set_text_color(0, 0, 0)
    pdf.set_font("helvetica", "", 8.5)


def _latin(text: str) -> str:
    return text.replace("–", "-").replace("×", "x").encode("latin-1", "replace").decode("latin-1")


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}" if value >= 1 else f"{value:.3f}"


def _small(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}g}"
