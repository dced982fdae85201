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
from pathlib import Path
from typing import Any

import msgspec

from bytemlperf.child.inside import die_with_parent, messages
from general_perf.job.job import Job
from general_perf.job.records import CompileRecord, JobRecord, LoadRecord
from general_perf.job.reporter import Reporter


class Worker(Reporter):
    """One job, from its source to its speed."""

    # -- the stages, in order --------------------------------------------------------

    def run(self) -> None:
        """All stages; the job's own record at the end."""
        usability: dict[str, Any] = {}
        try:
            self.at("compile")
            prepared = self._compile()
            if prepared is not None:
                self._measure(*prepared)
            self.at("usability")
            usability = self._usability()
        finally:
            self._ended()
            wall_s = (time.monotonic_ns() - self.began_ns) / 1e9
            self.say(JobRecord(**self.facts, stage="job", wall_s=wall_s, stages_s=self.stages_s, usability=usability))

    def _compile(self) -> tuple[Any, Any, Any, Any] | None:
        """Source, compile, load, first answer; None where one of them failed, which is then said."""
        from bytemlperf.child import limits
        from general_perf.backends.contract import CompileOptions, LoadOptions
        from general_perf.backends.registry import backend
        from general_perf.datasets.inputs import make_inputs
        from general_perf.job import stages
        from general_perf.zoo.source import build

        job, stage = self.job, "compile"
        known: dict[str, Any] = {}
        try:
            self._check_batches()
            maker = backend(job.backend)
            began = time.perf_counter()
            model = build(self.card, Path(job.weights) if job.weights else None)
            self.card = model.card  # a file may have its inputs in another order, and fewer outputs
            known = {"weights": model.weights, "parameters": model.parameters, "parameter_bytes": model.parameter_bytes}
            known["build_s"] = time.perf_counter() - began
            if job.sparsity:
                from general_perf.zoo.sparsify import sparsified

                model, how = sparsified(model, job.sparsity)
                known |= {"sparsified": how, "weights": f"{model.weights}; pruned to {how}"}
            example = make_inputs(self.card, job.batch_sizes[0], job.seed)
            calibration, source = self._calibration()
            options = CompileOptions(
                precision=job.precision,  # type: ignore[arg-type]
                device=job.device,
                work=Path(job.work),
                example=example,
                batch_sizes=job.batch_sizes,
                threads=job.threads,
                calibration=calibration,
                calibration_source=source,
                extra=job.backend_options,
            )
            self._check_precision(maker, model)
            limits.reset_peak()
            began = time.perf_counter()
            compiled = maker.compile(model, options)
            compile_s = time.perf_counter() - began
            self.say(self._compile_record(compiled, compile_s, known))
            self.at(stage := "load")
            began = time.perf_counter()
            session = maker.load(compiled, LoadOptions(device=job.device, threads=job.threads))
            load_s = time.perf_counter() - began
            began = time.perf_counter()
            session.predict(example)
            self.say(
                LoadRecord(
                    **self.facts,
                    stage="load",
                    load_s=load_s,
                    first_call_s=time.perf_counter() - began,
                    first_answer_s=(time.monotonic_ns() - self.began_ns) / 1e9,
                )
            )
        except Exception as error:
            self.failed(stage, error, **(known if stage == "compile" else {}))
            return None
        self.at("sparsity")
        stages.sparsity(self, maker, compiled, model)
        return maker, compiled, session, example

    def _compile_record(self, compiled: Any, compile_s: float, known: dict[str, Any]) -> CompileRecord:
        from bytemlperf.child import limits

        return CompileRecord(
            **self.facts,
            stage="compile",
            **known,
            compile_s=compile_s,
            artefact_bytes=_bytes_of(compiled.artefact),
            peak_host_bytes=limits.peak_bytes(),
            options=dict(compiled.options),
            optimisations=list(compiled.optimisations),
            precision_tool=compiled.precision_tool,
            calibration=compiled.calibration,
            notes=list(compiled.notes),
        )

    def _measure(self, maker: Any, compiled: Any, session: Any, example: Any) -> None:
        from general_perf.job import stages

        wanted = self.job.stages
        if "numerics" in wanted:
            self.at("numerics")
            stages.numerics(self, session)
        if "accuracy" in wanted and self.card.dataset:
            self.at("accuracy")
            stages.accuracy(self, session)
        if "performance" in wanted:
            self.at("performance")
            stages.performance(self, maker, compiled, session)
        if "coverage" in wanted:
            self.at("coverage")
            stages.coverage(self, maker, compiled, example)

    # -- checks ------------------------------------------------------------------------

    def _check_batches(self) -> None:
        from general_perf.datasets.inputs import input_bytes
        from general_perf.failures import StageError

        fixed, sizes = self.card.fixed_batch, self.job.batch_sizes
        if fixed is not None and any(size != fixed for size in sizes):
            raise StageError("shape_mismatch", f"the model takes batches of {fixed} alone, not {max(sizes)}", f"give --batch-size {fixed}")
        if self.job.backend_options.get("dynamic") == "false" and len(sizes) > 1:
            raise StageError("shape_mismatch", "dynamic=false compiles for one batch size", f"give one, such as --batch-size {sizes[0]}")
        smallest = min(sizes)
        needed, limit = input_bytes(self.card, smallest), self.job.memory_limit_bytes
        if needed > limit:
            raise StageError(
                "out_of_memory",
                f"a batch of {smallest} takes {needed / 2**30:.1f} GiB for its inputs alone, the limit is {limit / 2**30:.1f} GiB",
                "give a smaller --batch-size, or raise --memory-limit",
            )

    def _check_precision(self, maker: Any, model: Any) -> None:
        """The backend offers it, and the label is true: a file that is quantised or halved is not measured as fp32."""
        from general_perf.failures import StageError

        info = maker.describe()
        if model.held not in ("fp32", self.job.precision):
            fix = f"take --precision {model.held}" if model.held in info.precisions else "give weights in fp32"
            cause = f"the weights of {self.card.name} are {model.held}: measured as {self.job.precision} they would be another model"
            raise StageError("unsupported_precision", cause, fix)
        if self.job.precision not in info.precisions:
            raise StageError(
                "unsupported_precision", f"{info.name} offers no {self.job.precision}", f"take one of {', '.join(info.precisions)}"
            )

    def _calibration(self) -> tuple[list[Any], str]:
        """Batches of one for int8: of the card's dataset where it has one, else random."""
        if self.job.precision != "int8":
            return [], ""
        from general_perf.job.stages import calibration

        return calibration(self)

    def _usability(self) -> dict[str, Any]:
        from general_perf.usability.installed import measure

        try:
            return measure(self.job.backend)
        except Exception as error:
            return {"not_measured": f"{type(error).__name__}: {error}"}


def _bytes_of(artefact: Path | None) -> int | None:
    """Size of an artefact with what lies beside it under the same stem (weights of a graph)."""
    if artefact is None:
        return None
    if artefact.is_dir():
        return sum(each.stat().st_size for each in artefact.rglob("*") if each.is_file())
    return sum(each.stat().st_size for each in artefact.parent.glob(f"{artefact.stem}.*"))


def main() -> int:
    """Run the job on standard input."""
    die_with_parent()
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # NNCF and the converter would call home
    sys.modules["torchao"] = None  # type: ignore[assignment]  # transformers would import it unasked, in seconds; int8 takes the None away
    out = messages()
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    if sys.argv[1:] == ["reference"]:
        from general_perf.job.stages import make_reference

        make_reference(job, out)
    else:
        Worker(job, out).run()
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # tear-down of several native runtimes in one process is not what is measured
