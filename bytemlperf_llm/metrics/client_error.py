"""The client measurement error: what a calibration found on this machine, and what of it a run carries.

A calibration is a ladder of steps: at each, a server that stamps its own writes was asked so many
requests a second, and the client's stamps were compared with the server's. A run's error bar is
that of the lowest step with at least the run's chunks per second and streams on each worker: an
upper estimate, since the error grows with both. Pure functions of numbers; `bytemlperf_llm.calibration.ladder`
measures, `bytemlperf_llm.calibration.cache` keeps.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from bytemlperf.units import NS_PER_MS
from bytemlperf_llm.metrics.verdict import LATENESS_FLOOR_NS, LATENESS_TTFT_SHARE

MEDIAN_LIMIT_NS = NS_PER_MS // 2
P99_LIMIT_NS = 2 * NS_PER_MS
P99_LIMIT_SHARE = 0.01  # of the latency itself, where that is more
MAX_OTHERS_BUSY = 0.1  # of the machine; more, and the error is theirs as well
MAX_LOOP_BUSY = 0.5  # past it a stamp waits, in the mean, as long as it takes

COMMAND = "bmp-llm doctor --calibrate"


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """Nearest-rank percentiles of magnitudes, ns; `count` values."""

    count: int
    p50_ns: int
    p99_ns: int
    max_ns: int


class CalibrationStep(msgspec.Struct, frozen=True, kw_only=True):
    """One rung. Errors are magnitudes of client stamp − server stamp, one value for each request,
    and for ITL one for each gap, against the gap asked for: the server's unevenness is in it.

    Rates are in 1/s, `streams` is the mean number in flight, busy shares are of one core, but
    `others_busy`, what other processes used, is of the whole machine (None where it can't be told).
    `server_write` is how late the server itself wrote against its own schedule; since its stamps
    are taken after the write, that is in none of the errors but ITL's. `unmatched` requests failed or are
    unknown to the server. `saturated` names what gave out: "client", "server", "machine" (other processes) or nothing.
    """

    rate_asked: float
    rate_offered: float
    requests: int
    unmatched: int
    streams: float
    chunks_per_s: float
    tokens_per_s: float
    loop_busy: float
    server_busy: float
    others_busy: float | None
    lateness: Spread
    ttft: Spread
    tpot: Spread
    itl: Spread
    e2e: Spread
    server_write: Spread
    saturated: str = ""


class Timer(msgspec.Struct, frozen=True, kw_only=True):
    """`resolution_ns` as the kernel states it, `tick_ns` the smallest step seen between two stamps,
    `overshoot` how long after the instant waited for the pacer returned."""

    resolution_ns: int
    tick_ns: int
    overshoot: Spread


class Calibration(msgspec.Struct, frozen=True, kw_only=True):
    """What was found, by whom and when. Latencies are what the server was asked to keep."""

    made_at: str
    machine: dict[str, str]
    ttft_ns: int
    itl_ns: int
    tokens: int
    timer: Timer
    steps: tuple[CalibrationStep, ...]


class ClientError(msgspec.Struct, frozen=True, kw_only=True):
    """The error bar of one run, in milliseconds; all None without a calibration, and `note` says why.

    `chunks_per_s` and `streams` are the run's, for each worker; `at_chunks_per_s` and `at_streams`
    those of the step that the figures come from.
    """

    note: str
    chunks_per_s: float | None = None
    streams: float | None = None
    at_chunks_per_s: float | None = None
    at_streams: float | None = None
    ttft_p50_ms: float | None = None
    ttft_p99_ms: float | None = None
    tpot_p50_ms: float | None = None
    tpot_p99_ms: float | None = None
    e2e_p50_ms: float | None = None
    e2e_p99_ms: float | None = None


def spread(values_ns: Sequence[int]) -> Spread:
    """Of magnitudes: signs are dropped. Zeros for no values."""
    ordered = sorted(map(abs, values_ns))
    if not ordered:
        return Spread(count=0, p50_ns=0, p99_ns=0, max_ns=0)
    count = len(ordered)
    return Spread(count=count, p50_ns=ordered[-(-count // 2) - 1], p99_ns=ordered[-(-99 * count // 100) - 1], max_ns=ordered[-1])


# -- the ceiling ---------------------------------------------------------------------------


def holds(step: CalibrationStep, calibration: Calibration) -> bool:
    """Whether figures at this step may be believed: every request answered and kept to its time, the
    loop at most half busy, sent late by no more than the verdict allows, median error at most 0.5 ms and p99 at most 2 ms or 1 %."""
    e2e_ns = calibration.ttft_ns + (calibration.tokens - 1) * calibration.itl_ns
    judged = ((step.ttft, calibration.ttft_ns), (step.tpot, calibration.itl_ns), (step.e2e, e2e_ns))
    exact = all(
        error.p50_ns <= MEDIAN_LIMIT_NS and error.p99_ns <= max(P99_LIMIT_NS, P99_LIMIT_SHARE * latency_ns) for error, latency_ns in judged
    )
    return exact and in_time(step, calibration) and step.loop_busy <= MAX_LOOP_BUSY and not step.unmatched and not step.saturated


def in_time(step: CalibrationStep, calibration: Calibration) -> bool:
    """Whether a run that sends so late would be valid: its figures may be exact, its load isn't the one asked for."""
    return step.lateness.p99_ns <= max(LATENESS_FLOOR_NS, LATENESS_TTFT_SHARE * calibration.ttft_ns)


def others_busy(calibration: Calibration) -> float:
    """The largest share of the machine that other processes used during a step."""
    return max((step.others_busy or 0.0 for step in calibration.steps), default=0.0)


def ceiling(calibration: Calibration) -> CalibrationStep | None:
    """The highest step that holds; None when not even the lowest does."""
    return max((step for step in calibration.steps if holds(step, calibration)), key=lambda step: step.chunks_per_s, default=None)


# -- the error bar --------------------------------------------------------------------------


def error_bar(calibration: Calibration | None, why_not: str, chunks_per_s: float | None, streams: float | None) -> ClientError:
    """The error at the run's load on each worker. `why_not` is the note where there is no calibration."""
    if calibration is None:
        return ClientError(note=why_not, chunks_per_s=chunks_per_s, streams=streams)
    if chunks_per_s is None or streams is None:
        return ClientError(note="no chunks arrived")
    above = sorted((step for step in calibration.steps if step.chunks_per_s >= chunks_per_s), key=lambda step: step.chunks_per_s)
    if not above:
        highest = max((step.chunks_per_s for step in calibration.steps), default=0.0)
        note = f"outside the calibrated range: {chunks_per_s:,.0f} chunks/s on a worker, calibrated up to {highest:,.0f}; use more workers"
        return ClientError(note=note, chunks_per_s=chunks_per_s, streams=streams)
    step = next((step for step in above if step.streams >= streams), above[-1])
    note = "" if step.streams >= streams else f"calibrated with {step.streams:,.0f} streams on a worker, the run had {streams:,.0f}"
    errors = {
        f"{name}_{part}_ms": getattr(getattr(step, name), f"{part}_ns") / NS_PER_MS
        for name in ("ttft", "tpot", "e2e")
        for part in ("p50", "p99")
    }
    where = {"chunks_per_s": chunks_per_s, "streams": streams, "at_chunks_per_s": step.chunks_per_s, "at_streams": step.streams}
    return ClientError(note=note, **where, **errors)


def sentence(error: ClientError) -> str:
    """For the final table."""
    if error.ttft_p50_ms is None or error.tpot_p50_ms is None or error.e2e_p50_ms is None:
        return error.note
    figures = (
        ("TTFT", error.ttft_p50_ms, error.ttft_p99_ms),
        ("TPOT", error.tpot_p50_ms, error.tpot_p99_ms),
        ("E2E", error.e2e_p50_ms, error.e2e_p99_ms),
    )
    text = ", ".join(f"{name} ± {median:.2g} ms (p99 {tail:.2g})" for name, median, tail in figures)
    return f"{text}, as calibrated at {error.at_chunks_per_s:,.0f} chunks/s" + (f"; {error.note}" if error.note else "")
