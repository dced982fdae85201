"""What else went on while a case was timed: clocks, throttling, other processes, what a hypervisor took.

Two snapshots of counters that the kernel keeps anyway, before and after; their difference goes with
the row. What can't be told (a virtual machine hides its thermometer) is None, never 0.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec

from bytemlperf.hardware.devices import text_of
from bytemlperf.hardware.machine import output_of
from bytemlperf.lazy import psutil

OTHERS_SHARE = 0.1
"""Of one processor: beyond this, other processes are worth a remark."""

CLOCK_SHARE = 0.05
GPU_QUERY = "clocks.sm,clocks_throttle_reasons.active,temperature.gpu"
GPU_IDLE = 0x1
"""nvidia-smi's reason that is none: nothing runs yet."""

NVIDIA_SMI_TIMEOUT_S = 5
PINNING_VARIABLES = (
    "OMP_NUM_THREADS",
    "OMP_PROC_BIND",
    "OMP_PLACES",
    "GOMP_CPU_AFFINITY",
    "KMP_AFFINITY",
    "KMP_BLOCKTIME",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "OPENBLAS_CORETYPE",
)


class Snapshot(NamedTuple):
    """Counters at one moment. None where the machine doesn't keep one."""

    at_s: float
    mhz: float | None
    throttles: int | None  # thermal events of the CPUs that are used
    quota_us: int | None  # time that the control group's quota took away
    busy_s: float | None  # of all CPUs, all processes
    steal_s: float | None  # of all CPUs, taken by the hypervisor
    own_s: float
    preempted: int
    gpu: tuple[float, int, float] | None  # MHz, throttle reasons, °C


class Conditions(msgspec.Struct, frozen=True, kw_only=True):
    """During the timed part. `mhz` before and after (mean of the CPUs used, or the GPU's SM clock); `throttled`
    counts thermal events, or is the GPU's mask of reasons; `quota_s` is time lost to the control group's
    quota; `others_cpus` how many CPUs other processes and the kernel kept busy on average, `stolen_cpus`
    those that a hypervisor gave to others; `preempted` how often this process was put off a CPU."""

    seconds: float
    mhz: list[float] = []
    throttled: int | None = None
    quota_s: float | None = None
    others_cpus: float | None = None
    stolen_cpus: float | None = None
    preempted: int = 0
    gpu_celsius: float | None = None

    def remark(self) -> str:
        """What a reader of the row should know, "" where nothing is unusual."""
        parts = []
        if self.throttled:
            parts.append("throttled")
        if self.quota_s is not None and self.quota_s > CLOCK_SHARE * self.seconds:
            parts.append(f"the container's quota took {self.quota_s:.2g} s")
        if self.stolen_cpus is not None and self.stolen_cpus > OTHERS_SHARE:
            parts.append(f"the hypervisor took {self.stolen_cpus:.1f} CPUs")
        if self.others_cpus is not None and self.others_cpus > OTHERS_SHARE:
            parts.append(f"other processes used {self.others_cpus:.1f} CPUs")
        if len(self.mhz) == 2 and min(self.mhz) < (1 - CLOCK_SHARE) * max(self.mhz):
            parts.append(f"clock {self.mhz[0]:.0f} to {self.mhz[1]:.0f} MHz")
        return ", ".join(parts)


def snapshot(device: str = "cpu", root: Path = Path("/")) -> Snapshot:
    """Everything at once; some tenths of a millisecond, with a GPU one call of nvidia-smi."""
    cpus = sorted(os.sched_getaffinity(0))
    own, all_cpus = os.times(), psutil.cpu_times()
    return Snapshot(
        at_s=time.monotonic(),
        mhz=None if device != "cpu" else _clock_mhz(cpus),
        throttles=_throttles(root, cpus),
        quota_us=_quota_us(text_of(root / "sys/fs/cgroup/cpu.stat")),
        busy_s=all_cpus.user + all_cpus.nice + all_cpus.system + all_cpus.irq + all_cpus.softirq,
        steal_s=all_cpus.steal,
        own_s=own.user + own.system,
        preempted=resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw,
        gpu=None if device == "cpu" else gpu_state(device),
    )


def between(before: Snapshot, after: Snapshot) -> Conditions:
    """From two snapshots of one process."""
    seconds = max(after.at_s - before.at_s, 1e-9)
    busy, stolen = _difference(before.busy_s, after.busy_s), _difference(before.steal_s, after.steal_s)
    others = None if busy is None else max(0.0, (busy - (after.own_s - before.own_s)) / seconds)
    quota = _difference(before.quota_us, after.quota_us)
    clocks = [value for value in (before.mhz, after.mhz) if value is not None]
    throttled, celsius = _difference(before.throttles, after.throttles), None
    if after.gpu is not None:
        clocks = [state[0] for state in (before.gpu, after.gpu) if state is not None]
        throttled, celsius = after.gpu[1] & ~GPU_IDLE, after.gpu[2]
    return Conditions(
        seconds=round(seconds, 4),
        mhz=clocks,
        throttled=throttled,
        quota_s=None if quota is None else quota / 1e6,
        others_cpus=None if others is None else round(others, 3),
        stolen_cpus=None if stolen is None else round(stolen / seconds, 3),
        preempted=after.preempted - before.preempted,
        gpu_celsius=celsius,
    )


def pinning() -> dict[str, str]:
    """What binds threads to processors: the environment's part; the CPUs that may be used are in `Hello.affinity`."""
    return {name: os.environ[name] for name in PINNING_VARIABLES if name in os.environ}


def gpu_state(device: str) -> tuple[float, int, float] | None:
    """MHz, mask of throttle reasons and °C from nvidia-smi; None where it doesn't answer."""
    number = device.partition(":")[2] or "0"
    command = ["nvidia-smi", f"--id={number}", f"--query-gpu={GPU_QUERY}", "--format=csv,noheader,nounits"]
    return parse_gpu_state(output_of(command, NVIDIA_SMI_TIMEOUT_S) or "")


def parse_gpu_state(text: str) -> tuple[float, int, float] | None:
    """ "1980, 0x0000000000000004, 41" as numbers."""
    cells = [cell.strip() for cell in text.strip().split(",")]
    with suppress(ValueError, IndexError):
        return float(cells[0]), int(cells[1], 16), float(cells[2])
    return None


def _clock_mhz(cpus: Collection[int]) -> float | None:
    """Mean over the CPUs that may be used."""
    clocks = [clock.current for cpu, clock in enumerate(psutil.cpu_freq(percpu=True)) if cpu in cpus]
    return sum(clocks) / len(clocks) if clocks else None


def _throttles(root: Path, cpus: Collection[int]) -> int | None:
    folder = root / "sys/devices/system/cpu"
    counts = [text_of(folder / f"cpu{cpu}/thermal_throttle/{kind}_throttle_count") for cpu in cpus for kind in ("core", "package")]
    numbers = [int(count) for count in counts if count.isdigit()]
    return sum(numbers) if numbers else None


def _quota_us(stat: str) -> int | None:
    counters = dict(line.split() for line in stat.splitlines())
    return int(counters["throttled_usec"]) if counters.get("throttled_usec", "").isdigit() else None


NumberT = TypeVar("NumberT", int, float)


def _difference(before: NumberT | None, after: NumberT | None) -> NumberT | None:
    return None if before is None or after is None else after - before
