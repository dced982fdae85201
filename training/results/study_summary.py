"""Summaries of studies, from their records alone."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from typing import Any

from bytemlperf.statistics.statistics import ratio
from bytemlperf.units import NS_PER_S
from training.results.convergence import SMOOTHED_STEPS, largest_relative_error
from training.results.study_records import CurveRecord, PointRecord, PredictionRecord, StudyRecord

BUSY_SHARE = 0.5
SUPERLINEAR = 1.05
"""An efficiency above 105 % with all of its interval is named."""


def summarise_study(run: dict[str, Any], records: Iterable[StudyRecord]) -> dict[str, Any]:
    """Verdict, reasons, and the study's points."""
    config = run["config"]
    found = list(records)
    kind = config["study"]
    rows = {"scale": _scale, "predict": _predictions, "drift": _drift}[kind](found)
    wanted = len(config["precisions" if kind == "drift" else "ranks"]) * config.get("repeats", 1)
    there = sum(isinstance(record, PredictionRecord) or record.verdict == "valid" for record in found)
    reasons = [f"{there} of {wanted} runs are there and valid"] if there < wanted else []
    for record in found:
        if not isinstance(record, PredictionRecord) and record.verdict == "invalid":
            reasons += [f"{record.run}: {reason}" for reason in record.reasons[:1]]
    return {
        "verdict": "invalid" if reasons else "valid",
        "reasons": reasons,
        "warnings": _warnings(config) + _busy(config, run.get("beside", {}).get("load_before")) + _superlinear(kind, rows),
        "metrics": {},
        "counts": {"ok": there, "failed": len(found) - there},
        "study": kind,
        "rows": rows,
    }


def _warnings(config: dict[str, Any]) -> list[str]:
    cores, threads = config.get("cores"), config.get("threads", 1)
    crowded = [ranks for ranks in config.get("ranks", []) if cores and ranks * threads > cores]
    if config["study"] != "scale" or not crowded:
        return []
    return [f"{', '.join(map(str, crowded))} ranks of {threads} thread{'' if threads == 1 else 's'} share {cores} cores: they can't scale"]


def _busy(config: dict[str, Any], load: float | None) -> list[str]:
    """Ranks that had to share their cores with other programs: the more ranks, the more they lose, and no model knows it."""
    cores = config.get("cores")
    if not cores or load is None or load <= BUSY_SHARE * cores:
        return []
    return [f"the machine was busy before the study (load average {load:g} on {cores} cores): scaling looks worse than it is"]


def _superlinear(kind: str, rows: list[dict[str, Any]]) -> list[str]:
    """More than ranks can give: caches, or a machine that was not the same all the time."""
    places = [row["ranks"] for row in rows if kind == "scale" and (row["efficiency"]["low"] or 0.0) > SUPERLINEAR]
    return [f"{ranks} ranks scale better than linearly: other work slowed the smaller runs, or caches help" for ranks in places]


def _scale(found: list[Any]) -> list[dict[str, Any]]:
    points = pooled([record for record in found if isinstance(record, PointRecord) and record.step_ns])
    if not points:
        return []
    base = points[0]
    return [_scale_row(point, base) for point in points]


def pooled(points: list[PointRecord]) -> list[PointRecord]:
    """One point for each number of ranks, in order: the steps of all its runs, the means of their parts; the rest is the first run's."""
    groups: dict[int, list[PointRecord]] = {}
    for point in points:
        groups.setdefault(point.ranks, []).append(point)
    return [_joined(group) for _, group in sorted(groups.items())]


def _joined(group: list[PointRecord]) -> PointRecord:
    import msgspec

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
        "efficiency": {name: None if each is None else each / ranks for name, each in speed.items()},
    }


def _predictions(found: list[Any]) -> list[dict[str, Any]]:
    import msgspec

    made = sorted((record for record in found if isinstance(record, PredictionRecord)), key=lambda each: each.ranks)
    return [{**msgspec.to_builtins(each), "tokens_per_second": each.tokens * NS_PER_S / each.step_ns} for each in made]


def _drift(found: list[Any]) -> list[dict[str, Any]]:
    curves = [record for record in found if isinstance(record, CurveRecord) and record.losses]
    if not curves:
        return []
    base = curves[0]
    rows = []
    for curve in curves:
        last, wanted = (statistics.fmean(each.losses[-SMOOTHED_STEPS:]) for each in (curve, base))
        faster = (1.0, None, None) if curve is base else ratio(base.step_ns, curve.step_ns)
        rows.append(
            {
                "precision": curve.precision,
                "steps": len(curve.losses),
                "last_loss": last,
                "largest_drift": largest_relative_error(curve.losses, base.losses),
                "last_drift": last / wanted - 1,
                "speed_up": {"value": faster[0], "low": faster[1], "high": faster[2]},
            }
        )
    return rows
