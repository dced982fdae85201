"""One schedule, dealt out to workers like cards: worker k of n sends the requests with index % n == k.

The schedule is made by the scenario and the seed alone, so it and its hash are the same for every
number of workers. Each worker makes it for itself and builds only its own requests: nothing is sent
between them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import count, islice
from typing import NamedTuple

from bytemlperf_llm import schedule
from bytemlperf_llm.loadgen.worker import Planned
from bytemlperf_llm.scenario import Scenario
from bytemlperf_llm.workload import Workload
from bytemlperf_llm.workload.trace_prompts import TraceEnded


class Share(NamedTuple):
    """Worker `worker`, from 0, of `workers`."""

    worker: int = 0
    workers: int = 1

    def of(self, total: int) -> int:
        """This worker's part of a number of slots; the parts of all workers sum to `total`."""
        return total // self.workers + (self.worker < total % self.workers)


def dealt(scenario: Scenario, seed: int, share: Share) -> Iterator[Planned]:
    """This worker's requests in the order of the schedule. May raise UserError, from prompt files."""
    return _planned(Workload(scenario, seed), _due(scenario, seed, share))


def _due(scenario: Scenario, seed: int, share: Share) -> Iterable[tuple[int, int | None]]:
    if scenario.arrival.process != "closed":
        return islice(enumerate(schedule.offsets(scenario, seed)), share.worker, None, share.workers)
    indices = count() if scenario.num_requests is None else range(scenario.num_requests)
    return ((index, None) for index in islice(indices, share.worker, None, share.workers))


def _planned(workload: Workload, due: Iterable[tuple[int, int | None]]) -> Iterator[Planned]:
    with suppress(TraceEnded):
        for index, offset_ns in due:
            yield Planned(workload.request(index), offset_ns)
