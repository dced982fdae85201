"""The stages of a job that measure: each takes the job's reporter and what was loaded, and yields its records."""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from bytemlperf.arrivals.processes import bounded, offsets_ns
from bytemlperf.child import limits
from general_perf.backends.contract import (
    Array,
    Arrays,
    Backend,
    Compiled,
    Coverage,
    LoadOptions,
    Outputs,
    Session,
    ShowsWeights,
    SourceModel,
)
from general_perf.backends.onnx_files import weights_of
from general_perf.backends.tensors import weights_of_module
from general_perf.card import Card
from general_perf.datasets.contract import answer_all
from general_perf.datasets.inputs import input_bytes, make_inputs
from general_perf.datasets.registry import load_dataset
from general_perf.failures import StageError, classify
from general_perf.job.child import Reporter
from general_perf.job.records import (
    NO_REFERENCE,
    AccuracyRecord,
    CoverageRecord,
    Job,
    Message,
    NumericsRecord,
    PerformanceRecord,
    Record,
    SparsityRecord,
)
from general_perf.measure.numerics import compare, decide, plain_of, read_outputs, reference_of, save_outputs, verdict
from general_perf.measure.performance import DIFFERENT_BATCHES, Progress, Timed, closed_loop, open_loop, warm_up
from general_perf.measure.sparsity import measure
from general_perf.zoo.source import build

NUMERICS_SEED = 1_000_003
"""Added to the seed, so that numerics see other inputs than the timed loop and the calibration."""
CALIBRATION_SEED = 2_000_003
ANSWERS = "answers"
NUMERICS_FILE, DATASET_FILE = "numerics.npz", "dataset.npz"


class Loaded(NamedTuple):
    """A backend with a model that it compiled, one session of it, and a batch."""

    maker: Backend
    model: SourceModel
    compiled: Compiled
    session: Session
    example: Arrays


# --- the reference, in a process of its own --------------------------------------------------------


def make_reference(job: Job, out: Callable[[Message | Record], None]) -> None:
    """Outputs of the model in its highest precision over the samples of numerics and accuracy, kept in files."""
    reporter, folder = Reporter(job, out), Path(job.reference)
    out(Message(stage="begin", name="the reference"))
    try:
        model = build(reporter.card, reporter.weights)
        samples = _numeric_batches(reporter)
        predict, kind = reference_of(model, samples[0])
        save_outputs(folder / NUMERICS_FILE, _stacked([predict(sample) for sample in samples]), kind)
        if reporter.card.dataset and "accuracy" in job.stages:
            _dataset_reference(reporter, model, folder)
    except Exception as error:
        traceback.print_exception(error)
        out(Message(stage="reference", reason=classify(error, "reference").reason))


def _dataset_reference(reporter: Reporter, model: SourceModel, folder: Path) -> None:
    try:
        data = load_dataset(reporter.card, reporter.job.accuracy_samples, reporter.job.data_percent)
    except StageError:
        return  # the accuracy stage says so in its own record
    answered = answer_all(plain_of(model), data, reporter.card.fixed_batch or 1)
    save_outputs(folder / DATASET_FILE, {ANSWERS: answered.answers}, "torch eager or plain ONNX Runtime, CPU, float32")


def _numeric_batches(reporter: Reporter) -> list[Outputs]:
    count = max(1, math.ceil(reporter.job.numeric_samples / reporter.batch))
    return [make_inputs(reporter.card, reporter.batch, reporter.job.seed + NUMERICS_SEED, index) for index in range(count)]


def _stacked(answers: list[Outputs]) -> Outputs:
    return {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}


# --- the stages -----------------------------------------------------------------------------------


def numerics(reporter: Reporter, loaded: Loaded) -> Iterator[Record]:
    """Outputs over a few batches against the kept reference."""
    card = reporter.card
    path = Path(reporter.job.reference) / NUMERICS_FILE
    if not path.exists():
        note = path.with_name(NO_REFERENCE)
        why = note.read_text(encoding="utf-8") if note.exists() else "it was not made"
        raise StageError("runtime_error", f"no reference to compare with: {why}", "fix that, or leave numerics out with --stage")
    expected, kind = read_outputs(path)
    batches = _numeric_batches(reporter)
    ours = _stacked([loaded.session.predict(batch) for batch in batches])
    first = card.outputs[0]
    compared = {name: compare(ours[name], expected[name], card.distribution if name == first else "none") for name in card.outputs}
    tolerance = card.tolerance(reporter.job.precision)
    decided, right = (decide(outputs[first], card.decision, card.distribution) for outputs in (ours, expected))
    yield reporter.record(
        NumericsRecord,
        reference=kind,
        samples=len(batches) * reporter.batch,
        passed=verdict(compared, tolerance),
        tolerance=msgspec.to_builtins(tolerance),
        outputs=compared,
        decisions=None if decided is None else int(decided.size),
        decisions_changed=None if decided is None else int((decided != right).sum()),
    )


def accuracy(reporter: Reporter, loaded: Loaded) -> Iterator[Record]:
    """Metrics on the card's dataset, beside those of the reference on the same samples."""
    job = reporter.job
    data = load_dataset(reporter.card, job.accuracy_samples, job.data_percent)
    ours = answer_all(loaded.session.predict, data, reporter.batch)
    path = Path(job.reference) / DATASET_FILE
    theirs = read_outputs(path)[0][ANSWERS] if path.exists() else None
    yield reporter.record(
        AccuracyRecord,
        dataset=data.name,
        data_source=data.source,
        samples=data.count,
        data_percent=100.0 * data.count / data.whole,
        metrics=data.metrics(ours.answers, data.labels),
        reference_metrics={} if theirs is None else data.metrics(theirs, data.labels),
        decisions_changed=None if theirs is None else int((data.decisions(ours.answers) != data.decisions(theirs)).sum()),
        preprocess_ns=ours.preprocess_ns,
        postprocess_ns=ours.postprocess_ns,
    )


def sparsity(reporter: Reporter, loaded: Loaded) -> Iterator[Record]:
    """What is sparse in the weights as compiled, with the source's beside."""
    maker, compiled = loaded.maker, loaded.compiled
    measured = measure(maker.weights(compiled)) if isinstance(maker, ShowsWeights) else None
    yield reporter.record(
        SparsityRecord,
        sparsity=measured.verdict if measured is not None else compiled.sparsity,
        backend_says=compiled.sparsity,
        source=measure(_weights(loaded.model)),
        compiled=measured,
    )


def _weights(model: SourceModel) -> Iterator[Array]:
    """Of a model that no backend has touched."""
    if model.onnx_path is not None:
        return weights_of(model.onnx_path)
    return weights_of_module(model.module)


def performance(reporter: Reporter, loaded: Loaded) -> Iterator[Record]:
    """Every batch size × instances × loop, smallest first: the largest may end the process."""
    for batch in sorted(reporter.job.batch_sizes):
        for instances in reporter.job.instances:
            reporter.at(f"performance at batch {batch}")
            yield from _points(reporter, loaded, batch, instances)


def _points(reporter: Reporter, loaded: Loaded, batch: int, instances: int) -> Iterator[Record]:
    """Closed and open loop of one batch size and number of instances; the open loop's rate follows the closed one."""
    job = reporter.job
    facts: dict[str, Any] = {"batch_size": batch, "instances": instances, "threads": job.threads}
    loop = job.loops[0]
    try:
        _check_room(reporter.card, batch, job.memory_limit_bytes)
        options = LoadOptions(device=job.device, threads=job.threads)
        sessions = [loaded.session, *(loaded.maker.load(loaded.compiled, options) for _ in range(instances - 1))]
        batches = [make_inputs(reporter.card, batch, job.seed, index) for index in range(DIFFERENT_BATCHES)]
        warmup_ns = warm_up(sessions, batches[0])
        reached: float | None = None
        for loop in job.loops:
            limits.reset_peak()
            timed, rate = _timed(job, loop, sessions, batches, reached, reporter.progress)
            if loop == "closed" and timed.window_ns:
                reached = len(timed.latency_ns) / (timed.window_ns / 1e9)
            yield reporter.record(
                PerformanceRecord,
                loop=loop,
                **facts,
                **asdict(timed),
                requested_rate=rate,
                process=job.process if loop == "open" else "",
                burstiness=job.burstiness,
                warmup_ns=warmup_ns,
                peak_host_bytes=limits.peak_bytes(),
                **device_memory(job, loaded.session),
            )
    except Exception as error:
        yield reporter.failure("performance", error, loop=loop, **facts)


def device_memory(job: Job, session: Session) -> dict[str, Any]:
    """Peak bytes on the device with what they are; where there are none, why."""
    held = session.device_memory_bytes()
    if held is not None:
        return {"peak_device_bytes": held, "device_memory": "peak of the device's own memory, as the backend reports it"}
    if job.device == "cpu":
        return {"device_memory": "the device is the CPU: its memory is the host's, whose peak stands beside"}
    return {"device_memory": f"{job.backend} does not report its memory on {job.device}"}


def _timed(
    job: Job, loop: str, sessions: Sequence[Session], batches: Sequence[Arrays], reached: float | None, progress: Progress
) -> tuple[Timed, float | None]:
    if loop == "closed":
        return closed_loop(sessions, batches, job.seconds, job.iterations, progress), None
    rate = job.rate if job.rate is not None else (reached or 0.0) * job.rate_share
    if rate <= 0:
        raise StageError("runtime_error", "the open loop has no rate: the closed loop gave none", "give --request-rate")
    offsets = offsets_ns(job.process, rate=rate, burstiness=job.burstiness, seed=job.seed)
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


def coverage(reporter: Reporter, loaded: Loaded) -> Iterator[Record]:
    """Which part of the graph the backend took."""
    began = time.perf_counter()
    covered = msgspec.convert(msgspec.to_builtins(loaded.maker.coverage(loaded.compiled, loaded.example)), Coverage)  # another's may lie
    yield reporter.record(CoverageRecord, coverage=covered, analysis_s=time.perf_counter() - began)


def calibration(reporter: Reporter) -> tuple[list[Outputs], str]:
    """Batches for quantisation, and in words what they are: real samples that accuracy isn't judged on, else random ones."""
    card, job = reporter.card, reporter.job
    batch, count = card.fixed_batch or 1, job.calibration_samples
    if card.dataset and batch == 1:
        try:
            data = load_dataset(card, job.accuracy_samples, job.data_percent)
            ready = [data.preprocess(sample) for sample in data.calibration[:count]]
            if ready:
                batches = [{name: np.asarray(array)[None] for name, array in sample.items()} for sample in ready]
                return batches, f"{len(ready)} samples of {data.name}"
        except StageError:
            pass  # the accuracy stage says so in its own record
    return [make_inputs(card, batch, job.seed + CALIBRATION_SEED, index) for index in range(count)], f"{count} seeded random samples"
