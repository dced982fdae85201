"""Run a command with everything it starts, pinned and time-boxed, and account for all of it.

The benchmark is made the parent of orphans (PR_SET_CHILD_SUBREAPER), so that the processor time of
every process that the command started is in what wait4 returns, once it has ended. Peak memory is the
largest sum of proportional set sizes (PSS: shared pages are counted once) seen, twice a second.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

PR_SET_CHILD_SUBREAPER = 36
STEP_S = 0.1
MEMORY_STEP_S = 0.5
GRACE_S = 5.0


class Ended(NamedTuple):
    """`status` None: it did not finish within the limit, and was stopped. `peak_mb` of all processes, 10⁶ bytes."""

    status: int | None
    wall_s: float
    cpu_s: float
    peak_mb: float


def run(command: Sequence[str], core: int, folder: Path, variables: Mapping[str, str], limit_s: float, memory: bool) -> Ended:
    """Run in `folder`, where `stdout` and `stderr` are left."""
    adopt(True)
    strangers = set(descendants(os.getpid()))
    try:
        return _run(command, core, folder, variables, limit_s, memory, strangers)
    finally:  # nothing is left to do but where this was interrupted
        _reap(strangers, 0.0)
        adopt(False)


def adopt(orphans: bool) -> None:
    """Whether this process becomes the parent of orphans below it."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, int(orphans), 0, 0, 0)


def _run(
    command: Sequence[str], core: int, folder: Path, variables: Mapping[str, str], limit_s: float, memory: bool, strangers: set[int]
) -> Ended:
    begin_s, next_memory_s, peak_mb = time.monotonic(), 0.0, 0.0
    with (folder / "stdout").open("w") as out, (folder / "stderr").open("w") as err:
        process = subprocess.Popen(
            list(command),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env=dict(variables),
            start_new_session=True,
            preexec_fn=lambda: _prepare(core),
        )
        pid, status, used = 0, 0, None
        while pid == 0 and time.monotonic() - begin_s < limit_s:
            time.sleep(STEP_S)
            if memory and time.monotonic() >= next_memory_s:
                next_memory_s = time.monotonic() + MEMORY_STEP_S
                peak_mb = max(peak_mb, _memory_mb(set(descendants(os.getpid())) - strangers))
            pid, status, used = os.wait4(process.pid, os.WNOHANG)
    wall_s, finished = time.monotonic() - begin_s, pid != 0
    cpu_s = used.ru_utime + used.ru_stime if finished and used else 0.0
    if finished:
        process.returncode = os.waitstatus_to_exitcode(status)
    cpu_s += _reap(strangers, GRACE_S if finished else 0.0)
    return Ended(process.returncode if finished else None, wall_s, cpu_s, peak_mb)


def _prepare(core: int) -> None:
    os.sched_setaffinity(0, {core})
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _reap(strangers: set[int], grace_s: float) -> float:
    """Wait for what the command left running; past `grace_s` end it. Returns its processor time."""
    cpu_s, end_s = 0.0, time.monotonic() + grace_s
    while left := set(descendants(os.getpid())) - strangers:
        if time.monotonic() >= end_s:
            for pid in left:
                _signal(pid)
        for pid in left:
            try:
                found, _, used = os.wait4(pid, os.WNOHANG)
            except ChildProcessError:  # its parent is still there: it's not ours yet
                continue
            if found:
                cpu_s += used.ru_utime + used.ru_stime
        time.sleep(STEP_S)
    return cpu_s


def _signal(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:  # it ended meanwhile
        return


def descendants(root: int) -> Iterable[int]:
    """Pids of all processes below `root`."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it ended meanwhile
                continue
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    waiting = [root]
    while waiting:
        below = children.get(waiting.pop(), [])
        yield from below
        waiting += below


def _memory_mb(pids: Iterable[int]) -> float:
    total_kb = 0
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:  # it ended meanwhile
            continue
        total_kb += next((int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")), 0)
    return total_kb * 1024 / 1e6
