"""NVIDIA's GPUs by NVML, the library that comes with their driver: no package is needed, and without the driver there are none."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from typing import Any

LIBRARY = "libnvidia-ml.so.1"
SM_CLOCK, CORE_TEMPERATURE = 1, 0


class _Utilisation(ctypes.Structure):
    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))


class _Memory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


class NvidiaGpu:
    """Each method raises OSError where the device doesn't tell."""

    def __init__(self, nvml: Any, handle: ctypes.c_void_p) -> None:
        self._nvml, self._handle = nvml, handle

    def energy_mj(self) -> int:
        """Since the driver was loaded; from Volta on."""
        return int(self._ask("TotalEnergyConsumption", ctypes.c_ulonglong()).value)

    def state(self) -> dict[str, float]:
        """`busy_share`, `clock_mhz`, `temperature_c` and `memory_used_gb`, as far as it tells."""
        told: dict[str, float] = {}
        with suppress(OSError):
            told["busy_share"] = self._ask("UtilizationRates", _Utilisation()).gpu / 100
        with suppress(OSError):
            told["clock_mhz"] = self._ask("ClockInfo", ctypes.c_uint(), SM_CLOCK).value
        with suppress(OSError):
            told["temperature_c"] = self._ask("Temperature", ctypes.c_uint(), CORE_TEMPERATURE).value
        with suppress(OSError):
            told["memory_used_gb"] = self._ask("MemoryInfo", _Memory()).used / 1e9
        return told

    def _ask(self, what: str, answer: Any, *args: int) -> Any:
        try:
            status = getattr(self._nvml, f"nvmlDeviceGet{what}")(self._handle, *args, ctypes.byref(answer))
        except AttributeError:
            status = -1
        if status:
            raise OSError(f"NVML doesn't tell {what} of this device")
        return answer


def nvidia_gpus(library: Any = None) -> list[NvidiaGpu]:
    """Those of this machine; none where there is no driver. `library` stands in for NVML."""
    try:
        nvml = library or ctypes.CDLL(LIBRARY)
        if nvml.nvmlInit_v2():
            return []
    except (OSError, AttributeError):
        return []
    count, gpus = ctypes.c_uint(), []
    nvml.nvmlDeviceGetCount_v2(ctypes.byref(count))
    for index in range(count.value):
        handle = ctypes.c_void_p()
        if not nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle)):
            gpus.append(NvidiaGpu(nvml, handle))
    return gpus
