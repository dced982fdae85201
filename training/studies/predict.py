"""`bmp train predict STUDY`: what more ranks would reach, from a scaling study's parts, checked where it measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from bytemlperf.errors import UserError
from bytemlperf.runs.folder import read_run_json
from bytemlperf.runs.records import RunRecords
from bytemlperf.runs.suite import SuiteRun
from training.results.study_records import PointRecord
from training.results.study_summary import pooled
from training.studies.model import Parts, measured_parts, predict
from training.studies.scale import parse_counts


def run_predict(
    study: Path, nproc: str, cores: int | None, bandwidth_gbs: float | None, latency_us: float | None, output_dir: Path, argv: list[str]
) -> tuple[Path, dict[str, Any]]:
    """Predict and keep; the new folder and its summary. Raises UserError."""
    counts = parse_counts(nproc)
    run = read_run_json(study)
    config = run["config"]
    if run.get("kind") != "training" or config.get("study") != "scale":
        raise UserError(f"{study} is not a scaling study", "make one with: bmp train scale WORKLOAD --nproc 1,2")
    points = pooled([record for record in RunRecords[PointRecord](study, PointRecord) if record.step_ns])
    if not points:
        raise UserError(f"{study} has no run that was measured", "run bmp train scale again")
    parts = measured_parts(points, config["cores"], config["threads"])
    if bandwidth_gbs is not None:
        parts = msgspec.structs.replace(parts, bandwidth=bandwidth_gbs * 1e9)
    if latency_us is not None:
        parts = msgspec.structs.replace(parts, latency_ns=latency_us * 1e3)
    if cores is not None:
        parts = msgspec.structs.replace(parts, cores=cores or None)
    kept = {**config, "study": "predict", "repeats": 1, "ranks": counts, "parts": msgspec.to_builtins(parts), "from_run": study.name}
    label = f"predict-{config['workload']['name']}"
    more = {"trainer": config["trainer"], "beside": run.get("beside", {})}
    with SuiteRun.begin(output_dir, "training", label, kept, command=argv, seed=run["seed"], more=more) as made:
        for ranks in counts:
            samples, tokens = _work(points, config["mode"], ranks)
            measured = next((point for point in points if point.ranks == ranks), None)
            made.append(predict(_as_measured(parts, config, measured, cores), ranks, samples, tokens, measured))
        summary = made.end()
    return made.folder, summary


def _as_measured(parts: Parts, config: dict[str, Any], measured: PointRecord | None, cores: int | None) -> Parts:
    """A point that was measured is compared on the machine that measured it, whatever --cores says of others."""
    return parts if measured is None or cores is None else msgspec.structs.replace(parts, cores=config["cores"])


def _work(points: list[PointRecord], mode: str, ranks: int) -> tuple[int, int]:
    """Samples and tokens of a step."""
    base = min(points, key=lambda point: point.ranks)
    factor = ranks // base.ranks if mode == "weak" else 1
    return base.samples * factor, base.tokens * factor
