"""What the process of one run of a campaign is told."""

from __future__ import annotations

from typing import Any

import msgspec

from bytemlperf_llm.capacity.command import task_of
from bytemlperf_llm.capacity.flags import CapacityFlags
from bytemlperf_llm.plan.flags import Flags
from bytemlperf_llm.plan.plan import Plan, resolve
from bytemlperf_llm.sweep.axes import Level


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """`flags` and `capacity` as `Options.recorded` has them; without `capacity` it is a `serve-bench`, of a closed loop where there is a
    `concurrency`, whatever load the scenario has."""

    flags: dict[str, Any]
    concurrency: int | None = None
    capacity: dict[str, Any] | None = None

    def plan(self) -> Plan:
        """Raises UserError for what is wrong with any of it."""
        flags = Flags.of(self.flags)
        plan = resolve(flags) if self.concurrency is None else Level(concurrency=self.concurrency).planned(flags)
        return plan if self.capacity is None else task_of(flags, CapacityFlags.of(self.capacity)).plan
