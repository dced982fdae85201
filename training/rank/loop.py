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
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bytemlperf.child.limits import resident_bytes
from training.plan.plan import Plan
from training.rank.batches import RankBatches, loader, samples_of
from training.rank.watchdog import STOP_FILE, Watchdog
from training.results.records import RANK_LOG, StepRecord, TraceRecord, Why
from training.trainers.contract import StepResult, Trainer

ABSENT = -1.0
"""In the vectors that ranks exchange: there is no such value (times and sizes are never negative)."""
FIELDS = ("step", "data", "forward", "backward", "optimizer", "sync", "peak", "held", "loss", "grad_norm", "stop")


class Loop:
    """A rank's run from its first step to its end."""

    def __init__(self, plan: Plan, trainer: Trainer, device: Any, attempt: int, watchdog: Watchdog, started_ns: int) -> None:
        import torch.distributed as dist

        from training.trainers.phases import phases_for

        self._plan, self._trainer, self._device, self._attempt, self._watchdog = plan, trainer, device, attempt, watchdog
        self._workload = plan.read_workload()
        self._folder = Path(plan.folder)
        self._rank, self._world = dist.get_rank(), dist.get_world_size()
        self._group = dist.new_group(backend="gloo") if plan.device == "cuda" else dist.group.WORLD
        self._phases = phases_for(plan.device)
        self._log = self._open_log() if self._rank == 0 else None
        self._started_ns = started_ns
        self._losses: list[float] = []

    def run(self) -> None:
        """Everything, ending in an end record."""
        from training.rank.after import end
        from training.rank.before import begin

        first = self._restore()
        begin(
            self._plan, self._workload, self._trainer, self._device, self._attempt, first, self._started_ns, self.gather_numbers, self.write
        )
        why, following = self._steps(first)
        end(self._plan, self._trainer, self._device, self._attempt, why, following, self.write)
        if self._log is not None:
            self._log.close()

    def _steps(self, first: int) -> tuple[Why, int]:
        recipe = self._workload.training
        tokens = self._plan.tokens
        samples = samples_of(self._workload, tokens.path if tokens else "", tokens.tokenizer if tokens else "", self._plan.seed)
        share = RankBatches(
            self._workload, len(samples), self._plan.seed, self._trainer.data_rank, self._trainer.data_ranks, first, self._plan.steps
        )
        batches = iter(loader(samples, share, self._plan.loader_workers))
        micro_batches = recipe.global_batch // (recipe.micro_batch * self._trainer.data_ranks)
        last_ns = time.perf_counter_ns()
        for step in range(first, self._plan.steps):
            self._watchdog.expect()
            record, stop = self._step(step, batches, micro_batches, last_ns)
            last_ns = record.at_ns
            self.write(record)
            if record.status == "diverged":
                return "diverged", step + 1
            if self._plan.checkpoint_every and (step + 1) % self._plan.checkpoint_every == 0:
                self._save(step + 1)
            if stop:
                return "stopped", step + 1
            if self._reached(record.loss):
                return "target reached", step + 1
        return "steps done", self._plan.steps

    def _step(self, step: int, batches: Any, micro_batches: int, last_ns: int) -> tuple[StepRecord, bool]:
        is_traced = step in self._plan.traced
        with ExitStack() as stack:
            if is_traced:
                from training.rank.communication import meter
                from training.rank.trace import traced

                trace = stack.enter_context(traced(self._plan.device))
                counted = stack.enter_context(meter())
            self._phases.begin()
            with self._phases.within("data"):
                mine = [next(batches) for _ in range(micro_batches)]
            self._break(step)
            result = self._trainer.step(mine, self._learning_rate(step), self._phases)
            times = self._phases.end()
        rows = self._gather(times, result)
        record = self._record(step, rows, last_ns)
        if is_traced:
            self._report_trace(step, times["step"] or 0, trace, counted)
        return record, any(row["stop"] > 0 for row in rows)

    def _learning_rate(self, step: int) -> float:
        recipe = self._workload.training
        return recipe.learning_rate * min(1.0, (step + 1) / (recipe.warmup_steps + 1))

    def _break(self, step: int) -> None:
        """What the plan wants to go wrong, in the first attempt only."""
        fault = self._plan.fault
        if fault is None or self._attempt or (self._rank, step) != (fault.rank, fault.step):
            return
        if fault.kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault.kind == "hang":
            while True:
                time.sleep(1)
        self._trainer.parameters()[0][1].detach().fill_(math.nan)

    def _gather(self, times: dict[str, int | None], result: StepResult) -> list[dict[str, float]]:
        peak, held = memory(self._plan.device)
        mine = {
            **{name: ABSENT if times[name] is None else float(times[name] or 0) for name in FIELDS[:6]},
            "peak": float(peak),
            "held": float(held),
            "loss": math.inf if result.loss is None else result.loss,  # infinite: this rank has none
            "grad_norm": result.grad_norm,
            "stop": float((self._folder / STOP_FILE).exists()),
        }
        return [dict(zip(FIELDS, row, strict=True)) for row in self.gather_numbers([mine[name] for name in FIELDS])]

    def gather_numbers(self, mine: list[float]) -> list[list[float]]:
        """Every rank's numbers, on every rank, in the order of ranks."""
        import torch
        import torch.distributed as dist

        vector = torch.tensor(mine, dtype=torch.float64)
        every = [torch.empty_like(vector) for _ in range(self._world)]
        dist.all_gather(every, vector, group=self._group)
        return [each.tolist() for each in every]

    def _record(self, step: int, rows: list[dict[str, float]], last_ns: int) -> StepRecord:
        recipe = self._workload.training
        seen = [row["loss"] for row in rows if row["loss"] != math.inf]
        loss = sum(seen) / len(seen)
        norm = max(row["grad_norm"] for row in rows)
        now = time.perf_counter_ns()
        tokens = recipe.global_batch * (1 if self._workload.family == "resnet" else self._workload.model.seq_len)
        traced = step in self._plan.traced

        def column(name: str) -> list[int]:
            return [int(row[name]) for row in rows]

        finite = math.isfinite(loss) and math.isfinite(norm)
        return StepRecord(
            step=step,
            attempt=self._attempt,
            role="traced" if traced else "warmup" if step < self._plan.measured_from else "measured",
            status="ok" if finite else "diverged",
            at_ns=now,
            wall_ns=now - last_ns,
            samples=recipe.global_batch,
            tokens=tokens,
            loss=loss if math.isfinite(loss) else None,
            grad_norm=norm if math.isfinite(norm) else None,
            learning_rate=self._learning_rate(step),
            step_ns=column("step"),
            data_ns=column("data"),
            forward_ns=[max(0, ns) for ns in column("forward")],
            backward_ns=[max(0, ns) for ns in column("backward")],
            optimizer_ns=column("optimizer"),
            sync_ns=[None if row["sync"] == ABSENT else int(row["sync"]) for row in rows],
            peak_bytes=column("peak"),
            held_bytes=column("held"),
        )

    def _report_trace(self, step: int, step_ns: int, trace: Any, counted: Any) -> None:
        from training.rank.communication import analytic

        rows = self.gather_numbers([float(step_ns), float(trace.busy_ns), float(trace.communication_ns), float(trace.exposed_ns)])
        columns = [[int(row[place]) for row in rows] for place in range(4)]
        self.write(
            TraceRecord(
                step=step,
                attempt=self._attempt,
                step_ns=columns[0],
                busy_ns=columns[1],
                communication_ns=columns[2],
                exposed_ns=columns[3],
                transfers=counted.transfers(),
                analytic=analytic(self._plan),
            )
        )

    def _reached(self, loss: float | None) -> bool:
        from training.results.convergence import reached

        if loss is not None:
            self._losses.append(loss)
        return reached(self._losses, self._plan.target_loss)

    def write(self, record: Any) -> None:
        """Keep a record; rank 0 does."""
        if self._log is not None:
            self._log.append(record)

    def _open_log(self) -> Any:
        from bytemlperf.runs.log import RecordLog, cut_torn_tail

        path = self._folder / RANK_LOG
        cut_torn_tail(path)
        return RecordLog(path, resume=path.exists())

    def _save(self, step: int) -> None:
        from training.rank.saving import save_checkpoint

        save_checkpoint(self._plan, self._trainer, self._attempt, step, self.gather_numbers, self.write)

    def _restore(self) -> int:
        from training.rank.saving import restore_checkpoint

        return restore_checkpoint(self._plan, self._trainer, self._attempt, self.gather_numbers, self.write)


def memory(device: str) -> tuple[int, int]:
    """Peak bytes so far, and bytes held now, never more than the peak: of the device's allocator, or of the process on
    a CPU (whose kernel brings the peak up to date later than what is held)."""
    if device == "cuda":
        import torch

        return int(torch.cuda.max_memory_reserved()), int(torch.cuda.memory_reserved())
    held = resident_bytes()
    return max(held, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024), held
