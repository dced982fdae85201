"""What the live view shows of a training run, from rank 0's records."""

from __future__ import annotations

from bytemlperf.command.live import LiveView
from bytemlperf.units import NS_PER_S
from training.plan.plan import Plan
from training.results.records import Record, StartRecord, StepRecord


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
