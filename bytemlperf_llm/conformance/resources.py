"""Whether many requests leave something behind, and whether all is given back at the end."""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

from bytemlperf.lazy import psutil
from bytemlperf_llm.conformance.subject import Asked, Lacks, Untold, until

AT_ONCE = 8
FIRST_SHARE = 0.5
"""Of the requests, that fill caches and pools and don't count."""
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
    if not requests:
        raise Untold("left out: --requests 0")
    if not held_by(asked.processes()).files:
        raise Untold("the server's processes are not this user's, or not on this machine")
    first = round(FIRST_SHARE * requests)
    await _send(asked, first)
    before = held_by(asked.processes())
    await _send(asked, requests - first)
    after = held_by(asked.processes())
    grown = after.resident_bytes - before.resident_bytes
    found = f"memory {grown / MIB:+.1f} MiB, files {after.files - before.files:+}, threads {after.threads - before.threads:+}"
    leaked = grown > max(LEAK_BYTES, LEAK_BYTES_A_REQUEST * (requests - first))
    if leaked or max(after.files - before.files, after.threads - before.threads) > LEAK_HANDLES:
        raise Lacks(f"{found} over {requests - first:,} requests")
    return f"{found} over {requests - first:,} of {requests:,} requests"


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
        raise Lacks(f"{len(children() - before)} of its processes are left")
    return "no process is left, and closing again is allowed"


def children() -> set[int]:
    """Ids of the processes below this one."""
    return {child.pid for child in psutil.Process().children(recursive=True)}
