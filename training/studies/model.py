"""How a step's time depends on the number of data parallel ranks, from measured parts.

    T(n) = K(n) · [ compute · samples_n / samples_1 + fixed + (1 − hidden) · Σ (calls · latency(n) + bus bytes(n) / bandwidth) ]

`compute` (forward and backward) goes with the samples of a rank, `fixed` (optimiser, data, the rest) does not;
both come from the run with the fewest ranks. A call's latency grows with the steps of a ring, 2 (n − 1)
(Thakur, Rabenseifner and Gropp, Optimization of collective communication operations in MPICH, 2005); latency
and bandwidth come from collectives measured alone at two sizes, `hidden` from a traced step of the same
run. K(n) is how many threads want a core, where they are more than the cores; 1 on accelerators.

`bmp train predict STUDY` is what more ranks would reach by it, checked where the study measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from bytemlperf.child.ranks import bus_factor
from bytemlperf.errors import UserError
from bytemlperf.runs.folder import read_run_json
from bytemlperf.runs.records import RunRecords
from bytemlperf.runs.suite import SuiteRun
from bytemlperf.units import NS_PER_S
from training.results.study_summary import PointRecord, PredictionRecord, pooled
from training.studies.study import parse_counts

PHASES_WITH_SAMPLES = ("forward", "backward")


class Parts(msgspec.Struct, frozen=True, kw_only=True):
    """What is measured. Bandwidth in bytes/s of the bus, latency in ns of one step of a ring."""

    base_ranks: int
    base_samples: int
    compute_ns: float
    fixed_ns: float
    traffic: list[tuple[str, int, int]]
    hidden_share: float
    latency_ns: float
    bandwidth: float
    cores: int | None
    threads: int


def measured_parts(points: Sequence[PointRecord], cores: int | None, threads: int) -> Parts:
    """The parts from a scaling study: computing from its smallest run, communication from the next one.
    Raises UserError when there is no run of two ranks or more with collectives measured alone."""
    ordered = sorted(points, key=lambda point: point.ranks)
    base = ordered[0]
    spoken = next((point for point in ordered if point.ranks > 1 and point.alone), None)
    if spoken is None or base.ranks > 1:
        raise UserError("the study can't tell communication from computing", "scale over 1 and 2 ranks first: --nproc 1,2")
    latency, bandwidth = latency_and_bandwidth(spoken)
    mean = sum(base.step_ns) / len(base.step_ns)
    compute = sum(base.parts_ns[name] for name in PHASES_WITH_SAMPLES) / contention(1, threads, cores)
    return Parts(
        base_ranks=base.ranks,
        base_samples=base.samples,
        compute_ns=compute,
        fixed_ns=mean / contention(1, threads, cores) - compute,
        traffic=spoken.traffic,
        hidden_share=spoken.hidden_share or 0.0,
        latency_ns=latency,
        bandwidth=bandwidth,
        cores=cores,
        threads=threads,
    )


def latency_and_bandwidth(point: PointRecord) -> tuple[float, float]:
    """ns of one ring step, and bus bytes/s: the line through the two sizes of the first collective measured alone."""
    op = point.alone[0][0]
    sizes = sorted((bus, ns) for name, _, bus, ns in point.alone if name == op)
    (small, small_ns), (large, large_ns) = sizes[0], sizes[-1]
    slope = (large_ns - small_ns) / (large - small) if large > small and large_ns > small_ns else large_ns / large
    return max(0.0, small_ns - slope * small) / ring_steps(op, point.ranks), NS_PER_S / slope


def ring_steps(op: str, ranks: int) -> int:
    """Messages that follow each other in a ring algorithm."""
    return (2 if op == "all_reduce" else 1) * (ranks - 1)


def contention(ranks: int, threads: int, cores: int | None) -> float:
    """Threads that want a core over the cores there are; at least 1. `cores` None: every rank has a device of its own."""
    return max(1.0, ranks * threads / cores) if cores else 1.0


def predict(parts: Parts, ranks: int, samples: int, tokens: int, measured: PointRecord | None) -> PredictionRecord:
    """The step of `ranks` ranks that share `samples`."""
    share = (samples / ranks) / (parts.base_samples / parts.base_ranks)
    compute = parts.compute_ns * share
    sent = 0.0
    if ranks > 1:
        for op, calls, size in parts.traffic:
            sent += calls * parts.latency_ns * ring_steps(op, ranks) + size * bus_factor(op, ranks) * NS_PER_S / parts.bandwidth
    crowd = contention(ranks, parts.threads, parts.cores)
    exposed = (1 - parts.hidden_share) * sent
    total = crowd * (compute + parts.fixed_ns + exposed)
    truth = sum(measured.step_ns) / len(measured.step_ns) if measured is not None and measured.step_ns else None
    return PredictionRecord(
        ranks=ranks,
        samples=samples,
        tokens=tokens,
        step_ns=total,
        compute_ns=crowd * compute,
        fixed_ns=crowd * parts.fixed_ns,
        communication_ns=crowd * exposed,
        contention=crowd,
        measured_ns=truth,
        error=None if truth is None else total / truth - 1,
    )


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
    with SuiteRun.begin(output_dir, "training", label, kept, command=argv, seed=run["seed"], more=more) as prediction_run:
        for ranks in counts:
            samples, tokens = _work(points, config["mode"], ranks)
            measured = next((point for point in points if point.ranks == ranks), None)
            if measured is not None and cores is not None:  # on the machine that measured it, whatever --cores says of others
                prediction_run.append(predict(msgspec.structs.replace(parts, cores=config["cores"]), ranks, samples, tokens, measured))
            else:
                prediction_run.append(predict(parts, ranks, samples, tokens, measured))
        summary = prediction_run.end()
    return prediction_run.folder, summary


def _work(points: list[PointRecord], mode: str, ranks: int) -> tuple[int, int]:
    """Samples and tokens of a step."""
    base = min(points, key=lambda point: point.ranks)
    factor = ranks // base.ranks if mode == "weak" else 1
    return base.samples * factor, base.tokens * factor
