"""What of the machine bounds a sweep: its last-level cache and its free memory."""

from __future__ import annotations

from pathlib import Path

CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")
UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
DEFAULT_CACHE_BYTES = 64 << 20
GPU_CACHE_BYTES = 128 << 20
"""Larger than the L2 of any GPU of 2024 (GB200 has 126 MB)."""

MEMORY_SHARE = 0.8


def last_level_cache_bytes(folder: Path = CACHES) -> int:
    """Of the first CPU, in bytes; 64 MiB where the kernel doesn't say."""
    sizes = [_size(path) for path in folder.glob("index*/size")]
    return max(sizes, default=0) or DEFAULT_CACHE_BYTES


def available_memory_bytes(meminfo: Path = MEMINFO, cgroup: Path = CGROUP) -> int | None:
    """What can be taken without swapping, within the control group's limit; None where it can't be told."""
    bounds = []
    try:
        fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
        bounds.append(int(fields["MemAvailable"].split()[0]) * 1024)
    except (OSError, KeyError, ValueError):
        pass
    try:
        limit = (cgroup / "memory.max").read_text().strip()
        if limit.isdigit():
            bounds.append(int(limit) - int((cgroup / "memory.current").read_text()))
    except (OSError, ValueError):
        pass
    return min(bounds) if bounds else None


def _size(path: Path) -> int:
    try:
        text = path.read_text().strip()
        return int(text[:-1]) * UNITS[text[-1]] if text and text[-1] in UNITS else int(text or 0)
    except (OSError, ValueError):
        return 0
