"""Records of studies, one for each run or prediction; summaries, figures and sections from these alone. Times are nanoseconds."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from bytemlperf.report.blocks import axes, bounded_cell, bounded_line, dots, line
from bytemlperf.report.text import counted
from bytemlperf.runs.kinds import Figure, Plot, Section, Table
from bytemlperf.runs.records import grouped
from bytemlperf.runs.verdicts import SOUND, VerdictName, worst
from bytemlperf.statistics.statistics import ratio
from bytemlperf.units import NS_PER_MS, NS_PER_S
from training.results.checks import SMOOTHED_STEPS, largest_relative_error


class PointRecord(msgspec.Struct, frozen=True, kw_only=True, tag="point", tag_field="record"):
    """A run of a scaling study. `step_ns` are the measured steps on the slowest rank; `parts_ns` means over
    steps and ranks; `alone` its collectives by themselves: (op, bytes, bus_bytes, median ns)."""

    ranks: int
    run: str
    verdict: str
    samples: int
    tokens: int
    step_ns: list[int]
    parts_ns: dict[str, float]
    hidden_share: float | None
    traffic: list[tuple[str, int, int]]
    alone: list[tuple[str, int, int, float]]
    reasons: list[str] = []


class PredictionRecord(msgspec.Struct, frozen=True, kw_only=True, tag="prediction", tag_field="record"):
    """A predicted step: its parts, and what was measured where the study has such a run."""

    ranks: int
    samples: int
    tokens: int
    step_ns: float
    compute_ns: float
    fixed_ns: float
    communication_ns: float
    contention: float
    measured_ns: float | None
    error: float | None


class CurveRecord(msgspec.Struct, frozen=True, kw_only=True, tag="curve", tag_field="record"):
    """A run of a precision study."""

    precision: str
    run: str
    verdict: str
    losses: list[float]
    step_ns: list[int]
    reasons: list[str] = []


StudyRecord = PointRecord | PredictionRecord | CurveRecord


BUSY_SHARE = 0.5
SUPERLINEAR = 1.05
"""An efficiency above 105 % with all of its interval is named."""


def summarise_study(run: dict[str, Any], records: Iterable[StudyRecord]) -> dict[str, Any]:
    """Verdict, reasons, and the study's points."""
    config = run["config"]
    kept = list(records)
    kind = config["study"]
    rows = {"scale": _scale, "predict": _predictions, "drift": _drift}[kind](kept)
    planned = len(config["precisions" if kind == "drift" else "ranks"]) * config.get("repeats", 1)
    runs = [record for record in kept if not isinstance(record, PredictionRecord)]
    sound = len(kept) - sum(record.verdict not in SOUND for record in runs)
    reasons: dict[VerdictName, list[str]] = {"partial" if sound else "invalid": _lost(runs, sound, planned)}
    for verdict in ("thin", "noisy"):
        reasons[verdict] = [f"{record.run}: {reason}" for record in runs if record.verdict == verdict for reason in record.reasons[:1]]
    reasons["noisy"] += _busy(config, run.get("beside", {}).get("load_before"))
    return {
        "verdict": worst(reasons),
        "reasons": [reason for held in reasons.values() for reason in held],
        "warnings": _warnings(config, rows),
        "metrics": {},
        "counts": {"ok": sound, "failed": len(kept) - sound},
        "study": kind,
        "rows": rows,
    }


def _lost(runs: list[PointRecord | CurveRecord], sound: int, planned: int) -> list[str]:
    """Why figures of planned runs are missing."""
    lost = [f"{record.run}: {reason}" for record in runs if record.verdict not in SOUND for reason in record.reasons[:1]]
    return [f"{sound} of {counted(planned, 'run')} have figures", *lost] if sound < planned else []


def _busy(config: dict[str, Any], load: float | None) -> list[str]:
    """Ranks that had to share the cores with other programs: the more ranks, the more they lose, and no model knows it."""
    cores = config.get("cores")
    if not cores or load is None or load <= BUSY_SHARE * cores:
        return []
    busy = f"the machine was busy before the study (load average {load:g} on {counted(cores, 'core')})"
    return [f"{busy}: scaling looks worse than it is"]


def _warnings(config: dict[str, Any], rows: list[dict[str, Any]]) -> list[str]:
    """More ranks than cores, and more than ranks can give."""
    cores, threads, scales = config.get("cores"), config.get("threads", 1), config["study"] == "scale"
    sentences = []
    if scales and cores and (crowded := [str(ranks) for ranks in config["ranks"] if ranks * threads > cores]):
        share = f"ranks of {counted(threads, 'thread')} share {counted(cores, 'core')}"
        sentences.append(f"{', '.join(crowded)} {share}: they can't scale")
    superlinear = [row["ranks"] for row in rows if scales and (row["efficiency"]["low"] or 0.0) > SUPERLINEAR]
    why = "other work slowed the smaller runs, or caches help"
    return sentences + [f"{ranks} ranks scale better than linearly: {why}" for ranks in superlinear]


def _scale(records: list[Any]) -> list[dict[str, Any]]:
    points = pooled([record for record in records if isinstance(record, PointRecord) and record.step_ns])
    if not points:
        return []
    base = points[0]
    return [_scale_row(point, base) for point in points]


def pooled(points: list[PointRecord]) -> list[PointRecord]:
    """One point for each number of ranks, in order: the steps of all its runs, the means of their parts; the rest is the first run's."""
    return [_joined(group) for _, group in sorted(grouped(points, lambda point: point.ranks).items())]


def _joined(group: list[PointRecord]) -> PointRecord:
    parts = {name: statistics.fmean(point.parts_ns[name] for point in group) for name in group[0].parts_ns}
    return msgspec.structs.replace(group[0], step_ns=[ns for point in group for ns in point.step_ns], parts_ns=parts)


def _scale_row(point: PointRecord, base: PointRecord) -> dict[str, Any]:
    """Speed-up is throughput over the smallest run's; efficiency is that over the ranks' ratio."""
    mean = statistics.fmean(point.step_ns)
    work = point.samples / base.samples
    value, low, high = (1.0, 1.0, 1.0) if point is base else ratio(base.step_ns, point.step_ns)
    ranks = point.ranks / base.ranks
    speed = {"value": value * work, "low": None if low is None else low * work, "high": None if high is None else high * work}
    return {
        "ranks": point.ranks,
        "samples": point.samples,
        "step_ns": mean,
        "count": len(point.step_ns),
        "samples_per_second": point.samples * NS_PER_S / mean,
        "tokens_per_second": point.tokens * NS_PER_S / mean,
        "speed_up": speed,
        "efficiency": {name: None if bound is None else bound / ranks for name, bound in speed.items()},
    }


def _predictions(records: list[Any]) -> list[dict[str, Any]]:
    predictions = sorted((record for record in records if isinstance(record, PredictionRecord)), key=lambda prediction: prediction.ranks)
    return [
        {**msgspec.to_builtins(prediction), "tokens_per_second": prediction.tokens * NS_PER_S / prediction.step_ns}
        for prediction in predictions
    ]


def _drift(records: list[Any]) -> list[dict[str, Any]]:
    curves = [record for record in records if isinstance(record, CurveRecord) and record.losses]
    if not curves:
        return []
    base = curves[0]
    rows = []
    for curve in curves:
        last, baseline = (statistics.fmean(run.losses[-SMOOTHED_STEPS:]) for run in (curve, base))
        faster = (1.0, None, None) if curve is base else ratio(base.step_ns, curve.step_ns)
        rows.append(
            {
                "precision": curve.precision,
                "steps": len(curve.losses),
                "last_loss": last,
                "largest_drift": largest_relative_error(curve.losses, base.losses),
                "last_drift": last / baseline - 1,
                "speed_up": {"value": faster[0], "low": faster[1], "high": faster[2]},
            }
        )
    return rows


PERCENT = 100.0
TITLES = {"scale": "Scaling", "predict": "Prediction from measured parts", "drift": "Precisions"}


def study_figures(run: dict[str, Any], summary: dict[str, Any]) -> list[Figure]:
    """What a comparison can use: of scaling studies speed-up, efficiency and throughput; of precisions the drift."""
    config = run["config"]
    name = config["workload"]["name"]
    numbers: list[Figure] = []
    for row in summary["rows"]:
        if summary["study"] == "scale":
            key = f"{name} {config['mode']} scaling, {row['ranks']} ranks"
            numbers += [
                _bounded(key, "speed_up", "x", row["speed_up"], row["count"]),
                _bounded(key, "efficiency", "%", row["efficiency"], row["count"], PERCENT),
            ]
            rate = row["tokens_per_second"] or row["samples_per_second"]
            numbers.append(Figure(key=key, metric="tokens_per_second", unit="tokens/s", value=rate, better="higher", count=row["count"]))
        elif summary["study"] == "drift":
            key = f"{name} {row['precision']} against {config['precisions'][0]}"
            numbers.append(
                Figure(key=key, metric="largest_drift", unit="%", value=row["largest_drift"] * PERCENT, better="lower", count=row["steps"])
            )
            numbers.append(_bounded(key, "speed_up", "x", row["speed_up"], row["steps"]))
    return numbers


def _bounded(key: str, metric: str, unit: str, bounds: dict[str, Any], count: int, scale: float = 1.0) -> Figure:
    return Figure(
        key=key,
        metric=metric,
        unit=unit,
        value=bounds["value"] * scale,
        better="higher",
        low=None if bounds["low"] is None else bounds["low"] * scale,
        high=None if bounds["high"] is None else bounds["high"] * scale,
        count=count,
        headline=metric == "speed_up",
    )


def study_sections(summary: dict[str, Any]) -> list[Section]:
    """A table, and a plot of what was scaled or predicted."""
    draw = {"scale": _scale_plot, "predict": _prediction_plot}.get(summary["study"])
    plot = draw(summary["rows"]) if draw and summary["rows"] else None
    return [study_table(summary)] if plot is None else [plot, study_table(summary)]


def study_table(summary: dict[str, Any]) -> Table:
    """A row a run or prediction."""
    columns, cells_of = TABLES[summary["study"]]
    return Table(title=TITLES[summary["study"]], columns=columns, rows=[cells_of(row) for row in summary["rows"]])


def _scale_cells(row: dict[str, Any]) -> list[str | float | None]:
    rate = row["tokens_per_second"] or row["samples_per_second"]
    speed, efficiency = _bounds(row["speed_up"]), _bounds(row["efficiency"], PERCENT)
    return [row["ranks"], row["samples"], row["step_ns"] / NS_PER_MS, row["count"], rate, speed, efficiency]


def _prediction_cells(row: dict[str, Any]) -> list[str | float | None]:
    names = ("step_ns", "compute_ns", "fixed_ns", "communication_ns")
    measured = None if row["measured_ns"] is None else row["measured_ns"] / NS_PER_MS
    error = None if row["error"] is None else f"{row['error']:+.1%}"
    parts = [row[name] / NS_PER_MS for name in names]
    return [row["ranks"], *parts, f"{row['contention']:.2f}", row["tokens_per_second"], measured, error]


def _drift_cells(row: dict[str, Any]) -> list[str | float | None]:
    drifts = [f"{row['largest_drift']:.3%}", f"{row['last_drift']:+.3%}"]
    return [row["precision"], row["steps"], f"{row['last_loss']:.4f}", *drifts, _bounds(row["speed_up"])]


def _bounds(bounds: dict[str, Any], percent: float = 1.0) -> str:
    """A value with its 95 % interval below."""
    between = None if bounds["low"] is None else (bounds["low"], bounds["high"])
    return bounded_cell(bounds["value"], between, 1 / percent)


TABLES: dict[str, tuple[list[str], Callable[[dict[str, Any]], list[str | float | None]]]] = {
    "scale": (["ranks", "batch", "step, ms", "steps", "tokens/s", "speed-up", "efficiency, %"], _scale_cells),
    "predict": (["ranks", "step, ms", "compute", "fixed", "communication", "crowd", "tokens/s", "measured", "error"], _prediction_cells),
    "drift": (["precision", "steps", "last loss", "largest drift", "last drift", "speed-up"], _drift_cells),
}
"""Of each study: columns, and a row's cells. An interval stands below its figure."""


def _scale_plot(rows: list[dict[str, Any]]) -> Plot:
    ranks = [row["ranks"] for row in rows]
    speeds = [row["speed_up"] for row in rows]
    bounds = [None if speed["low"] is None else (speed["low"], speed["high"]) for speed in speeds]
    measured = bounded_line("measured", ranks, [speed["value"] for speed in speeds], bounds)
    ideal = line("ideal", ranks, [count / ranks[0] for count in ranks], dash="dot")
    alt = "Speed-up over the number of ranks, with 95 % intervals"
    return Plot(title="Speed-up", data=[measured, ideal], layout=axes("ranks", "speed-up"), alt=alt)


def _prediction_plot(rows: list[dict[str, Any]]) -> Plot:
    measured = [row for row in rows if row["measured_ns"] is not None]
    predicted = line("predicted", [row["ranks"] for row in rows], [row["step_ns"] / NS_PER_MS for row in rows])
    marks = dots("measured", [row["ranks"] for row in measured], [row["measured_ns"] / NS_PER_MS for row in measured])
    layout = axes("ranks", "step, ms")
    layout["xaxis"]["type"] = "log"
    alt = "Step time over the number of ranks, predicted and measured"
    return Plot(title="Predicted step time", data=[predicted | {"mode": "lines+markers"}, marks], layout=layout, alt=alt)
