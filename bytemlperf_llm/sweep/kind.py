"""The kind `sweep`: a run whose records are points, each a run folder of its own inside the sweep's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from bytemlperf.errors import UserError
from bytemlperf.report.gather import view_run
from bytemlperf.runs.folder import part
from bytemlperf.runs.kinds import Figure, RunKind, Section, came_to_its_end, resume_command
from bytemlperf.runs.records import RunRecords, once
from bytemlperf.runs.verdicts import SOUND, VerdictName, worst
from bytemlperf_llm.points.flags import requests_text
from bytemlperf_llm.sweep.curve import Curve, curves_of
from bytemlperf_llm.sweep.row import TOKENS, PointRow, latest, run_findings
from bytemlperf_llm.sweep.sections import curve_sections


def rows_of(records: Iterable[PointRow]) -> list[PointRow]:
    """The latest of each point."""
    return once(records, latest)


OF_ITS_RUN = ("samples", "sample_ids", "statistic", "load", "offered")
"""What a point's figures take from its own run, beside what its row keeps."""


class SweepKind(RunKind):
    name = "LLM sweep"
    record = PointRow
    valid_means = "Every point has figures."
    killed_means = "the points without a record were not measured"
    of_runs = True

    def summarise(self, run: dict[str, Any], records: Iterable[PointRow]) -> dict[str, Any]:  # noqa: ARG002
        rows = rows_of(records)
        curves = curves_of(rows)
        verdict, reasons = _judged(rows)
        return {
            "verdict": verdict,
            "reasons": reasons,
            "warnings": [": ".join(filter(None, (curve.name, text))) for curve in curves if (text := curve.limits())],
            "metrics": {},
            "counts": {"points": len(rows), "measured": sum(row.state == "measured" for row in rows)},
            "curves": [_curve(curve) for curve in curves],
        }

    def figures(self, run: dict[str, Any], summary: dict[str, Any], records: Iterable[PointRow]) -> list[Figure]:  # noqa: ARG002
        """Knee and highest throughput of each curve; then every figure of every point, by curve and load."""
        curves, axes = curves_of(rows_of(records)), part(run, "config", "axes")
        loads = f"concurrency {axes['concurrency']}" if axes.get("concurrency") else f"rates {axes.get('rates') or 'auto'}"
        load = ", ".join(filter(None, (loads, requests_text(axes))))
        headlines = (msgspec.structs.replace(figure, load=load) for curve in curves for figure in _headlines(curve))
        scenario = str(part(run, "config", "flags").get("scenario") or "llm")
        figures = (*headlines, *_point_figures(curves, records))
        return [msgspec.structs.replace(figure, key=", ".join(filter(None, (scenario, figure.key)))) for figure in figures]

    def sections(self, run: dict[str, Any], summary: dict[str, Any], records: Iterable[PointRow]) -> list[Section]:  # noqa: ARG002
        return curve_sections(curves_of(rows_of(records)))

    def beside(self, names: Sequence[str], summaries: Sequence[dict[str, Any]]) -> list[Section]:
        curves = []
        for name, summary in zip(names, summaries, strict=True):
            rows = [msgspec.convert(point, PointRow) for curve in summary.get("curves", []) for point in curve["points"]]
            curves += [Curve(name=f"{name} {curve.name}".strip(), rows=curve.rows) for curve in curves_of(rows)]
        return curve_sections(curves)

    def load_sentence(self, run: dict[str, Any]) -> str:
        axes = {name: value for name, value in part(run, "config", "axes").items() if value and name != "resume"}
        texts = [f"{name.replace('_', ' ')} {' '.join(value) if isinstance(value, list) else value}" for name, value in axes.items()]
        return ", ".join(texts) or "rates auto"

    def verify(self, run: dict[str, Any], records: Iterable[PointRow]) -> Iterator[str]:
        yield from super().verify(run, records)
        if isinstance(records, RunRecords):
            yield from run_findings(records.folder, {row.folder: row.figures for row in rows_of(records) if row.folder})

    def next_command(self, run: dict[str, Any], summary: dict[str, Any], folder: Path) -> tuple[str, str] | None:
        """What has no figures, or those of a client at its limit, may be measured again."""
        if summary["verdict"] not in (*SOUND, "overloaded") or not came_to_its_end(run):
            return resume_command(run, folder), "measure again what is not on the curve"
        return None


KIND = SweepKind()


def _judged(rows: list[PointRow]) -> tuple[VerdictName, list[str]]:
    """Verdict and reasons of the whole: whether each point that was asked for is where its load puts it on a curve."""
    lacking = [row for row in rows if row.state != "measured"]
    reasons = [f"{len(lacking)} of {len(rows)} points have no figures: {lacking[0].why}"] if lacking else []
    measured = [row for row in rows if row.state == "measured"]
    verdicts: tuple[VerdictName, ...] = ("invalid", "client-limited", "thin")
    untrue = {verdict: [row for row in measured if row.verdict == verdict] for verdict in verdicts}
    reasons += [
        f"{len(found)} of {len(rows)} points {'is' if len(found) == 1 else 'are'} {verdict}: {found[0].why}"
        for verdict, found in untrue.items()
        if found
    ]
    if not any(row.carried for row in rows):
        overloaded = [row for row in rows if row.on_curve]
        return ("overloaded", [*reasons, f"no load was carried: {overloaded[0].why}"]) if overloaded else ("invalid", reasons)
    if lacking or untrue["invalid"]:
        return "partial", reasons
    return worst(untrue), reasons


def _curve(curve: Curve) -> dict[str, Any]:
    knee = curve.knee()
    return {
        "name": curve.name,
        "knee": None if knee is None else msgspec.to_builtins(knee),
        "highest_carried": msgspec.to_builtins(curve.carried[-1].load) if curve.carried else None,
        "lowest_overloaded": msgspec.to_builtins(curve.overloaded[0].load) if curve.overloaded else None,
        "points": [msgspec.to_builtins(row) for row in curve.rows],
    }


def _headlines(curve: Curve) -> Iterator[Figure]:
    """The highest throughput of a curve that reaches it, and the knee."""
    knee, tokens = curve.knee(), [row.figures[TOKENS] for row in curve.rows if row.on_curve and TOKENS in row.figures]
    if tokens:
        best, short = max(tokens, key=lambda reading: reading.value), bool(curve.limits())
        yield Figure(
            key=curve.name,
            metric="highest output token throughput",
            unit=best.unit,
            value=None if short else best.value,
            low=best.low,
            high=best.high,
            reason="the range ends before it" if short else "",
            better="higher",
            headline=True,
        )
    if knee is not None:
        value, low, high = (load.rate_rps or load.concurrency for load in (knee.load, knee.low, knee.high))
        better = "higher" if curve.open_loop else "neither"
        bounds = {"value": value, "low": low, "high": high}
        yield Figure(key=curve.name, metric="knee", unit=knee.load.unit, better=better, headline=True, **bounds)  # type: ignore[arg-type]


def _point_figures(curves: list[Curve], records: Iterable[PointRow]) -> Iterator[Figure]:
    """With samples where the records come from a folder and the caller takes some."""
    for curve in curves:
        for row in (row for row in curve.rows if row.on_curve):
            key = ", ".join(part for part in (curve.name, str(row.load)) if part)
            sampled = _sampled(row, records)
            for metric, reading in sorted(row.figures.items(), key=lambda item: item[0] != TOKENS):
                figure = Figure(key=key, metric=metric, **msgspec.structs.asdict(reading))
                yield msgspec.structs.replace(figure, **sampled.get(metric, {}))


def _sampled(row: PointRow, records: Iterable[PointRow]) -> dict[str, dict[str, Any]]:
    """By metric what a comparison takes its error from, of the point's own run; nothing where that is gone, or no samples are wanted."""
    if not isinstance(records, RunRecords) or not records.samples:
        return {}
    try:
        figures = view_run(records.folder / row.folder, sections=False).figures
    except UserError:
        return {}
    return {figure.metric: {name: getattr(figure, name) for name in OF_ITS_RUN} for figure in figures}
