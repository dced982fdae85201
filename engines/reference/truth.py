"""The reference server's account of what it did: when each request came and went, and how late it wrote."""

from __future__ import annotations

import time
from array import array

import msgspec

MAX_REQUESTS = 100_000
"""The oldest accounts are dropped past this many."""

MAX_ERRORS = 1 << 17
"""Write errors are kept for this many of the latest writes."""

PERMILLE = {"p50": 500, "p90": 900, "p99": 990, "p99.9": 999}


class Account(msgspec.Struct, gc=False):
    """One request, stamped in ns of CLOCK_MONOTONIC; a stamp is taken right after its write."""

    arrival_ns: int
    status: int = 200
    first_write_ns: int | None = None
    last_write_ns: int | None = None
    tokens: int = 0
    done: bool = False


class Truth:
    """Accounts by request id (the last one, where an id came twice), and totals."""

    def __init__(self) -> None:
        self.numbered = 0  # never reset: answers keep their own ids
        self.reset()

    def reset(self) -> None:
        self.accounts: dict[str, Account] = {}
        self.requests = 0
        self.aborted = 0
        self.buffered_writes = 0
        self.writes = 0
        self.tokens = 0
        self._errors_ns = array("q", bytes(8 * MAX_ERRORS))
        self._max_error_ns = 0
        self._cpu_s_before = time.process_time()

    def open(self, request_id: str, account: Account) -> None:
        self.requests += 1
        if len(self.accounts) >= MAX_REQUESTS:
            del self.accounts[next(iter(self.accounts))]
        self.accounts[request_id] = account

    def wrote(self, error_ns: int, tokens: int) -> None:
        """One write of the schedule left `error_ns` after it was due."""
        self._errors_ns[self.writes & (MAX_ERRORS - 1)] = error_ns
        self.writes += 1
        self.tokens += tokens
        if error_ns > self._max_error_ns:
            self._max_error_ns = error_ns

    def report(self) -> dict[str, object]:
        """What `/stats` tells. Percentiles are nearest-rank over the latest `MAX_ERRORS` writes."""
        totals = {
            "requests": self.requests,
            "aborted": self.aborted,
            "tokens": self.tokens,
            "writes": self.writes,
            "buffered_writes": self.buffered_writes,
            "cpu_s": time.process_time() - self._cpu_s_before,
        }
        return {"totals": totals, "write_error_us": self._write_errors(), "requests": self.accounts}

    def _write_errors(self) -> dict[str, float | int]:
        errors = sorted(self._errors_ns[: min(self.writes, MAX_ERRORS)])
        if not errors:
            return {"count": 0}
        ranks = {name: errors[-(-len(errors) * permille // 1000) - 1] / 1e3 for name, permille in PERMILLE.items()}
        return {"count": len(errors), **ranks, "max": self._max_error_ns / 1e3}
