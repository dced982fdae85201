"""What this machine's devices do while something runs: power, clocks, memory, utilisation, temperature, about once a second.

CPUs by psutil and the kernel, NVIDIA's GPUs by NVML, AMD's by the driver's sensors, which AMD SMI reads too. Of several GPUs power and
memory are summed up, of the rest the greatest counts. Read by a thread of its own; what can't be read is left out.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from bytemlperf.hardware.devices import SYS, text_of
from bytemlperf.hardware.nvml import nvidia_gpus
from bytemlperf.hardware.power import PowerMeter, Watts
from bytemlperf.lazy import psutil

PERIOD_S = 1.0
REST = 50
"""Of the time that a look takes, between two of them: at most 2 % of a processor."""
CLOCKS = 8
"""Cores whose clock is read: asking every core of a big machine wakes it."""
SUMMED = "memory_used_gb"
AMD_STATE = {
    "gpu_busy_percent": ("busy_share", 1e-2),
    "mem_info_vram_used": ("memory_used_gb", 1e-9),
    "hwmon/hwmon*/freq1_input": ("clock_mhz", 1e-6),
    "hwmon/hwmon*/temp2_input": ("temperature_c", 1e-3),
}


class Telemetry:
    """Looks from `start` to `stop`."""

    def __init__(self, root: Path = SYS, nvml: Any = None, now_s: Callable[[], float] = time.monotonic) -> None:
        self._root = root
        self._meter = PowerMeter(root, nvml, now_s)
        self._gpus: list[Callable[[], dict[str, float]]] = [gpu.state for gpu in nvidia_gpus(nvml)]
        self._gpus += [_amd_reader(card) for card in sorted((root / "class/drm").glob("card*")) if _is_amd(card)]
        self._latest: dict[str, float] = {}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="bmp-telemetry", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def latest(self) -> dict[str, float]:
        """What was seen last; empty before the first look."""
        return self._latest

    def stop(self, *, of_gpu: bool | None) -> Watts | None:
        """Look no more; the mean power over it all, as `PowerMeter.watts`."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()
        return self._meter.watts(of_gpu=of_gpu)

    def _follow(self) -> None:
        psutil.cpu_percent()  # of this thread, from here on
        wait_s = PERIOD_S
        while not self._stopped.wait(wait_s):
            begun_s = time.thread_time()
            self._latest = self.look()
            wait_s = max(PERIOD_S, REST * (time.thread_time() - begun_s))

    def look(self) -> dict[str, float]:
        """Of now."""
        told = self._meter.sample()
        told["cpu_busy_share"] = psutil.cpu_percent() / 100
        told["memory_used_gb"] = psutil.virtual_memory().used / 1e9
        if clocks := list(self._cpu_clocks()):
            told["cpu_clock_mhz"] = max(clocks)
        for gpu in self._gpus:
            for name, value in gpu().items():
                before = told.get(f"gpu_{name}", 0.0)
                told[f"gpu_{name}"] = before + value if name == SUMMED else max(before, value)
        return told

    def _cpu_clocks(self) -> Iterator[float]:
        for cpu in range(CLOCKS):
            with suppress(OSError, ValueError):
                khz = (self._root / f"devices/system/cpu/cpu{cpu}/cpufreq/scaling_cur_freq").read_text(encoding="ascii")
                yield int(khz) / 1e3


def _is_amd(card: Path) -> bool:
    return bool(re.fullmatch(r"card\d+", card.name)) and any(text_of(name) == "amdgpu" for name in card.glob("device/hwmon/hwmon*/name"))


def _amd_reader(card: Path) -> Callable[[], dict[str, float]]:
    files = [(path, *meaning) for pattern, meaning in AMD_STATE.items() for path in (card / "device").glob(pattern)]

    def read() -> dict[str, float]:
        told = {}
        for path, name, unit in files:
            with suppress(OSError, ValueError):
                told[name] = int(path.read_text(encoding="ascii")) * unit
        return told

    return read
