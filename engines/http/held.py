"""How much all answers in flight may hold together, beside the limit of each (`http_pool.MAX_RESPONSE_BYTES`).

An honest answer holds some 300 bytes a token until it ends, so that thousands of streams are no trouble. Past `SHARED_BYTES` the largest
answer fails as `too_large` if it is over `LARGE_BYTES` (some 25,000 tokens); past a share of the machine's memory, whatever its size.
Looked at ten times a second and never at a read: between two looks a fast server may send what it can.
"""

from __future__ import annotations

import os
from itertools import accumulate, repeat, takewhile
from typing import Any

SHARED_BYTES = 512 * 1024 * 1024
LARGE_BYTES = 8 * 1024 * 1024
LEAST_MOST_BYTES = 1024 * 1024 * 1024
LOOK_S = 0.1
READ_BYTES = 80
"""What a read costs besides its own bytes."""
KEPT_BYTES = 1 << 20
"""Of an answer that was given up: what it was is told from its beginning."""


def most_bytes() -> int:
    """For answers of any size: a quarter of the machine's memory over its cores, each of which may have a load worker; at least 1 GiB."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(LEAST_MOST_BYTES, memory // (4 * (os.cpu_count() or 1)))


def too_much(all_bytes: int, largest_bytes: int, most: int) -> bool:
    """Whether the largest answer has to go."""
    return all_bytes > most or (all_bytes > SHARED_BYTES and largest_bytes > LARGE_BYTES)


def why(all_bytes: int, own_bytes: int) -> str:
    """For the record of an answer that had to."""
    return f"responses in flight held {all_bytes >> 20} MiB together, this one {own_bytes >> 20} MiB: not enough memory"


def forget(payloads: list[Any]) -> None:
    """Free an answer that was given up, but for its beginning; its reads stay as many, so that each keeps its stamp."""
    sizes = accumulate(len(read) if isinstance(read, bytes) else 0 for read in payloads)
    kept = sum(1 for _ in takewhile(KEPT_BYTES.__ge__, sizes))
    payloads[kept:] = repeat(b"", len(payloads) - kept)
