"""One run of a campaign as its record has it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

from bytemlperf.runs.kinds import Figure
from bytemlperf_llm.sweep.axes import AUTO_LEVEL, Level

CAPACITY_LOAD = "capacity"
"""The load of a search for the highest rate."""

Key = tuple[str, str, str, int]
"""Engine, scenario, load, repeat: which of a campaign's runs."""


class JobRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A run that has ended, or why there is none. `run` is its folder in the campaign's, `level` what its load was resolved to,
    `found_rate` whether that was found by `auto`, `devices` how many its server was said to have, `ended_unix_ns` the time of day then.
    `figures` are without their samples."""

    engine: str
    scenario: str
    load: str
    repeat: int
    status: Literal["ok", "failed"] = "ok"
    reason: str = ""
    run: str = ""
    verdict: str = ""
    reasons: list[str] = []
    seed: int = 0
    schedule_sha256: str = ""
    level: Level = AUTO_LEVEL
    devices: int | None = None
    found_rate: bool = False
    wall_s: float = 0.0
    ended_unix_ns: int = 0
    figures: list[Figure] = []

    @property
    def key(self) -> Key:
        return self.engine, self.scenario, self.load, self.repeat

    @property
    def name(self) -> str:
        return f"{self.engine} · {self.scenario} · {self.load} · repeat {self.repeat}"


def last_of_each(records: Iterable[JobRecord]) -> dict[Key, JobRecord]:
    """A run that was done again has its last record."""
    return {record.key: record for record in records}
