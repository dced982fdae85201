"""The peaks that a run was held against, as in its run.json."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

import msgspec

from micro.roofline import MEASURED, MEMORY, SHEET, Roof

BUSY_CPUS = 0.5
LOOKS = 4
"""Sweeps that measure a peak shortly until it counts as known; one long measurement is as good."""
HEADLINE = "stream_triad"
WRITE_SHARES = {"stream_triad": 1 / 3, "stream_copy": 1 / 2, "stream_read": 0.0}


class Peak(msgspec.Struct, frozen=True, kw_only=True):
    """`per_s` FLOPs or bytes; of which case, provider and number of samples, and when. `others_cpus` is how many
    CPUs other processes kept busy meanwhile, `spread` how much longer the median sample took than the fastest. `looks`: see `LOOKS`;
    `args` are the case's."""

    per_s: float
    case: str
    provider: str
    samples: int
    measured_at: str
    note: str = ""
    others_cpus: float | None = None
    spread: float = 0.0
    looks: int = LOOKS
    args: dict[str, Any] = {}

    @property
    def error(self) -> float:
        """By what share it may be too low: how far the median of its samples was off, all of it beside busy processes."""
        return 1.0 if (self.others_cpus or 0.0) > BUSY_CPUS else self.spread


LINK = "link"


class Peaks(msgspec.Struct, kw_only=True):
    """As in run.json under `peaks`. They are named by number format, and `MEMORY` and `LINK`. `identity` is what they hold for; `missing`
    says why there is none."""

    identity: dict[str, str]
    flops: dict[str, Peak] = {}
    memory: dict[str, Peak] = {}
    link: Peak | None = None
    missing: dict[str, str] = {}

    @property
    def every(self) -> list[Peak]:
        """All that were measured."""
        return [*self.flops.values(), *self.memory.values(), *([self.link] if self.link else [])]

    def of(self, name: str) -> list[Peak]:
        """Those that were measured of it."""
        if name == MEMORY:
            return list(self.memory.values())
        peak = self.link if name == LINK else self.flops.get(name)
        return [peak] if peak else []

    def rough(self, needed: Set[str]) -> set[str]:
        """Names among them whose peaks were seen shortly and in few sweeps."""
        return {name for name in needed if any(peak.looks < LOOKS for peak in self.of(name))}

    def lacks(self, needed: Set[str]) -> set[str]:
        """Names among them that were never tried."""
        return {name for name in needed if not self.of(name) and name not in self.missing}

    def roof(self) -> Roof:
        """For efficiencies."""
        return Roof(
            flops_per_s={dtype: peak.per_s for dtype, peak in self.flops.items()},
            bytes_per_s=self.memory[HEADLINE].per_s if HEADLINE in self.memory else None,
            by_writes=[(WRITE_SHARES[name], peak.per_s) for name, peak in self.memory.items()],
            link_bytes_per_s=self.link.per_s if self.link else None,
            errors={dtype: peak.error for dtype, peak in self.flops.items()}
            | ({MEMORY: max(peak.error for peak in self.memory.values())} if self.memory else {}),
            source="measured on this machine",
        )


def roofs_of(run: Mapping[str, Any]) -> dict[str, Roof]:
    """What run.json says of peaks: "measured" and "sheet", those that there are."""
    roofs = {}
    if run.get("peaks"):
        roofs[MEASURED] = msgspec.convert(run["peaks"], Peaks).roof()
    if run.get("sheet"):
        roofs[SHEET] = msgspec.convert(run["sheet"], Roof)
    return roofs
