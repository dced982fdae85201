"""Which addresses a process and its descendants listen at: /proc's own tables, no library."""

from __future__ import annotations

import os
import subprocess
import time
from contextlib import suppress
from pathlib import Path

LISTENING = "0A"
POLL_S = 0.05
LOOPBACK = ("0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F")
"""127.0.0.1, ::1 and ::ffff:127.0.0.1 as the kernel prints them."""


def tree(pid: int) -> set[int]:
    """A process and all that come from it, as far as they have not been orphaned."""
    found, left = {pid}, [pid]
    while left:
        with suppress(OSError):
            for path in Path(f"/proc/{left.pop()}/task").glob("*/children"):
                new = {int(child) for child in path.read_text().split()} - found
                found |= new
                left += new
    return found


def listeners(pid: int) -> set[str]:
    """Addresses (hexadecimal, as in /proc/net/tcp) at which the tree of `pid` listens now."""
    inodes = set()
    for each in tree(pid):
        with suppress(OSError):
            for entry in os.scandir(f"/proc/{each}/fd"):
                with suppress(OSError):
                    inodes.add(os.readlink(entry.path))
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    return {row[1] for row in rows if row[3] == LISTENING and f"socket:[{row[9]}]" in inodes}


def watched(command: list[str], folder: Path, timeout_s: float = 240) -> tuple[int, set[str], str]:
    """Run it in `folder` to its end: exit status, every address that its tree listened at meanwhile, what it printed."""
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    seen: set[str] = set()
    ends = time.monotonic() + timeout_s
    try:
        while process.poll() is None and time.monotonic() < ends:
            seen |= listeners(process.pid)
            time.sleep(POLL_S)
    finally:
        process.kill()
        out, _ = process.communicate()
    return process.returncode, seen, out


def beyond_loopback(addresses: set[str]) -> set[str]:
    """Those that other machines can reach."""
    return {address for address in addresses if address.partition(":")[0] not in LOOPBACK}
