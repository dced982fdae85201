"""The stages of a job that measure: each takes the job's reporter and a session, and writes its records."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from bytemlperf.child import limits
from general_perf.backends.contract import Array, SourceModel
from general_perf.card import Card
from general_perf.datasets.inputs import input_bytes, make_inputs
from general_perf.failures import StageError, classify
from general_perf.job.job import NO_REFERENCE, Job
from general_perf.job.records import AccuracyRecord, CoverageRecord, NumericsRecord, PerformanceRecord, SparsityRecord
from general_perf.measure import reference
from general_perf.measure.accuracy import answer_all
from general_perf.measure.numerics import compare, decide, verdict
from general_perf.measure.performance import DIFFERENT_BATCHES, closed_loop, open_loop, warm_up

if TYPE_CHECKING:
    from general_perf.job.reporter import Reporter

NUMERICS_SEED = 1_000_003
"""Added to the seed, so that numerics see other inputs than the timed loop and the calibration."""
CALIBRATION_SEED = 2_000_003
ANSWERS = "answers"


# --- the reference, in a process of its own --------------------------------------------------------


def make_reference(job: Job, out: Callable[[Any], None]) -> None:
    """Outputs of the model in its highest precision over the samples of numerics and accuracy, kept in files."""
    from general_perf.zoo.source import build

    card = job.card
    folder = Path(job.reference)
    out({"stage": "begin", "name": "the reference"})
    try:
        model = build(card, Path(job.weights) if job.weights else None)
        samples = _numeric_batches(card, job)
        predict, kind = reference.reference_of(model, samples[0])
        reference.save(folder / "numerics.npz", _stacked([predict(each) for each in samples]), kind)
        if card.dataset and "accuracy" in job.stages:
            _dataset_reference(card, job, model, folder)
    except Exception as error:
        import traceback

        traceback.print_exception(error)
        failure = classify(error, "reference")
        out({"stage": "reference", "error_class": failure.error_class, "reason": failure.reason, "fix": failure.fix})


def _dataset_reference(card: Card, job: Job, model: Any, folder: Path) -> None:
    from general_perf.datasets.registry import load_dataset

    try:
        data = load_dataset(card, job.accuracy_samples, job.data_percent)
    except StageError:
        return  # the accuracy stage says so in its own record
    answered = answer_all(reference.plain_of(model), data, card.fixed_batch or 1)
    reference.save(folder / "dataset.npz", {ANSWERS: answered.answers}, "torch eager or plain ONNX Runtime, CPU, float32")


def _numeric_batches(card: Card, job: Job) -> list[dict[str, Any]]:
    batch = card.fixed_batch or job.batch_sizes[0]
    count = max(1, math.ceil(job.numeric_samples / batch))
    return [make_inputs(card, batch, job.seed + NUMERICS_SEED, index) for index in range(count)]


def _stacked(answers: list[dict[str, Any]]) -> dict[str, Any]:
    import numpy as np

    return {name: np.concatenate([each[name] for each in answers]) for name in answers[0]}


# --- the stages -----------------------------------------------------------------------------------


def numerics(reporter: Reporter, session: Any) -> None:
    """Outputs over a few batches against the kept reference."""
    card, job = reporter.card, reporter.job
    try:
        path = Path(job.reference) / "numerics.npz"
        if not path.exists():
            note = path.with_name(NO_REFERENCE)
            why = note.read_text(encoding="utf-8") if note.exists() else "it was not made"
            raise StageError("runtime_error", f"no reference to compare with: {why}", "fix that, or leave numerics out with --stage")
        expected, kind = reference.read(path)
        batches = _numeric_batches(card, job)
        ours = _stacked([session.predict(each) for each in batches])
        compared = {
            name: compare(ours[name], expected[name], card.distribution if name == card.outputs[0] else "none") for name in card.outputs
        }
        tolerance = card.tolerance(job.precision)
        decided = [decide(each[card.outputs[0]], card.decision, card.distribution) for each in (ours, expected)]
        changed = None if decided[0] is None or decided[1] is None else int((decided[0] != decided[1]).sum())
        reporter.say(
            NumericsRecord(
                **reporter.facts,
                stage="numerics",
                reference=kind,
                samples=len(batches) * (card.fixed_batch or job.batch_sizes[0]),
                passed=verdict(compared, tolerance),
                tolerance=msgspec.to_builtins(tolerance),
                outputs=compared,
                decisions=None if decided[0] is None else int(decided[0].size),
                decisions_changed=changed,
            )
        )
    except Exception as error:
        reporter.failed("numerics", error)


def accuracy(reporter: Reporter, session: Any) -> None:
    """Metrics on the card's dataset, beside those of the reference on the same samples."""
    from general_perf.datasets.registry import load_dataset

    card, job = reporter.card, reporter.job
    try:
        data = load_dataset(card, job.accuracy_samples, job.data_percent)
        ours = answer_all(session.predict, data, card.fixed_batch or job.batch_sizes[0])
        path = Path(job.reference) / "dataset.npz"
        theirs = reference.read(path)[0][ANSWERS] if path.exists() else None
        changed = None if theirs is None else int((data.decisions(ours.answers) != data.decisions(theirs)).sum())
        reporter.say(
            AccuracyRecord(
                **reporter.facts,
                stage="accuracy",
                dataset=data.name,
                data_source=data.source,
                samples=data.count,
                data_percent=100.0 * data.count / data.whole,
                metrics=data.metrics(ours.answers, data.labels),
                reference_metrics={} if theirs is None else data.metrics(theirs, data.labels),
                decisions_changed=changed,
                preprocess_ns=ours.preprocess_ns,
                postprocess_ns=ours.postprocess_ns,
            )
        )
    except Exception as error:
        reporter.failed("accuracy", error)


def sparsity(reporter: Reporter, maker: Any, compiled: Any, model: Any) -> None:
    """What is sparse in the weights as compiled, with the source's beside."""
    from general_perf.backends.contract import ShowsWeights
    from general_perf.measure.sparsity import measure

    try:
        before = measure(_weights(model))
        after = measure(maker.weights(compiled)) if isinstance(maker, ShowsWeights) else None
        reporter.say(
            SparsityRecord(
                **reporter.facts,
                stage="sparsity",
                sparsity=after.verdict if after is not None else compiled.sparsity,
                backend_says=compiled.sparsity,
                source=msgspec.to_builtins(before),
                compiled=None if after is None else msgspec.to_builtins(after),
            )
        )
    except Exception as error:
        reporter.failed("sparsity", error)


def _weights(model: SourceModel) -> Iterator[Array]:
    """Of a model that no backend has touched."""
    if model.onnx_path is not None:
        from general_perf.backends.onnx_files import weights_of

        return weights_of(model.onnx_path)
    from general_perf.backends.tensors import weights_of_module

    return weights_of_module(model.module)


def performance(reporter: Reporter, maker: Any, compiled: Any, session: Any) -> None:
    """Every batch size × instances × loop, smallest first: the largest may end the process."""
    for batch in sorted(reporter.job.batch_sizes):
        for instances in reporter.job.instances:
            reporter.at(f"performance at batch {batch}")
            _points(reporter, maker, compiled, session, batch, instances)


def _points(reporter: Reporter, maker: Any, compiled: Any, session: Any, batch: int, instances: int) -> None:
    """Closed and open loop of one batch size and number of instances; the open loop's rate follows the closed one."""
    from general_perf.backends.contract import LoadOptions

    job = reporter.job
    facts: dict[str, Any] = {"batch_size": batch, "instances": instances, "threads": job.threads}
    loop = job.loops[0]
    try:
        _check_room(reporter.card, batch, job.memory_limit_bytes)
        more = [maker.load(compiled, LoadOptions(device=job.device, threads=job.threads)) for _ in range(instances - 1)]
        sessions = [session, *more]
        batches = [make_inputs(reporter.card, batch, job.seed, index) for index in range(DIFFERENT_BATCHES)]
        warmup_ns = warm_up(sessions, batches[0])
        reached: float | None = None
        for loop in job.loops:
            limits.reset_peak()
            timed, rate = _timed(job, loop, sessions, batches, reached, reporter.progress)
            if loop == "closed" and timed.window_ns:
                reached = len(timed.latency_ns) / (timed.window_ns / 1e9)
            reporter.say(
                PerformanceRecord(
                    **reporter.facts,
                    stage="performance",
                    loop=loop,  # type: ignore[arg-type]
                    **facts,
                    **asdict(timed),
                    requested_rate=rate,
                    process=job.process if loop == "open" else "",
                    burstiness=job.burstiness,
                    warmup_ns=warmup_ns,
                    peak_host_bytes=limits.peak_bytes(),
                    **device_memory(job, session),
                )
            )
    except Exception as error:
        reporter.failed("performance", error, loop=loop, **facts)


def device_memory(job: Job, session: Any) -> dict[str, Any]:
    """Peak bytes on the device with what they are; where there are none, why."""
    held = session.device_memory_bytes()
    if held is not None:
        return {"peak_device_bytes": held, "device_memory": "peak of the device's own memory, as the backend reports it"}
    if job.device == "cpu":
        return {"device_memory": "the device is the CPU: its memory is the host's, whose peak stands beside"}
    return {"device_memory": f"{job.backend} does not report its memory on {job.device}"}


def _timed(job: Job, loop: str, sessions: Any, batches: Any, reached: float | None, progress: Any) -> tuple[Any, float | None]:
    from bytemlperf.arrivals.processes import bounded, offsets_ns

    if loop == "closed":
        return closed_loop(sessions, batches, job.seconds, job.iterations, progress), None
    rate = job.rate if job.rate is not None else (reached or 0.0) * job.rate_share
    if rate <= 0:
        raise StageError("runtime_error", "the open loop has no rate: the closed loop gave none", "give --request-rate")
    offsets = offsets_ns(job.process, rate=rate, burstiness=job.burstiness, seed=job.seed)  # type: ignore[arg-type]
    planned = bounded(offsets, duration_ns=int(job.seconds * 1e9))
    return open_loop(sessions, batches, list(planned), progress), rate


def _check_room(card: Card, batch: int, limit_bytes: int) -> None:
    needed = input_bytes(card, batch) * DIFFERENT_BATCHES
    held = limits.peak_bytes() or 0
    if needed > limit_bytes - held:
        cause = (
            f"{DIFFERENT_BATCHES} batches of {batch}, used in rotation, take {needed / 2**30:.1f} GiB for their inputs alone; "
            f"{held / 2**30:.1f} GiB of the limit of {limit_bytes / 2**30:.1f} GiB are taken"
        )
        raise StageError("out_of_memory", cause, "give a smaller --batch-size, or raise --memory-limit")


def coverage(reporter: Reporter, maker: Any, compiled: Any, example: Any) -> None:
    """Which part of the graph the backend took."""
    try:
        began = time.perf_counter()
        found = maker.coverage(compiled, example)
        reporter.say(
            CoverageRecord(**reporter.facts, stage="coverage", coverage=msgspec.to_builtins(found), analysis_s=time.perf_counter() - began)
        )
    except Exception as error:
        reporter.failed("coverage", error)


def calibration(reporter: Reporter) -> tuple[list[Any], str]:
    """Batches for quantisation, and in words what they are: real samples that accuracy isn't judged on, else random ones."""
    import numpy as np

    from general_perf.datasets.registry import load_dataset

    card, job = reporter.card, reporter.job
    batch, count = card.fixed_batch or 1, job.calibration_samples
    if card.dataset and batch == 1:
        try:
            data = load_dataset(card, job.accuracy_samples, job.data_percent)
            ready = [data.preprocess(sample) for sample in data.calibration[:count]]
            if ready:
                return [
                    {name: np.asarray(array)[None] for name, array in each.items()} for each in ready
                ], f"{len(ready)} samples of {data.name}"
        except StageError:
            pass  # the accuracy stage says so in its own record
    made = [make_inputs(card, batch, job.seed + CALIBRATION_SEED, index) for index in range(count)]
    return made, f"{len(made)} seeded random samples"
