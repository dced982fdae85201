"""Speed of a loaded model: closed loop and open loop over concurrent instances. The same code for every backend.

An instance is a thread with a session of its own. Closed loop: each instance calls as soon as it has its answer.
Open loop: arrivals are planned beforehand (bytemlperf.arrivals.processes); a free instance takes the next one, waits until it
is due, and calls; latency runs from when it was *due*, so that a busy model can't hide its queue. Inputs are made
before the clock runs and a few different batches take turns.

What an open loop offered: the calls that were due against the process asked for, and the client's own delay.

A call *arrives* when it is due plus the client's own delay: with a free instance until the call, else until the moment
an instance became free and took it (that wait is the model's queue, and belongs to the latency). The test of the gaps
between arrivals and the index of dispersion are those of bytemlperf.arrivals.delivered.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

from bytemlperf.arrivals.delivered import (
    ARRIVAL_ALPHA,
    ARRIVAL_DISTANCE,
    arrival_test,
    count_dispersion,
    expected_dispersion,
    rate_of,
    tail_lateness,
)
from general_perf.backends.contract import Arrays, Session
from general_perf.job.records import PerformanceRecord

WARMUPS = 3
WARMUP_LIMIT_S = 10.0
DIFFERENT_BATCHES = 4
SPIN_NS = 200_000
"""Sleep ends this long before a due time; the rest is spun, since a sleep wakes late."""
REPORT_EVERY_S = 1.0
MAX_SAMPLES = 20_000
"""Latencies kept of one point; a closed loop ends there."""
OVERTIME = 3.0
"""An open loop that falls behind is cut at this many times its planned duration; what is left is dropped."""


@dataclass
class Timed:
    """What one point gave; all ns. An open loop's columns belong together: `due_ns` from the start, `late_ns` the client's own delay."""

    latency_ns: list[int] = field(default_factory=list)
    service_ns: list[int] = field(default_factory=list)
    window_ns: int = 0
    planned: int | None = None
    dropped: int = 0
    due_ns: list[int] = field(default_factory=list)
    late_ns: list[int] = field(default_factory=list)


Progress = Callable[[list[int]], None]
Call = Callable[[int, Session, list[int], int], None]
"""What an instance does: its place, its session, the column that it adds latencies to, and when all began."""


def warm_up(sessions: Sequence[Session], batch: Arrays) -> list[int]:
    """Call every session a few times before anything counts; the first session's durations in ns (a backend that
    compiles for a new shape does it here). A session whose calls took WARMUP_LIMIT_S together gets no more of them: how
    many there were is in the record."""
    first: list[int] = []
    for instance, session in enumerate(sessions):
        started = time.perf_counter()
        for count in range(WARMUPS):
            if count and time.perf_counter() - started > WARMUP_LIMIT_S:
                break
            began = time.perf_counter_ns()
            session.predict(batch)
            if instance == 0:
                first.append(time.perf_counter_ns() - began)
    return first


def closed_loop(
    sessions: Sequence[Session], batches: Sequence[Arrays], seconds: float, iterations: int | None, progress: Progress
) -> Timed:
    """Each instance calls back to back, for `seconds`, or `iterations` times. Raises what a session raises."""
    limit = iterations if iterations is not None else MAX_SAMPLES // len(sessions)
    duration_ns = None if iterations is not None else int(seconds * 1e9)

    def call(instance: int, session: Session, took: list[int], origin_ns: int) -> None:
        for count in range(limit):
            began = time.perf_counter_ns()
            if count and duration_ns is not None and began - origin_ns >= duration_ns:
                return
            session.predict(batches[(instance + count) % len(batches)])
            took.append(time.perf_counter_ns() - began)

    columns, window_ns = _together(sessions, call, progress)
    return Timed(latency_ns=[value for column in columns for value in column], window_ns=window_ns)


def open_loop(sessions: Sequence[Session], batches: Sequence[Arrays], offsets_ns: Sequence[int], progress: Progress) -> Timed:
    """Requests come when they are due, whatever the model does. `offsets_ns` ascend from 0."""
    lock = threading.Lock()
    upcoming = iter(enumerate(offsets_ns))
    columns_of: list[list[tuple[int, int, int]]] = [[] for _ in sessions]
    dropped = 0
    last_ns = int((offsets_ns[-1] if offsets_ns else 0) * OVERTIME) + 1_000_000_000

    def call(instance: int, session: Session, took: list[int], origin_ns: int) -> None:
        nonlocal dropped
        while True:
            with lock:
                index, offset = next(upcoming, (-1, 0))
            if index < 0:
                return
            due, free = origin_ns + offset, time.perf_counter_ns()
            if free - origin_ns > last_ns:
                with lock:
                    dropped += 1
                continue
            _wait_until(due)
            began = time.perf_counter_ns()
            session.predict(batches[index % len(batches)])
            ended = time.perf_counter_ns()
            took.append(ended - due)
            columns_of[instance].append((ended - began, offset, began - max(due, free)))

    columns, window_ns = _together(sessions, call, progress)
    kept = [entry for column in columns_of for entry in column]
    return Timed(
        latency_ns=[value for column in columns for value in column],
        service_ns=[served for served, _, _ in kept],
        window_ns=window_ns,
        planned=len(offsets_ns),
        dropped=dropped,
        due_ns=[due for _, due, _ in kept],
        late_ns=[late for _, _, late in kept],
    )


def _together(sessions: Sequence[Session], call: Call, progress: Progress) -> tuple[list[list[int]], int]:
    """Run `call` for every session in a thread of its own, from one common start; its columns, and the window in ns. Raises what
    a call raises, once all have ended."""
    columns: list[list[int]] = [[] for _ in sessions]
    origins: list[int] = []
    start = threading.Barrier(len(sessions), action=lambda: origins.append(time.perf_counter_ns()))

    def run(instance: int) -> int:
        start.wait()
        call(instance, sessions[instance], columns[instance], origins[0])
        return time.perf_counter_ns()

    reported = [0] * len(columns)

    def report() -> None:
        lengths = [len(column) for column in columns]
        fresh = [value for column, first, last in zip(columns, reported, lengths, strict=True) for value in column[first:last]]
        reported[:] = lengths
        if fresh:
            progress(fresh)

    with ThreadPoolExecutor(len(sessions), thread_name_prefix="instance") as threads:
        futures = [threads.submit(run, instance) for instance in range(len(sessions))]
        while wait(futures, REPORT_EVERY_S).not_done:
            report()
    report()
    return columns, max(future.result() for future in futures) - origins[0]


def _wait_until(due_ns: int) -> None:
    while (left := due_ns - time.perf_counter_ns()) > 0:
        if left > SPIN_NS:
            time.sleep((left - SPIN_NS) / 1e9)


LATE_SHARE = 0.1
"""Of the median latency: so much of it may be the client's own delay, in one call of a hundred."""
LATE_FLOOR_NS = 200_000
"""A client that spins before a due time is this late when the operating system takes its core for a moment."""


def offered(record: PerformanceRecord) -> dict[str, Any] | None:
    """JSON-ready facts of an open loop's record; None for a closed one, and for one kept before due times were.

    Rates in calls/s, times in ns.

    Keys: requested_rate, offered_rate, planned, dropped, gaps, distance, p_value (of the arrival test; None where
    there are too few calls), dispersion, expected_dispersion, late_ns {p50, tail, max}, process.
    """
    if record.loop != "open" or not record.process:
        return None
    late = record.late_ns
    arrived = sorted(due + delay for due, delay in zip(record.due_ns, late, strict=True))
    test = arrival_test(arrived, record.process, record.burstiness, record.requested_rate)
    ordered = sorted(late)
    return {
        "process": record.process,
        "requested_rate": record.requested_rate,
        "offered_rate": rate_of(arrived),
        "planned": record.planned,
        "dropped": record.dropped,
        "gaps": test.gaps if test else None,
        "distance": test.distance if test else None,
        "p_value": test.p_value if test else None,
        "dispersion": count_dispersion(arrived),
        "expected_dispersion": expected_dispersion(record.process, record.burstiness),
        "late_ns": {"p50": ordered[(len(ordered) - 1) // 2], "tail": tail_lateness(late), "max": ordered[-1]} if ordered else None,
    }


def faults(facts: dict[str, Any], median_ns: float | None) -> list[str]:
    """What a reader must know before he takes an open loop's latencies for the model's, in words.

    `median_ns` is the median latency from when a call was due.
    """
    sentences = []
    if facts["dropped"]:
        sentences.append(f"{facts['dropped']} of {facts['planned']} calls were dropped: the rate is above the model's capacity; lower it")
    if facts["distance"] is not None and facts["distance"] > ARRIVAL_DISTANCE and (facts["p_value"] or 0.0) < ARRIVAL_ALPHA:
        sentences.append(f"arrivals are not the target {facts['process']} process (Kolmogorov-Smirnov, D {facts['distance']:.3f})")
    late = (facts["late_ns"] or {}).get("tail")
    limit = max(LATE_FLOOR_NS, LATE_SHARE * (median_ns or 0.0))
    if late is not None and late > limit:
        sentences.append(
            f"the client sent late: one call in a hundred by {late / 1e6:.3g} ms or more (limit {limit / 1e6:.3g} ms); "
            "leave it a core with fewer --threads, or lower the rate"
        )
    return sentences
