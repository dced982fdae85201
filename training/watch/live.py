"""What a training run shows while it goes on, from rank 0's records: the terminal's view, and metrics for Prometheus."""

from __future__ import annotations

from bytemlperf.command.live import LiveView
from bytemlperf.export.prometheus import Exporter, Family
from bytemlperf.units import NS_PER_S
from training.plan.plan import Plan
from training.results.records import CheckpointRecord, Record, StartRecord, StepRecord


class TrainingView(LiveView):
    """Hears rank 0's records."""

    def __init__(self, plan: Plan, *, quiet: bool) -> None:
        layout, workload = plan.layout, plan.workload["name"]
        title = f"{workload} · {plan.trainer} · dp {layout.dp} tp {layout.tp} pp {layout.pp} · {plan.device}"
        super().__init__(title, "steps", quiet=quiet, total=plan.steps)
        self._rate_unit = "images/s" if plan.tokens is None else "tokens/s"
        self._now = f"starting {layout.world} rank{'' if layout.world == 1 else 's'}"

    def hear(self, record: Record) -> None:
        """One record."""
        if isinstance(record, StartRecord) and record.attempt:
            self.note(f"! started again, from step {record.first_step}")
        if isinstance(record, StepRecord):
            loss = "not finite" if record.loss is None else f"{record.loss:.3f}"
            rate = f"{record.tokens / (max(record.step_ns) / NS_PER_S):,.0f}"
            self.update("", record.step + 1, {"loss": loss, self._rate_unit: rate})


STEP_BUCKETS_S = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
ROLES = ("warmup", "traced", "measured")

FAMILIES = (
    Family("bmp_training_steps", "counter", "Recorded optimizer steps.", "role", ROLES),
    Family("bmp_training_tokens", "counter", "Tokens learned from (samples for images)."),
    Family("bmp_training_step_seconds", "histogram", "Time of a measured step on the slowest rank.", buckets=STEP_BUCKETS_S),
    Family("bmp_training_loss", "gauge", "Loss of the last step."),
    Family("bmp_training_gradient_norm", "gauge", "Gradient norm of the last step, before clipping."),
    Family("bmp_training_tokens_per_second", "gauge", "Tokens of the last step over its time."),
    Family("bmp_training_peak_memory_bytes", "gauge", "Largest peak of any rank so far."),
    Family("bmp_training_checkpoints", "counter", "Checkpoints.", "outcome", ("ok", "failed")),
    Family("bmp_training_restarts", "counter", "Restarts by torchrun."),
    Family("bmp_training_diverged_steps", "counter", "Steps whose loss or gradient was not finite."),
)


class TrainingMetrics:
    """Feeds an exporter; `hear` takes every record of rank 0's log."""

    def __init__(self) -> None:
        self.exporter = Exporter(FAMILIES)

    def hear(self, record: Record) -> None:
        """One record."""
        if isinstance(record, StepRecord):
            self._step(record)
        elif isinstance(record, CheckpointRecord):
            self.exporter.count("bmp_training_checkpoints", label=record.status)
        elif isinstance(record, StartRecord) and record.attempt:
            self.exporter.count("bmp_training_restarts")

    def _step(self, record: StepRecord) -> None:
        export = self.exporter
        slowest_s = max(record.step_ns) / NS_PER_S
        export.count("bmp_training_steps", label=record.role)
        export.count("bmp_training_tokens", record.tokens)
        if record.role == "measured":
            export.observe("bmp_training_step_seconds", [slowest_s])
            export.set("bmp_training_tokens_per_second", record.tokens / slowest_s)
        if record.status == "diverged":
            export.count("bmp_training_diverged_steps")
        for name, value in (("bmp_training_loss", record.loss), ("bmp_training_gradient_norm", record.grad_norm)):
            if value is not None:
                export.set(name, value)
        export.set("bmp_training_peak_memory_bytes", max(record.peak_bytes))
