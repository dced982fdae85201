"""Timing across ranks: rank 0 runs `micro.measure.timing.measure` and decides; the others do as they are told.

Each time that rank 0's `measure` asks its stopwatch for a sample, the stopwatch
    tells all ranks how many calls            (a broadcast over the control group, gloo on the CPU)
    restores what earlier calls have summed up
    meets the others                          (a barrier)
    times the calls on this rank's clock
    collects every rank's time                (a gather)
and answers with the slowest rank's: a collective is over when its last rank is. So calls, warm-up and
stopping are decided once, by the same code as on one device. Leaving a barrier the ranks are some
microseconds apart; a sample is long enough that this is at most 1 % of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import cycle, islice
from statistics import median

from bytemlperf.lazy import torch
from micro.measure.timing import TIMER_SHARE, Rules, Stopwatch, Timed, measure
from micro.operators.contract import Run, Tensors

SKEW_SHARE = 0.01
"""Start skew, at most, as a share of a sample."""

STOP = 0
Restore = Callable[[Sequence[Tensors]], None]
"""Puts the values back that the calls of a sample begin with."""
PROBES = 31


class Control:
    """The group over which ranks agree: broadcast, gather and barrier of small numbers, never timed."""

    def __init__(self) -> None:
        self._group = torch.distributed.new_group(backend="gloo")
        self.rank, self.ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()

    def from_lead(self, value: int) -> int:
        """Rank 0's value, on every rank."""
        box = torch.tensor([value], dtype=torch.int64)
        torch.distributed.broadcast(box, src=0, group=self._group)
        return int(box)

    def gather(self, value: int) -> list[int]:
        """Every rank's value, on every rank."""
        boxes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.ranks)]
        torch.distributed.all_gather(boxes, torch.tensor([value], dtype=torch.int64), group=self._group)
        return [int(box) for box in boxes]

    def texts(self, text: str) -> list[str]:
        """Every rank's text, on every rank."""
        answers: list[str | None] = [None] * self.ranks
        torch.distributed.all_gather_object(answers, text, group=self._group)
        return [str(answer) for answer in answers]

    def meet(self) -> None:
        """A barrier."""
        torch.distributed.barrier(group=self._group)


def start_skew_ns(control: Control, now_ns: Callable[[], int]) -> float:
    """How far apart ranks leave a barrier, at the median; needs one clock, so ranks of one machine."""
    skews = []
    for _ in range(PROBES):
        control.meet()
        left = control.gather(now_ns())
        skews.append(max(left) - min(left))
    return float(median(skews))


class SharedStopwatch:
    """A `micro.measure.timing.Stopwatch` whose samples all ranks take together: rank 0 leads, the others follow."""

    def __init__(self, control: Control, own: Stopwatch, restore: Restore, skew_ns: float) -> None:
        self._control, self._own, self._restore = control, own, restore
        self.overhead_ns = max(own.overhead_ns, skew_ns / SKEW_SHARE * TIMER_SHARE)
        self._by_rank: list[list[int]] = []

    def now_ns(self) -> int:
        """This rank's clock."""
        return self._own.now_ns()

    def time_ns(self, run: Run, arguments: Sequence[Tensors]) -> int:
        """As the Protocol says, of the slowest rank."""
        self._control.from_lead(len(arguments))
        self._by_rank.append(self._sample(run, arguments))
        return max(self._by_rank[-1])

    def lead(self, run: Run, sets: Sequence[Tensors], rules: Rules) -> tuple[Timed, list[list[int]]]:
        """Rank 0: what was measured, and of every kept sample each rank's time."""
        timed = measure(run, sets, self, rules)
        self._control.from_lead(STOP)
        return timed, self._by_rank[-len(timed.samples_ns) :]

    def follow(self, run: Run, sets: Sequence[Tensors]) -> None:
        """Every other rank: as many calls as rank 0 says, on the same sets in the same order, until it says stop."""
        turns = cycle(sets)
        while calls := self._control.from_lead(STOP):
            self._sample(run, list(islice(turns, calls)))

    def _sample(self, run: Run, arguments: Sequence[Tensors]) -> list[int]:
        self._restore(arguments)
        self._control.meet()
        return self._control.gather(self._own.time_ns(run, arguments))
