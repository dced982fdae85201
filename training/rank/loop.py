"""The step loop of a rank: data, train, report; a record a step before the next one begins.

    for step: batches → trainer.step → gather all ranks' stamps → one record → checkpoint?

Reporting is one small collective over its own group after the step's end; it is in `wall_ns` and in no
step time. Traced steps run under the profiler and the communication meter, and don't count.
"""

from __future__ import annotations

import math
import os
import resource
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch

from bytemlperf.child.limits import resident_bytes
from training.plan.traffic import analytic
from training.rank.batches import RankBatches, loader, samples_of
from training.rank.before import begin, end
from training.rank.checkpoint import restore_checkpoint, save_checkpoint
from training.rank.rank import Rank
from training.rank.trace import CommunicationMeter, Traced, traced
from training.rank.watchdog import Watchdog
from training.results.checks import reached
from training.results.records import STOP_FILE, StepRecord, TraceRecord, Why
from training.trainers.contract import StepResult, phases_for


class Numbers(NamedTuple):
    """What ranks tell each other of a step, as floats: times in ns, sizes in bytes. `sync` is -1 where the trainer can't tell it,
    `loss` infinite where the rank sees none."""

    step: float
    data: float
    forward: float
    backward: float
    optimizer: float
    sync: float
    peak: float
    held: float
    loss: float
    grad_norm: float
    stop: float


class Loop:
    """A rank's run from its first step to its end."""

    def __init__(self, rank: Rank, watchdog: Watchdog) -> None:
        self._rank, self._plan, self._watchdog = rank, rank.plan, watchdog
        self._recipe = rank.workload.training
        self._phases = phases_for(rank.plan.device)
        self._losses: list[float] = []

    def run(self, started_ns: int) -> None:
        """Everything, ending in an end record."""
        first = restore_checkpoint(self._rank)
        begin(self._rank, first, started_ns)
        why, following = self._steps(first)
        end(self._rank, why, following)
        self._rank.close()

    def _steps(self, first: int) -> tuple[Why, int]:
        plan, trainer = self._plan, self._rank.trainer
        tokens = plan.tokens
        samples = samples_of(self._rank.workload, tokens.path if tokens else "", tokens.tokenizer if tokens else "", plan.seed)
        share = RankBatches(self._rank.workload, len(samples), plan.seed, trainer.data_rank, trainer.data_ranks, first, plan.steps)
        batches = iter(loader(samples, share, plan.loader_workers))
        last_ns = time.perf_counter_ns()
        for step in range(first, plan.steps):
            self._watchdog.expect()
            record, stop = self._step(step, batches, last_ns)
            last_ns = record.at_ns
            self._rank.write(record)
            if record.status == "diverged":
                return "diverged", step + 1
            if plan.checkpoint_every and (step + 1) % plan.checkpoint_every == 0:
                save_checkpoint(self._rank, step + 1)
            if stop:
                return "stopped", step + 1
            if record.loss is not None:
                self._losses.append(record.loss)
            if reached(self._losses, plan.target_loss):
                return "target reached", step + 1
        return "steps done", plan.steps

    def _step(self, step: int, batches: Iterator[Any], last_ns: int) -> tuple[StepRecord, bool]:
        trainer = self._rank.trainer
        micro_batches = self._recipe.global_batch // (self._recipe.micro_batch * trainer.data_ranks)
        with ExitStack() as stack:
            if step in self._plan.traced:
                trace = stack.enter_context(traced(self._plan.device))
                meter = stack.enter_context(CommunicationMeter())
            self._phases.begin()
            with self._phases.within("data"):
                mine = [next(batches) for _ in range(micro_batches)]
            self._break(step)
            result = trainer.step(mine, self._learning_rate(step), self._phases)
            times = self._phases.end()
        rows = [Numbers(*row) for row in self._rank.gather(self._numbers(times, result))]
        record = self._record(step, rows, last_ns)
        if step in self._plan.traced:
            self._report_trace(step, times["step"] or 0, trace, meter)
        return record, any(row.stop > 0 for row in rows)

    def _learning_rate(self, step: int) -> float:
        return self._recipe.learning_rate * min(1.0, (step + 1) / (self._recipe.warmup_steps + 1))

    def _break(self, step: int) -> None:
        """What the plan wants to go wrong, in the first attempt only."""
        fault = self._plan.fault
        if fault is None or self._rank.attempt or (self._rank.number, step) != (fault.rank, fault.step):
            return
        if fault.kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault.kind == "hang":
            while True:
                time.sleep(1)
        self._rank.trainer.parameters()[0][1].detach().fill_(math.nan)

    def _numbers(self, times: dict[str, int | None], result: StepResult) -> Numbers:
        peak, held = memory(self._plan.device)
        return Numbers(
            **{name: -1 if ns is None else ns for name, ns in times.items()},
            peak=peak,
            held=held,
            loss=math.inf if result.loss is None else result.loss,
            grad_norm=result.grad_norm,
            stop=(self._rank.folder / STOP_FILE).exists(),
        )

    def _record(self, step: int, rows: list[Numbers], last_ns: int) -> StepRecord:
        workload = self._rank.workload
        losses = [row.loss for row in rows if row.loss != math.inf]
        loss = sum(losses) / len(losses)
        norm = max(row.grad_norm for row in rows)
        now = time.perf_counter_ns()
        samples = self._recipe.global_batch
        columns = {name: [int(getattr(row, name)) for row in rows] for name in Numbers._fields[:8]}
        return StepRecord(
            step=step,
            attempt=self._rank.attempt,
            role="traced" if step in self._plan.traced else "warmup" if step < self._plan.measured_from else "measured",
            status="ok" if math.isfinite(loss) and math.isfinite(norm) else "diverged",
            at_ns=now,
            wall_ns=now - last_ns,
            samples=samples,
            tokens=samples * (1 if workload.family == "resnet" else workload.model.seq_len),
            loss=loss if math.isfinite(loss) else None,
            grad_norm=norm if math.isfinite(norm) else None,
            learning_rate=self._learning_rate(step),
            step_ns=columns["step"],
            data_ns=columns["data"],
            forward_ns=[max(0, ns) for ns in columns["forward"]],
            backward_ns=[max(0, ns) for ns in columns["backward"]],
            optimizer_ns=columns["optimizer"],
            sync_ns=[None if ns < 0 else ns for ns in columns["sync"]],
            peak_bytes=columns["peak"],
            held_bytes=columns["held"],
        )

    def _report_trace(self, step: int, step_ns: int, trace: Traced, meter: CommunicationMeter) -> None:
        columns = self._rank.gather_whole(step_ns, trace.busy_ns, trace.communication_ns, trace.exposed_ns)
        self._rank.write(
            TraceRecord(
                step=step,
                attempt=self._rank.attempt,
                step_ns=columns[0],
                busy_ns=columns[1],
                communication_ns=columns[2],
                exposed_ns=columns[3],
                transfers=meter.transfers(),
                analytic=analytic(self._plan),
            )
        )


def memory(device: str) -> tuple[int, int]:
    """Peak bytes so far, and bytes held now, never more than the peak: of the device's allocator, or of the process on
    a CPU (whose kernel brings the peak up to date later than what is held)."""
    if device == "cuda":
        return int(torch.cuda.max_memory_reserved()), int(torch.cuda.memory_reserved())
    held = resident_bytes()
    return max(held, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024), held
