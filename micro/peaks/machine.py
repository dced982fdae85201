"""What of the machine bounds a sweep: its last-level cache, its cores; how memory is handed out."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Set
from contextlib import suppress
from pathlib import Path
from typing import TypedDict

from bytemlperf.child.limits import CGROUP, threads_asked_for
from bytemlperf.hardware.devices import text_of
from bytemlperf.lazy import torch

CPUS = Path("/sys/devices/system/cpu")
NODES = Path("/sys/devices/system/node")
UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
DEFAULT_CACHE_BYTES = 64 << 20
GPU_CACHE_BYTES = 128 << 20
"""Larger than the L2 of any GPU of 2024 (GB200 has 126 MB)."""

MEMORY_SHARE = 0.8
FROM_ENVIRONMENT = "OMP_NUM_THREADS"
KEPT_BLOCKS = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 62), "MALLOC_TOP_PAD_": str(64 << 20)}
"""glibc's settings with which a freed block stays with the process. By default blocks from 32 MiB on come from the kernel
at each call and go back to it, so that a kernel that returns a new tensor is timed with a page fault for every 4 KiB of it."""


class DeviceFacts(TypedDict):
    """Fields of `micro.measure.messages.Hello`."""

    device_name: str
    device_memory_bytes: int


def allocation() -> str:
    """How this process hands out memory on the CPU, in words: part of what a latency means."""
    if os.environ.get("LD_PRELOAD"):
        return f"LD_PRELOAD={os.environ['LD_PRELOAD']}"
    kept = all(os.environ.get(name) == value for name, value in KEPT_BLOCKS.items())
    if kept and platform.libc_ver()[0] == "glibc":
        return "glibc, freed blocks are kept for the next call"
    return "the system's default, large blocks may be new at each call"


def give_back_memory() -> None:
    """Return to the system what `KEPT_BLOCKS` has kept: between cases, never while one is timed."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def device_facts(device: str) -> DeviceFacts:
    """Of a GPU its name and memory; of a CPU no memory: it is the machine's."""
    if not device.startswith("cuda"):
        return {"device_name": "CPU", "device_memory_bytes": 0}
    properties = torch.cuda.get_device_properties(device)
    return {"device_name": properties.name, "device_memory_bytes": int(properties.total_memory)}


def last_level_cache_bytes(threads: int = 0, cpus: Path = CPUS, usable: Set[int] | None = None) -> int:
    """Of all last-level caches of the CPUs that this process may use, or of as many as there are threads (0: all), in
    bytes; 64 MiB where the kernel doesn't say."""
    sizes: dict[str, int] = {}
    for cpu in sorted(os.sched_getaffinity(0) if usable is None else usable):
        caches = cpus / f"cpu{cpu}/cache"
        size, path = max(((_size(text_of(path)), path) for path in caches.glob("index*/size")), default=(0, caches))
        sizes[text_of(path.parent / "shared_cpu_list") or str(cpu)] = size
    return sum(sorted(sizes.values(), reverse=True)[: threads or None]) or DEFAULT_CACHE_BYTES


def default_threads(usable: Set[int] | None = None, cpus: Path = CPUS, nodes: Path = NODES, cgroup: Path = CGROUP) -> tuple[int, str]:
    """Threads of CPU kernels when none are asked for, and where the number comes from.

    `$OMP_NUM_THREADS` where it is set; else one for each physical core that this process may use, within the
    container's quota: a second thread on a core shares its arithmetic units, and one beyond the quota is stopped.
    """
    threads = threads_asked_for()
    if threads is not None:
        return threads, FROM_ENVIRONMENT
    usable = os.sched_getaffinity(0) if usable is None else usable
    cores = {text_of(cpus / f"cpu{cpu}/topology/thread_siblings_list") or str(cpu) for cpu in usable}
    quota, _, period = text_of(cgroup / "cpu.max").partition(" ")
    if quota.isdigit() and period.isdigit() and int(quota) < len(cores) * int(period):
        return max(1, int(quota) // int(period)), "the container's quota"
    on = sum(1 for node in nodes.glob("node[0-9]*") if _cpu_list(text_of(node / "cpulist")) & usable)
    return max(1, len(cores)), "physical cores" + (f", on {on} NUMA nodes" if on > 1 else "")


def _cpu_list(text: str) -> set[int]:
    """ "0-3,8" as numbers."""
    cpus: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        if first.isdigit():
            cpus.update(range(int(first), int(last or first) + 1))
    return cpus


def _size(text: str) -> int:
    """ "32768K" as bytes, 0 where it is no size."""
    number, unit = (text[:-1], UNITS[text[-1]]) if text and text[-1] in UNITS else (text, 1)
    return int(number) * unit if number.isdigit() else 0
