"""What the processor computes in hardware, and the share of it that an engine takes."""

from __future__ import annotations

import os
from pathlib import Path

CPU_BFLOAT16_FLAGS = ("avx512_bf16", "amx_bf16", "bf16")
"""Names in /proc/cpuinfo of bfloat16 arithmetic: x86 `flags`, Arm `Features`."""


def cpu_bfloat16_flag(cpuinfo: Path = Path("/proc/cpuinfo")) -> str | None:
    """The flag that says this CPU multiplies bfloat16 in hardware, or None."""
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    flags = {word for line in text.splitlines() if line.startswith(("flags", "Features")) for word in line.split(":", 1)[-1].split()}
    return next((flag for flag in CPU_BFLOAT16_FLAGS if flag in flags), None)


def cores_but_one() -> int:
    """What an engine or a client's workers take: one core is left to the event loop, and to the rest of the machine."""
    return max(1, len(os.sched_getaffinity(0)) - 1)
