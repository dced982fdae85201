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

    def __init__(self, group: object) -> None:
        import torch.distributed as dist

        self._torch, self._dist, self._group = torch, dist, group
        self.rank, self.ranks = dist.get_rank(), dist.get_world_size()

    def told(self, value: int) -> int:
        """Rank 0's value, on every rank."""
        box = self._torch.tensor([value], dtype=self._torch.int64)
        self._dist.broadcast(box, src=0, group=self._group)
        return int(box)

    def gather(self, value: int) -> list[int]:
        """Every rank's value, on every rank."""
        boxes = [self._torch.zeros(1, dtype=self._torch.int64) for _ in range(self.ranks)]
        self._dist.all_gather(boxes, self._torch.tensor([value], dtype=self._torch.int64), group=self._group)
        return [int(box) for box in boxes]

    def texts(self, text: str) -> list[str]:
        """Every rank's text, on every rank."""
        answers: list[str | None] = [None] * self.ranks
        self._dist.all_gather_object(answers, text, group=self._group)
        return [str(answer) for answer in answers]

    def meet(self) -> None:
        """A barrier."""
        self._dist.barrier(group=self._group)


def start_skew_ns(control: Control, now_ns: Callable[[], int]) -> float:
    """How far apart ranks leave a barrier, at the median; needs one clock, so ranks of one machine."""
    skews = []
    for _ in range(PROBES):
        control.meet()
        left = control.gather(now_ns())
        skews.append(max(left) - min(left))
    return float(median(skews))


class LeadingStopwatch:
    """Rank 0's: a `micro.measure.timing.Stopwatch` whose samples all ranks take together. `by_rank` keeps every one."""

    def __init__(self, control: Control, own: Stopwatch, restore: Restore, skew_ns: float) -> None:
        self._control, self._own, self._restore = control, own, restore
        self.overhead_ns = max(own.overhead_ns, skew_ns / SKEW_SHARE * TIMER_SHARE)
        self.by_rank: list[list[int]] = []

    def now_ns(self) -> int:
        """This rank's clock."""
        return self._own.now_ns()

    def time_ns(self, run: Run, arguments: Sequence[Tensors]) -> int:
        """As the Protocol says, of the slowest rank."""
        self._control.told(len(arguments))
        self.by_rank.append(_together(self._control, self._own, self._restore, run, arguments))
        return max(self.by_rank[-1])


def lead(
    control: Control,
    own: Stopwatch,
    restore: Restore,
    skew_ns: float,
    run: Run,
    sets: Sequence[Tensors],
    rules: Rules,
) -> tuple[Timed, list[list[int]]]:
    """Rank 0: what was measured, and of every kept sample each rank's time."""
    stopwatch = LeadingStopwatch(control, own, restore, skew_ns)
    timed = measure(run, sets, stopwatch, rules)
    control.told(STOP)
    return timed, stopwatch.by_rank[-len(timed.samples_ns) :]


def follow(control: Control, own: Stopwatch, restore: Restore, run: Run, sets: Sequence[Tensors]) -> None:
    """Every other rank: as many calls as rank 0 says, on the same sets in the same order, until it says stop."""
    place = 0
    while calls := control.told(STOP):
        arguments = [sets[(place + call) % len(sets)] for call in range(calls)]
        place = (place + calls) % len(sets)
        _together(control, own, restore, run, arguments)


def _together(
    control: Control,
    own: Stopwatch,
    restore: Restore,
    run: Run,
    arguments: Sequence[Tensors],
) -> list[int]:
    restore(arguments)
    control.meet()
    return control.gather(own.time_ns(run, arguments))
