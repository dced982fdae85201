"""What the step loop needs of a trainer: a class called with (plan, device) on every rank, found in `bytemlperf.extensions.TRAINERS`
or the entry-point group `bytemlperf.trainers`; `needs`, where it has it, names the modules that must be installed.
And where a step's time goes: stamps around its parts, on the host or on the device. On an accelerator the parts run after they are
launched, so that the stamps are events in the device's stream and are read once the step has ended; on a CPU they are the clock.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple, Protocol

import torch

Phase = Literal["data", "forward", "backward", "optimizer", "sync"]
PHASES: tuple[Phase, ...] = ("data", "forward", "backward", "optimizer", "sync")


class Phases:
    """The stamps of one step after another: `begin`, any number of `within`, `end`."""

    def __init__(self) -> None:
        self._spent: dict[Phase, list[tuple[Any, Any]]] = {}
        self._begun: Any = None
        self._open: dict[Phase, Any] = {}

    def begin(self) -> None:
        """A step begins."""
        self._spent = {}
        self._begun = self._stamp()

    @contextmanager
    def within(self, phase: Phase) -> Iterator[None]:
        """The block belongs to `phase`."""
        self.start(phase)
        yield
        self.stop(phase)

    def start(self, phase: Phase) -> None:
        """From here on `phase`."""
        self._open[phase] = self._stamp()

    def stop(self, phase: Phase) -> None:
        """Up to here `phase`."""
        self._spent.setdefault(phase, []).append((self._open.pop(phase), self._stamp()))

    def end(self) -> dict[str, int | None]:
        """Nanoseconds of the step (`step`) and of each phase; None for one that never was."""
        last = self._stamp()
        self._wait()
        spent: dict[str, int | None] = {"step": self._between(self._begun, last)}
        for phase in PHASES:
            pairs = self._spent.get(phase)
            spent[phase] = None if pairs is None else sum(self._between(a, b) for a, b in pairs)
        return spent

    def _stamp(self) -> Any:
        return time.perf_counter_ns()

    def _between(self, first: Any, last: Any) -> int:
        return int(last - first)

    def _wait(self) -> None:
        """A CPU has done what it was told."""


class DevicePhases(Phases):
    """The same in the stream of a CUDA device."""

    def _stamp(self) -> Any:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _between(self, first: Any, last: Any) -> int:
        return int(first.elapsed_time(last) * 1e6)

    def _wait(self) -> None:
        torch.cuda.synchronize()


def phases_for(device: str) -> Phases:
    """Stamps for `cpu` or `cuda`."""
    return DevicePhases() if device == "cuda" else Phases()


class StepResult(NamedTuple):
    """`loss`: the mean over the data parallel ranks is the global batch's sum over its targets, over their number
    (None where the rank sees none: not the last pipeline stage); `grad_norm` is the whole model's, before clipping."""

    loss: float | None
    grad_norm: float


class Trainer(Protocol):
    """A model, its optimiser and its share of the parallel groups, on one rank.

    `data_rank` is the rank's place among `data_ranks` that learn from different samples.
    """

    data_rank: int
    data_ranks: int

    def step(self, batches: Sequence[Any], learning_rate: float, phases: Phases) -> StepResult:
        """Learn from the micro-batches; stamps forward, backward, optimizer. The device may still be busy on return."""

    def parameters(self) -> Sequence[tuple[str, torch.Tensor]]:
        """This rank's own parameters: names and local tensors."""

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds, as torch.distributed.checkpoint takes it."""

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a loaded `state`."""
