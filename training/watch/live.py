"""The run as it goes on, in the terminal: a bar with loss and tokens/s, or a plain line now and then."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from training.plan.plan import Plan

if TYPE_CHECKING:
    from rich.console import Console

NS_PER_S = 1e9
PLAIN_EVERY_S = 5.0


class LiveView:
    """A context manager that hears rank 0's records."""

    def __init__(self, console: Console, plan: Plan, *, quiet: bool) -> None:
        self._console, self._plan, self._quiet = console, plan, quiet
        self._bar: Any = None
        self._task: Any = None
        self._said_s = 0.0

    def __enter__(self) -> LiveView:
        layout = self._plan.layout
        title = f"{self._plan.workload['name']} · {self._plan.trainer} · dp {layout.dp} tp {layout.tp} pp {layout.pp} · {self._plan.device}"
        if self._quiet:
            return self
        if not self._console.is_terminal:
            self._console.print(f"{title}: starting {layout.world} ranks", highlight=False)
            return self
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._bar = Progress(*columns, TextColumn("{task.fields[said]}"), console=self._console, transient=True)
        self._bar.start()
        self._task = self._bar.add_task(title, total=self._plan.steps, said="starting the ranks")
        return self

    def __exit__(self, *_error: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def hear(self, record: dict[str, Any]) -> None:
        """One record."""
        if self._quiet:
            return
        if record.get("record") == "start" and record["attempt"]:
            self._console.print(f"[yellow]![/] started again, from step {record['first_step']}")
        if record.get("record") == "step":
            self._step(record)

    def _step(self, record: dict[str, Any]) -> None:
        said = line(record, "images/s" if self._plan.tokens is None else "tokens/s")
        if self._bar is not None:
            self._bar.update(self._task, completed=record["step"] + 1, said=said)
        elif time.monotonic() - self._said_s > PLAIN_EVERY_S:
            self._said_s = time.monotonic()
            self._console.print(f"step {record['step'] + 1}/{self._plan.steps} {said}", highlight=False)


def line(record: dict[str, Any], unit: str = "tokens/s") -> str:
    """A step in a few words."""
    loss = "not finite" if record["loss"] is None else f"{record['loss']:.3f}"
    return f"loss {loss}, {record['tokens'] / (max(record['step_ns']) / NS_PER_S):,.0f} {unit}"
