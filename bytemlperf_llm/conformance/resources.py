"""Whether many requests leave something behind, and whether all is given back at the end."""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

from bytemlperf.lazy import psutil
from bytemlperf_llm.conformance.subject import Asked, Lacks, Untold, until

AT_ONCE = 8
MOST_ROUNDS = 4
LEAK_BYTES, LEAK_BYTES_A_REQUEST = 16 << 20, 32 << 10
"""What memory may grow by: allocators and caches grow without a leak, too."""
LEAK_HANDLES = 16
MIB = 1 << 20


class Held(NamedTuple):
    """By all processes of an engine: resident bytes, open files, threads."""

    resident_bytes: int
    files: int
    threads: int


def held_by(processes: list[Any]) -> Held:
    totals = [0, 0, 0]
    for process in processes:
        try:
            with process.oneshot():
                taken = (process.memory_info().rss, process.num_fds(), process.num_threads())
        except psutil.Error:
            continue
        totals = [total + each for total, each in zip(totals, taken, strict=True)]
    return Held(*totals)


async def leaks_nothing(asked: Asked, requests: int) -> str:
    """So many requests, of which the second half is judged; where that grows, up to four times as many, as a pool that fills comes to its
    end and a leak doesn't."""
    if not requests:
        raise Untold("left out: --requests 0")
    if not held_by(asked.processes()).files:
        raise Untold("the server's processes are not this user's, or not on this machine")
    await _send(asked, requests - requests // 2)
    judged = requests // 2
    for rounds in range(1, MOST_ROUNDS + 1):
        before = held_by(asked.processes())
        await _send(asked, judged)
        after = held_by(asked.processes())
        grown, files, threads = (now - then for now, then in zip(after, before, strict=True))
        found = f"memory {grown / MIB:+.1f} MiB, files {files:+}, threads {threads:+}, last {judged:,} of {rounds * requests:,} requests"
        if grown <= max(LEAK_BYTES, LEAK_BYTES_A_REQUEST * judged) and max(files, threads) <= LEAK_HANDLES:
            return found
        judged = requests
    raise Lacks(found)


async def _send(asked: Asked, requests: int) -> None:
    left = iter(range(requests))

    async def some() -> None:
        for _ in left:
            await asked.ask(max_tokens=2)

    await asyncio.gather(*(some() for _ in range(AT_ONCE)))


async def closes_clean(asked: Asked, before: set[int]) -> str:
    """Once it is closed: closing again, and no process of its left. `before` are the children that there were at the start."""
    try:
        await asked.engine.close()
    except Exception as error:  # whatever an engine raises here, it may not
        raise Lacks(f"a second close raised {type(error).__name__}: {error}") from None
    if not await until(lambda: not children() - before, 10):
        left = [" ".join(psutil.Process(pid).cmdline()[:3]) for pid in children() - before]
        raise Lacks(f"{len(left)} of its processes are left: {left[0]}" if left else "its processes ended late")
    return "no process is left, and closing again is allowed"


def children() -> set[int]:
    """Ids of the processes below this one; not of multiprocessing's own tracker, which ends with this process."""
    return {child.pid for child in psutil.Process().children(recursive=True) if not _is_tracker(child)}


def _is_tracker(process: Any) -> bool:
    try:
        return any("multiprocessing.resource_tracker" in word for word in process.cmdline())
    except psutil.Error:
        return True  # it has ended
