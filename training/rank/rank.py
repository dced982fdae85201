"""What every part of a rank's run has in common: the plan, the trainer, numbers from all ranks, and the record log."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist

from bytemlperf.runs.log import RecordLog, cut_torn_tail
from training.plan.plan import Plan
from training.results.records import RANK_LOG, Record

if TYPE_CHECKING:
    from training.trainers.contract import Trainer


ObjectT = TypeVar("ObjectT")


class Rank:
    """One rank. Reporting has a group of its own, on the host."""

    def __init__(self, plan: Plan, trainer: Trainer, device: torch.device, attempt: int) -> None:
        self.plan, self.trainer, self.device, self.attempt = plan, trainer, device, attempt
        self.workload, self.folder = plan.read_workload(), Path(plan.folder)
        self.number, self._world = dist.get_rank(), dist.get_world_size()
        self._group = dist.new_group(backend="gloo") if plan.device == "cuda" else dist.group.WORLD
        self._log: RecordLog | None = None
        if self.number == 0:
            path = self.folder / RANK_LOG
            cut_torn_tail(path)
            self._log = RecordLog(path, resume=path.exists())

    def write(self, record: Record) -> None:
        """Keep a record; rank 0 does."""
        if self._log is not None:
            self._log.append(record)

    def close(self) -> None:
        """Nothing is written any more."""
        if self._log is not None:
            self._log.close()

    def gather(self, numbers: Sequence[float]) -> list[list[float]]:
        """Every rank's numbers, on every rank: a row a rank, in order."""
        vector = torch.tensor(numbers, dtype=torch.float64)
        rows = [torch.empty_like(vector) for _ in range(self._world)]
        dist.all_gather(rows, vector, group=self._group)
        return [row.tolist() for row in rows]

    def gather_objects(self, mine: ObjectT) -> list[ObjectT]:
        """Every rank's, in order."""
        every: list[Any] = [None] * self._world
        dist.all_gather_object(every, mine)
        return every

    def gather_whole(self, *numbers: float) -> list[list[int]]:
        """The same as whole numbers, and a column a number: what records keep."""
        return [[int(value) for value in column] for column in zip(*self.gather(numbers), strict=True)]
