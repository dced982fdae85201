"""What the step loop needs of a trainer: a class called with (plan, device) on every rank, found in `bytemlperf.extensions.TRAINERS`
or the entry-point group `bytemlperf.trainers`; `needs`, where it has it, names the modules that must be installed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from training.trainers.phases import Phases

if TYPE_CHECKING:
    import torch


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
