"""Records of studies: one for each run or prediction. Times are nanoseconds."""

from __future__ import annotations

import msgspec


class PointRecord(msgspec.Struct, frozen=True, kw_only=True, tag="point", tag_field="record"):
    """A run of a scaling study. `step_ns` are the measured steps on the slowest rank; `parts_ns` means over
    steps and ranks; `alone` its collectives by themselves: (op, bytes, bus_bytes, median ns)."""

    ranks: int
    run: str
    verdict: str
    samples: int
    tokens: int
    step_ns: list[int]
    parts_ns: dict[str, float]
    hidden_share: float | None
    traffic: list[tuple[str, int, int]]
    alone: list[tuple[str, int, int, float]]
    reasons: list[str] = []


class PredictionRecord(msgspec.Struct, frozen=True, kw_only=True, tag="prediction", tag_field="record"):
    """A predicted step: its parts, and what was measured where the study has such a run."""

    ranks: int
    samples: int
    tokens: int
    step_ns: float
    compute_ns: float
    fixed_ns: float
    communication_ns: float
    contention: float
    measured_ns: float | None
    error: float | None


class CurveRecord(msgspec.Struct, frozen=True, kw_only=True, tag="curve", tag_field="record"):
    """A run of a precision study."""

    precision: str
    run: str
    verdict: str
    losses: list[float]
    step_ns: list[int]
    reasons: list[str] = []


StudyRecord = PointRecord | PredictionRecord | CurveRecord
