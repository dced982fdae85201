"""The peaks of a machine: what its arithmetic, its memory and its links reach at most, as `bmp micro` measured them.

They are kept in the cache folder by a hash of everything that they depend on, and stand in run.json of what was held against them.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Set
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec

from bytemlperf.hardware import kept as kept_files
from bytemlperf.hardware.machine import discover, package_versions
from bytemlperf.version import __version__

MEASURED, SHEET = "measured", "sheet"
MEMORY, LINK = "memory", "link"
COLD_CACHES = 2
"""What is read between two calls on the same buffers, at least, in caches: one that isn't strictly least recently used keeps
much of a turn through barely more than itself."""

BUSY_CPUS = 0.5
LOOKS = 4
"""Sweeps that measure a peak shortly until it counts as known; one long measurement is as good."""
HEADLINE = "stream_triad"
WRITE_SHARES = {"stream_triad": 1 / 3, "stream_copy": 1 / 2, "stream_read": 0.0}


class Roof(msgspec.Struct, frozen=True, kw_only=True):
    """Peaks of one device. FLOP/s by our dtype names; bytes/s one way. None and absent: unknown. `source` says whose.
    `bytes_per_s` is the headline (the triad's, or the data sheet's); `by_writes` are pairs of a share of writes and
    the bytes/s of memory at it, where they were measured: on many machines writing is far slower than reading.
    `errors` are shares by which a peak may be too low, by dtype, and of `MEMORY`."""

    flops_per_s: dict[str, float] = {}
    bytes_per_s: float | None = None
    by_writes: list[tuple[float, float]] = []
    link_bytes_per_s: float | None = None
    errors: dict[str, float] = {}
    source: str = ""

    def memory_bytes_per_s(self, write_share: float) -> float | None:
        """For a mix of reads and writes: seconds per byte, linear between the measured mixes, constant beyond them."""
        points = sorted(self.by_writes)
        if not points:
            return self.bytes_per_s
        for (low, slow), (high, fast) in pairwise(points):
            if low <= write_share <= high:
                part = (write_share - low) / (high - low)
                return 1 / ((1 - part) / slow + part / fast)
        return points[0][1] if write_share < points[0][0] else points[-1][1]

    def attainable_flops_per_s(self, dtype: str, intensity: float) -> float | None:
        """The roof over an arithmetic intensity (FLOPs per byte); None where the peaks aren't known."""
        flops = self.flops_per_s.get(dtype)
        if flops is None or self.bytes_per_s is None:
            return None
        return min(flops, intensity * self.bytes_per_s)

    def ridge(self, dtype: str) -> float | None:
        """Intensity from which on arithmetic binds and no longer memory."""
        flops = self.flops_per_s.get(dtype)
        return flops / self.bytes_per_s if flops is not None and self.bytes_per_s else None


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


def identity_of(device: str, threads: int) -> dict[str, str]:
    """Everything of a machine that an operator's time depends on."""
    hardware, versions = discover(), package_versions(("torch", "numpy"))
    return {
        "cpu": str(hardware["cpu"]["model"]),
        "cpus": ",".join(map(str, sorted(os.sched_getaffinity(0)))),
        "gpus": "; ".join(f"{gpu['name']}, driver {gpu['driver_version']}" for gpu in hardware["gpus"]),
        "device": device,
        "threads": str(threads),
        "turn": f"{COLD_CACHES} caches",
        "kernel": platform.release(),
        "torch": versions.get("torch", ""),
        "numpy": versions.get("numpy", ""),
        "bytemlperf_llm": __version__,
    }


def path_for(identity: dict[str, str]) -> Path:
    """Where the peaks of such a machine lie."""
    return kept_files.path_of("micro-peaks", identity)


def kept(identity: dict[str, str]) -> Peaks:
    """From the cache; empty ones where there are none, or none that can be read."""
    peaks = kept_files.read(path_for(identity), Peaks)
    return peaks if peaks is not None and peaks.identity == identity else Peaks(identity=identity)
