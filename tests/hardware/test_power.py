"""Measured power: a made /sys, a made NVML, a made clock."""

from __future__ import annotations

import ctypes
import time
from pathlib import Path

import pytest

from bytemlperf.hardware import telemetry
from bytemlperf.hardware.power import PowerMeter
from bytemlperf.hardware.telemetry import Telemetry

WRAPS_UJ = 262_143_328_850


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def zone(root: Path, name: str, kind: str, energy_uj: int) -> Path:
    folder = root / "class/powercap" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "name").write_text(f"{kind}\n")
    (folder / "max_energy_range_uj").write_text(f"{WRAPS_UJ}\n")
    (folder / "energy_uj").write_text(f"{energy_uj}\n")
    return folder / "energy_uj"


class Nvml:
    """Two GPUs, of which the second has no counter."""

    millijoules = 5_000_000

    def nvmlInit_v2(self) -> int:
        return 0

    def nvmlDeviceGetCount_v2(self, count: ctypes._Pointer) -> int:  # type: ignore[type-arg]
        count._obj.value = 2  # type: ignore[attr-defined]
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index: int, handle: ctypes._Pointer) -> int:  # type: ignore[type-arg]
        handle._obj.value = index + 1  # type: ignore[attr-defined]
        return 0

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: ctypes.c_void_p, value: ctypes._Pointer) -> int:  # type: ignore[type-arg]
        value._obj.value = self.millijoules  # type: ignore[attr-defined]
        return 0 if handle.value == 1 else 3

    def nvmlDeviceGetUtilizationRates(self, handle: ctypes.c_void_p, rates: ctypes._Pointer) -> int:  # type: ignore[type-arg]
        rates._obj.gpu = 10 * (handle.value or 0)  # type: ignore[attr-defined]
        return 0

    def nvmlDeviceGetClockInfo(self, handle: ctypes.c_void_p, clock: int, mhz: ctypes._Pointer) -> int:  # type: ignore[type-arg]
        mhz._obj.value = 1980 if clock == 1 else 0  # type: ignore[attr-defined]
        return 0

    def nvmlDeviceGetMemoryInfo(self, handle: ctypes.c_void_p, memory: ctypes._Pointer) -> int:  # type: ignore[type-arg]
        memory._obj.used = 40_000_000_000  # type: ignore[attr-defined]
        return 0


def test_rapl_counts_packages_and_memory_and_begins_again(tmp_path: Path) -> None:
    package = zone(tmp_path, "intel-rapl:0", "package-0", WRAPS_UJ - 10_000_000)
    memory = zone(tmp_path, "intel-rapl:0:1", "dram", 1_000_000)
    zone(tmp_path, "intel-rapl:0:0", "core", 0)
    zone(tmp_path, "intel-rapl:1", "psys", 0)
    clock = Clock()
    meter = PowerMeter(tmp_path, now_s=clock)
    package.write_text("990000000")
    memory.write_text("51000000")
    clock.now_s += 10
    watts = meter.watts(of_gpu=False)
    assert watts is not None
    assert watts.value == pytest.approx((10 + 990 + 50) / 10)
    assert watts.source == "measured by RAPL"


def test_nvml_is_for_gpus_and_alone_says_nothing_of_a_cpu(tmp_path: Path) -> None:
    clock, nvml = Clock(), Nvml()
    meter = PowerMeter(tmp_path, nvml, clock)
    nvml.millijoules += 3_000_000
    clock.now_s += 10
    assert meter.watts(of_gpu=False) is None
    watts = meter.watts(of_gpu=True)
    assert watts == (300.0, "measured by NVML")


def test_amd_power_is_summed_up_over_time(tmp_path: Path) -> None:
    sensor = tmp_path / "class/drm/card0/device/hwmon/hwmon3/power1_average"
    sensor.parent.mkdir(parents=True)
    (sensor.parent / "name").write_text("amdgpu\n")
    sensor.write_text("100000000")
    clock = Clock()
    meter = PowerMeter(tmp_path, now_s=clock)
    clock.now_s += 5
    sensor.write_text("300000000")
    meter.sample()
    clock.now_s += 5
    watts = meter.watts(of_gpu=True)
    assert watts is not None
    assert watts.value == pytest.approx((200 * 5 + 300 * 5) / 10)


def test_what_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    counter = zone(tmp_path, "intel-rapl:0", "package-0", 0)
    clock = Clock()
    meter = PowerMeter(tmp_path, now_s=clock)
    counter.unlink()
    clock.now_s += 1
    assert meter.watts(of_gpu=False) is None
    assert PowerMeter(tmp_path / "absent", now_s=clock).watts(of_gpu=False) is None


def amd(root: Path) -> None:
    device = root / "class/drm/card0/device"
    (device / "hwmon/hwmon3").mkdir(parents=True)
    for name, text in {
        "hwmon/hwmon3/name": "amdgpu",
        "hwmon/hwmon3/power1_average": "100000000",
        "hwmon/hwmon3/freq1_input": "2100000000",
        "hwmon/hwmon3/temp2_input": "65000",
        "gpu_busy_percent": "97",
        "mem_info_vram_used": "5000000000",
    }.items():
        (device / name).write_text(f"{text}\n")


def test_devices_are_looked_at_summed_or_the_greatest_of_them(tmp_path: Path) -> None:
    amd(tmp_path)
    clocks = tmp_path / "devices/system/cpu/cpu1/cpufreq/scaling_cur_freq"
    clocks.parent.mkdir(parents=True)
    clocks.write_text("3100000\n")
    package, clock, nvml = zone(tmp_path, "intel-rapl:0", "package-0", 0), Clock(), Nvml()
    devices = Telemetry(tmp_path, nvml, clock)
    clock.now_s += 2
    package.write_text("30000000")
    nvml.millijoules += 400_000
    told = devices.look()
    assert {name: round(value, 6) for name, value in told.items() if name not in ("cpu_busy_share", "memory_used_gb")} == {
        "cpu_power_w": 15.0,
        "gpu_power_w": 300.0,
        "cpu_clock_mhz": 3100.0,
        "gpu_busy_share": 0.97,
        "gpu_clock_mhz": 2100.0,
        "gpu_memory_used_gb": 85.0,
        "gpu_temperature_c": 65.0,
    }
    assert 0 <= told["cpu_busy_share"] <= 1
    assert told["memory_used_gb"] > 0
    assert devices.stop(of_gpu=None) == (315.0, "measured by RAPL and NVML and amdgpu's sensor")


def test_devices_are_looked_at_by_a_thread_that_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "PERIOD_S", 0.01)
    monkeypatch.setattr(telemetry, "REST", 0)
    devices = Telemetry(tmp_path)
    devices.start()
    limit_s = time.monotonic() + 30
    while not devices.latest():
        assert time.monotonic() < limit_s
        time.sleep(0.005)
    assert devices.stop(of_gpu=None) is None
    assert not devices._thread.is_alive()
    assert set(devices.latest()) == {"cpu_busy_share", "memory_used_gb"}
