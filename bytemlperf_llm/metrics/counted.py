"""What the engine itself counted during the measured part: the differences of its counters and histograms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from engines.contract import Counted

PART = "counted"


def counted_of(run: Mapping[str, Any]) -> Counted:
    """`counted` of run.json; empty where the engine counts nothing. Raises msgspec.ValidationError."""
    return msgspec.convert(run.get(PART) or {}, Counted)


def total(counted: Counted, name: str) -> float | None:
    """Of a count over all servers; None where none has it."""
    counts = [count for known, count in counted.counts.items() if known == name or known.endswith(f"_{name}")]
    return sum(counts) if counts else None
