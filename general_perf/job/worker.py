"""The process of one job: build, compile, load, first answer, sparsity, numerics, accuracy, speed, coverage.

Reads a job as JSON from standard input; writes one JSON object a line to the file descriptor that was standard
output, which libraries no longer reach: their prints go to standard error. Each stage fails on its own, at one
boundary, and becomes a record. What kills the process (memory, a crash, a hang) is told by the parent.

    python -m general_perf.job.worker job < job.json
    python -m general_perf.job.worker reference < job.json
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from bytemlperf.child import limits
from bytemlperf.child.inside import die_with_parent, messages
from general_perf.backends.contract import BackendInfo, CompileOptions, LoadOptions, SourceModel
from general_perf.backends.registry import backend
from general_perf.datasets.inputs import input_bytes, make_inputs
from general_perf.failures import StageError
from general_perf.job import stages
from general_perf.job.child import Reporter
from general_perf.job.records import CompileRecord, Job, JobRecord, LoadRecord, Record
from general_perf.job.stages import Loaded
from general_perf.usability.installed import measure
from general_perf.zoo.source import build
from general_perf.zoo.sparsify import sparsified

STAGES: dict[str, Callable[[Reporter, Loaded], Iterator[Record]]] = {
    "sparsity": stages.sparsity,
    "numerics": stages.numerics,
    "accuracy": stages.accuracy,
    "performance": stages.performance,
    "coverage": stages.coverage,
}


def run(reporter: Reporter) -> None:
    """All stages in order; the job's own record at the end."""
    usability: dict[str, Any] = {}
    try:
        reporter.at("compile")
        if (loaded := _loaded(reporter)) is not None:
            _measure(reporter, loaded)
        reporter.at("usability")
        try:
            usability = measure(reporter.job.backend)
        except Exception as error:
            usability = {"not_measured": f"{type(error).__name__}: {error}"}
    finally:
        reporter.ended()
        reporter.say(reporter.record(JobRecord, wall_s=reporter.wall_s(), stages_s=reporter.stages_s, usability=usability))


def _measure(reporter: Reporter, loaded: Loaded) -> None:
    for stage, records in STAGES.items():
        if stage not in (*reporter.job.stages, "sparsity") or (stage == "accuracy" and not reporter.card.dataset):
            continue
        reporter.at(stage)
        try:
            for record in records(reporter, loaded):
                reporter.say(record)
        except Exception as error:
            reporter.say(reporter.failure(stage, error))


def _loaded(reporter: Reporter) -> Loaded | None:
    """Source, compile, load, first answer; None where one of them failed, which is then said."""
    job, stage = reporter.job, "compile"
    known: dict[str, Any] = {}
    try:
        check_batches(reporter)
        maker = backend(job.backend)
        began = time.perf_counter()
        model = build(reporter.card, reporter.weights)
        reporter.card = model.card  # a file may have its inputs in another order, and fewer outputs
        known |= {"weights": model.weights, "parameters": model.parameters, "parameter_bytes": model.parameter_bytes}
        known["build_s"] = time.perf_counter() - began
        if job.sparsity:
            model, how = sparsified(model, job.sparsity)
            known |= {"sparsified": how, "weights": f"{model.weights}; pruned to {how}"}
        example = make_inputs(reporter.card, job.batch_sizes[0], job.seed)
        calibration, source = stages.calibration(reporter) if job.precision == "int8" else ([], "")
        options = CompileOptions(
            precision=job.precision,
            device=job.device,
            work=Path(job.work),
            example=example,
            batch_sizes=job.batch_sizes,
            threads=job.threads,
            calibration=calibration,
            calibration_source=source,
            extra=job.backend_options,
        )
        check_precision(job, model, maker.describe())
        limits.reset_peak()
        began = time.perf_counter()
        compiled = maker.compile(model, options)
        known |= {
            "compile_s": time.perf_counter() - began,
            "artefact_bytes": _bytes_of(compiled.artefact),
            "peak_host_bytes": limits.peak_bytes(),
            "options": {str(key): str(value) for key, value in compiled.options.items()},
            "optimisations": [str(optimisation) for optimisation in compiled.optimisations],
            "precision_tool": str(compiled.precision_tool),
            "calibration": compiled.calibration and str(compiled.calibration),
            "notes": [str(note) for note in compiled.notes],
        }
        reporter.say(reporter.record(CompileRecord, **known))
        stage, known = "load", {}
        reporter.at(stage)
        began = time.perf_counter()
        session = maker.load(compiled, LoadOptions(device=job.device, threads=job.threads))
        load_s = time.perf_counter() - began
        began = time.perf_counter()
        session.predict(example)
        first_call_s = time.perf_counter() - began
        reporter.say(reporter.record(LoadRecord, load_s=load_s, first_call_s=first_call_s, first_answer_s=reporter.wall_s()))
    except Exception as error:
        reporter.say(reporter.failure(stage, error, **known))
        return None
    return Loaded(maker, model, compiled, session, example)


def check_batches(reporter: Reporter) -> None:
    """The model takes the batches, and their inputs fit the limit. Raises StageError."""
    fixed, sizes = reporter.card.fixed_batch, reporter.job.batch_sizes
    if fixed is not None and any(size != fixed for size in sizes):
        raise StageError("shape_mismatch", f"the model takes batches of {fixed} alone, not {max(sizes)}", f"give --batch-size {fixed}")
    if reporter.job.backend_options.get("dynamic") == "false" and len(sizes) > 1:
        raise StageError("shape_mismatch", "dynamic=false compiles for one batch size", f"give one, such as --batch-size {sizes[0]}")
    smallest = min(sizes)
    needed, limit = input_bytes(reporter.card, smallest), reporter.job.memory_limit_bytes
    if needed > limit:
        cause = f"a batch of {smallest} takes {needed / 2**30:.1f} GiB for its inputs alone, the limit is {limit / 2**30:.1f} GiB"
        raise StageError("out_of_memory", cause, "give a smaller --batch-size, or raise --memory-limit")


def check_precision(job: Job, model: SourceModel, info: BackendInfo) -> None:
    """The backend offers it, and the label is true: a file that is quantised or halved is not measured as fp32. Raises StageError."""
    if model.held not in ("fp32", job.precision):
        fix = f"take --precision {model.held}" if model.held in info.precisions else "give weights in fp32"
        cause = f"the weights of {model.card.name} are {model.held}: measured as {job.precision} they would be another model"
        raise StageError("unsupported_precision", cause, fix)
    if job.precision not in info.precisions:
        fix = f"take one of {', '.join(info.precisions)}"
        raise StageError("unsupported_precision", f"{info.name} offers no {job.precision}", fix)


def _bytes_of(artefact: Path | None) -> int | None:
    """Size of an artefact with what lies beside it under the same stem (weights of a graph)."""
    if artefact is None:
        return None
    files = artefact.rglob("*") if artefact.is_dir() else artefact.parent.glob(f"{artefact.stem}.*")
    return sum(file.stat().st_size for file in files if file.is_file())


def main() -> int:
    """Run the job on standard input."""
    die_with_parent()
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # NNCF and the converter would call home
    sys.modules["torchao"] = None  # type: ignore[assignment]  # transformers would import it unasked, in seconds; int8 takes the None away
    out = messages()
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    if sys.argv[1:] == ["reference"]:
        stages.make_reference(job, out)
    else:
        run(Reporter(job, out))
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # tear-down of several native runtimes in one process is not what is measured
