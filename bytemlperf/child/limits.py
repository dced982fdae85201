"""What this machine leaves to a run, and what processes take of it: memory, and the CPU threads that its user asked for."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

from bytemlperf.lazy import psutil

CGROUP = Path("/sys/fs/cgroup")
RESET_PEAK = "5"  # proc(5), clear_refs
UNKNOWN_MEMORY_BYTES = 4 << 30


def available_memory_bytes() -> int | None:
    """What can be taken without swapping, within the control group's limit (whose files that are only cached can be dropped); None
    where it can't be told."""
    bounds = []
    with suppress(OSError, RuntimeError, ValueError):
        bounds.append(int(psutil.virtual_memory().available))
    with suppress(OSError, ValueError):  # "max" is no number
        bounds.append(int((CGROUP / "memory.max").read_text()) - int((CGROUP / "memory.current").read_text()))
        cached = re.search(r"^inactive_file (\d+)$", (CGROUP / "memory.stat").read_text(), re.M)
        bounds[-1] += int(cached[1]) if cached else 0
    return min(bounds) if bounds else None


def memory_to_plan_with() -> int:
    """What can be taken without swapping; 4 GiB where it can't be told."""
    found = available_memory_bytes()
    return UNKNOWN_MEMORY_BYTES if found is None else found


def reset_peak() -> bool:
    """Start this process's peak anew from what is resident now. False where the kernel doesn't let us."""
    try:
        Path("/proc/self/clear_refs").write_text(RESET_PEAK)
    except OSError:
        return False
    return True


def peak_bytes() -> int | None:
    """Peak resident bytes of this process since the last reset, which neither getrusage nor psutil knows of."""
    with suppress(OSError, ValueError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return None


def resident_bytes(pid: int | None = None) -> int:
    """Resident bytes of a process (of this one where none is named) now; what has ended has none."""
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0


def tree_bytes(pid: int) -> int:
    """Resident bytes of a process and its descendants now.

    The kernel's own list of children: psutil looks at every process of the machine (4 ms for a hundred, a hundred times as long).
    """
    total = resident_bytes(pid)
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError, ValueError):
                total += sum(tree_bytes(int(child)) for child in (task / "children").read_text().split())
    return total


def machine_busy_s() -> float:
    """Seconds that all cores together have worked."""
    times = psutil.cpu_times()
    return float(sum(getattr(times, name, 0.0) for name in ("user", "nice", "system", "irq", "softirq", "steal")))


def threads_asked_for() -> int | None:
    """`$OMP_NUM_THREADS`, of the outermost level; None where it isn't set, or is no number above 0."""
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(asked) if asked.isdigit() and int(asked) else None


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads_for(count: int) -> int:
    """CPU threads of each of so many that compute beside each other: `$OMP_NUM_THREADS`, else this machine's cores, shared out."""
    return threads_asked_for() or max(1, usable_cores() // count)
