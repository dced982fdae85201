"""Host memory of a process, from /proc: peak of this process since a reset, and of a whole tree of processes now."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from bytemlperf.child.limits import available_memory_bytes

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
RESET_PEAK = "5"  # proc(5), clear_refs


def reset_peak() -> bool:
    """Start the peak anew from what is resident now. False where the kernel doesn't let us."""
    try:
        Path("/proc/self/clear_refs").write_text(RESET_PEAK)
    except OSError:
        return False
    return True


def peak_bytes() -> int | None:
    """Peak resident bytes of this process since the last reset."""
    with suppress(OSError, ValueError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return None


def tree_bytes(pid: int) -> int:
    """Resident bytes of a process and its descendants now; what has ended counts nothing."""
    total = 0
    with suppress(OSError, ValueError, IndexError):
        total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError, ValueError):
                total += sum(tree_bytes(int(child)) for child in (task / "children").read_text().split())
    return total


def available_bytes() -> int:
    """Memory that can be had without swapping; 4 GiB where the kernel doesn't say."""
    found = available_memory_bytes()
    return 4 << 30 if found is None else found
