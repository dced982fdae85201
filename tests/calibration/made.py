"""Calibrations made of stated numbers."""

from __future__ import annotations

from typing import Any

from bytemlperf_llm.metrics.client_error import Calibration, CalibrationStep, Spread, Timer

MS = 1_000_000


def errors(p50_ms: float, p99_ms: float, count: int = 100) -> Spread:
    return Spread(count=count, p50_ns=round(p50_ms * MS), p99_ns=round(p99_ms * MS), max_ns=round(p99_ms * 2 * MS))


def step(rate: float, **changes: Any) -> CalibrationStep:
    """A step that holds: 32 tokens a request, a third of a second each."""
    exact = errors(0.1, 1.0)
    fields: dict[str, Any] = {
        "rate_asked": rate,
        "rate_offered": rate,
        "requests": round(rate * 5),
        "unmatched": 0,
        "streams": rate * 0.36,
        "chunks_per_s": rate * 32,
        "tokens_per_s": rate * 32,
        "loop_busy": 0.2,
        "server_busy": 0.2,
        "others_busy": 0.01,
        **dict.fromkeys(("lateness", "ttft", "tpot", "itl", "e2e", "server_write"), exact),
    }
    return CalibrationStep(**(fields | changes))


def calibration(*steps: CalibrationStep, **changes: Any) -> Calibration:
    fields: dict[str, Any] = {
        "made_at": "2030-01-01T00:00:00+00:00",
        "machine": {"cpu": "a", "cores": "2"},
        "ttft_ns": 50 * MS,
        "itl_ns": 10 * MS,
        "tokens": 32,
        "timer": Timer(resolution_ns=1, tick_ns=40, overshoot=errors(0.05, 0.2)),
        "steps": steps,
    }
    return Calibration(**(fields | changes))
