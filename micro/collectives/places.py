"""Where a silent rank is: stopped, inside a collective (it waits for others), or somewhere of its own."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from bytemlperf.child import ranks

STOPPED = ("T", "t")
"""States of a process in /proc that SIGSTOP or a debugger has stopped."""


class Place(NamedTuple):
    """`text` goes on from "rank 1"; `waits` where it is inside torch.distributed."""

    text: str
    waits: bool = False


def place_of(pid: int, dump: Path) -> Place:
    """From the process's state and the stack that faulthandler wrote."""
    if state(pid) in STOPPED:
        return Place("is stopped (SIGSTOP)")
    with suppress(OSError):
        return innermost(dump.read_text(encoding="utf-8", errors="replace"))
    return Place("hangs")


def innermost(dump: str) -> Place:
    """The innermost frame of the last stack in a dump."""
    frame = ranks.innermost(dump)
    if frame is None:
        return Place("hangs outside Python")
    if "torch/distributed/" in frame.path.as_posix():
        return Place(f"waits in {frame.function}", waits=True)
    return Place(f"hangs in {frame.path.name}:{frame.line} ({frame.function})")


def state(pid: int) -> str:
    """The letter in /proc/PID/stat, "" where there is none."""
    with suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    return ""
