"""Power that this machine measures of itself while something runs: CPU packages and their memory by RAPL, NVIDIA GPUs by NVML, AMD GPUs by
the driver's own sensor, which AMD SMI reads too. What can't be read (RAPL mostly needs root) is left out, never an error.

Counters of joules are read as differences, sensors of watts are summed up over the time between two readings: `sample` at least
each minute, since RAPL's counter begins again after some 260 kJ.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from bytemlperf.hardware.devices import SYS, text_of
from bytemlperf.hardware.nvml import nvidia_gpus

MICRO, MILLI = 1e-6, 1e-3
RAPL_ZONES = ("package", "dram")


class Watts(NamedTuple):
    """Mean power, and what measured it."""

    value: float
    source: str


class Counter:
    """Of energy that only grows, but begins again at `wraps`. `read` raises OSError or ValueError where it can't be read."""

    def __init__(self, source: str, read: Callable[[], int], unit_j: float, *, of_cpu: bool, wraps: int | None = None) -> None:
        self.source, self.of_cpu, self._read, self._unit_j, self._wraps = source, of_cpu, read, unit_j, wraps
        self._last = read()

    def joules(self, now_s: float) -> float:  # noqa: ARG002
        """Since the reading before; 0 at the first."""
        value = self._read()
        grown, self._last = value - self._last, value
        return (grown + (self._wraps or 0) if grown < 0 else grown) * self._unit_j


class Gauge:
    """Of power now, in watts times 1/`unit_w`."""

    of_cpu = False

    def __init__(self, source: str, read: Callable[[], int], unit_w: float, now_s: float) -> None:
        self.source, self._read, self._unit_w = source, read, unit_w
        self._last_s, self._last = now_s, read()

    def joules(self, now_s: float) -> float:
        value, before = self._read(), self._last
        span_s, self._last_s, self._last = now_s - self._last_s, now_s, value
        return (value + before) / 2 * self._unit_w * span_s


Sensor = Counter | Gauge


class PowerMeter:
    """Joules since it was made, of everything that can be read."""

    def __init__(self, root: Path = SYS, nvml: Any = None, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._begun_s = self._last_s = now_s()
        self._sensors: list[Sensor] = [*_rapl(root), *_nvidia(nvml), *_amd(root, self._begun_s)]
        self._joules = [0.0] * len(self._sensors)

    def sample(self) -> dict[str, float]:
        """Read everything: mean power since the sample before, of `cpu_power_w` and `gpu_power_w` those that have a sensor. One that fails
        is left out from then on."""
        now_s = self._now_s()
        span_s, self._last_s = now_s - self._last_s, now_s
        watts: dict[str, float] = {}
        for place, sensor in reversed(list(enumerate(self._sensors))):
            try:
                joules = sensor.joules(now_s)
            except (OSError, ValueError):
                del self._sensors[place], self._joules[place]
                continue
            self._joules[place] += joules
            if span_s > 0:
                name = "cpu_power_w" if sensor.of_cpu else "gpu_power_w"
                watts[name] = watts.get(name, 0.0) + joules / span_s
        return watts

    def watts(self, *, of_gpu: bool | None) -> Watts | None:
        """Mean power since it was made; None where what did the work (CPU or GPU; None: any) has no sensor."""
        self.sample()
        span_s = self._last_s - self._begun_s
        if span_s <= 0 or not any(of_gpu is None or sensor.of_cpu is not of_gpu for sensor in self._sensors):
            return None
        names = dict.fromkeys(sensor.source for sensor in self._sensors)
        return Watts(sum(self._joules) / span_s, f"measured by {' and '.join(names)}")


def _rapl(root: Path) -> Iterator[Counter]:
    for zone in sorted((root / "class/powercap").glob("intel-rapl:*")):
        if text_of(zone / "name").startswith(RAPL_ZONES):
            wraps = text_of(zone / "max_energy_range_uj")
            with suppress(OSError, ValueError):
                read = _reader(zone / "energy_uj")
                yield Counter("RAPL", read, MICRO, of_cpu=True, wraps=int(wraps) if wraps.isdigit() else None)


def _amd(root: Path, now_s: float) -> Iterator[Gauge]:
    for sensor in sorted((root / "class/drm").glob("card*/device/hwmon/hwmon*/power1_average")):
        if text_of(sensor.parent / "name") == "amdgpu" and re.fullmatch(r"card\d+", sensor.parents[3].name):
            with suppress(OSError, ValueError):
                yield Gauge("amdgpu's sensor", _reader(sensor), MICRO, now_s)


def _reader(path: Path) -> Callable[[], int]:
    return lambda: int(path.read_text(encoding="ascii"))


def _nvidia(library: Any) -> Iterator[Counter]:
    for gpu in nvidia_gpus(library):
        with suppress(OSError):
            yield Counter("NVML", gpu.energy_mj, MILLI, of_cpu=False)
