"""What operators of several ranks share: arguments, and the inputs of all ranks, made again from their seeds on each rank, so that
a reference needs nothing sent."""

from __future__ import annotations

from collections.abc import Callable

from micro.operators.contract import Args, Argument, Maker, Tensors

MAX_RANKS = 4096
BACKEND = Argument("backend", "any", "torch.distributed's backend; auto: the device's own (gloo, nccl, xccl, …)", "auto")
SEEDS_APART = 1_000_003
"""So that rank 1 of seed 0 has other values than rank 0 of seed 1."""


def world_size(default: int, fewest: int) -> Argument:
    """How many ranks."""
    return Argument("world_size", "int", "ranks", default, low=fewest, high=MAX_RANKS)


class RankMaker(Maker):
    """The random values of one rank, which its inputs may ask for."""

    def __init__(self, seed: int, rank: int, device: str) -> None:
        super().__init__(seed * SEEDS_APART + rank, device)
        self.rank = rank


class AllInputs:
    """`[rank]` makes that rank's inputs (nothing is kept); `rank` is whose result is wanted."""

    def __init__(self, inputs: Callable[[Args, Maker], Tensors], args: Args, *, seed: int, rank: int, device: str) -> None:
        self._inputs, self._args, self._seed, self._device = inputs, args, seed, device
        self.rank = rank

    def __getitem__(self, rank: int) -> Tensors:
        return self._inputs(self._args, self.maker(rank))

    def maker(self, rank: int) -> RankMaker:
        """That rank's values from the first on, where its inputs are only made of them."""
        return RankMaker(self._seed, rank, self._device)
