"""One schedule, dealt out to workers like cards: worker k of n sends the requests with index % n == k.

The schedule is made by the scenario and the seed alone, so it and its hash are the same for every
number of workers. Each worker makes it for itself and builds only its own requests: nothing is sent
between them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from itertools import count, islice
from typing import NamedTuple

import msgspec

from bytemlperf_llm.plan.scenario import Scenario
from bytemlperf_llm.workload import Workload, schedule
from bytemlperf_llm.workload.schedule import Planned
from bytemlperf_llm.workload.trace_prompts import TraceEnded


class Share(NamedTuple):
    """Worker `worker`, from 0, of `workers`."""

    worker: int = 0
    workers: int = 1

    def of(self, total: int) -> int:
        """This worker's part of a number of slots; the parts of all workers sum to `total`."""
        return total // self.workers + (self.worker < total % self.workers)


class Left(msgspec.Struct, frozen=True):
    """What a stopped run has left of its schedule: all but `done`, ranges [from, to) in order, and later
    by `shift_ns`. Ranges, since it goes to other processes: a run has done nearly all up to some place."""

    done: tuple[tuple[int, int], ...]
    shift_ns: int

    @classmethod
    def without(cls, done: Collection[int], shift_ns: int) -> Left:
        """All but these places in the schedule."""
        ranges: list[tuple[int, int]] = []
        for index in sorted(done):
            if ranges and ranges[-1][1] == index:
                ranges[-1] = (ranges[-1][0], index + 1)
            else:
                ranges.append((index, index + 1))
        return cls(tuple(ranges), shift_ns)

    def of(self, due: Iterable[tuple[int, int | None]]) -> Iterator[tuple[int, int | None]]:
        """What is left of these (place, time), whose places ascend."""
        ranges = iter(self.done)
        begin, end = next(ranges, (0, 0))
        for index, offset_ns in due:
            while index >= end > begin:
                begin, end = next(ranges, (0, 0))
            if not begin <= index < end:
                yield index, None if offset_ns is None else offset_ns + self.shift_ns


def dealt(scenario: Scenario, seed: int, share: Share, left: Left | None = None) -> Iterator[Planned]:
    """This worker's requests in the order of the schedule, or what is left of them. May raise UserError, from prompt files."""
    due = _due(scenario, seed, share)
    return _planned(Workload(scenario, seed), due if left is None else left.of(due))


def _due(scenario: Scenario, seed: int, share: Share) -> Iterable[tuple[int, int | None]]:
    if scenario.arrival.process != "closed":
        return islice(enumerate(schedule.offsets(scenario, seed)), share.worker, None, share.workers)
    indices = count() if scenario.num_requests is None else range(scenario.num_requests)
    return ((index, None) for index in islice(indices, share.worker, None, share.workers))


def _planned(workload: Workload, due: Iterable[tuple[int, int | None]]) -> Iterator[Planned]:
    with suppress(TraceEnded):
        for index, offset_ns in due:
            yield Planned(workload.request(index), offset_ns)
