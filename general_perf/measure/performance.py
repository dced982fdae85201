"""Speed of a loaded model: closed loop and open loop over concurrent instances. The same code for every backend.

An instance is a thread with a session of its own. Closed loop: each instance calls as soon as it has its answer.
Open loop: arrivals are planned beforehand (bytemlperf.arrivals.processes); a free instance takes the next one, waits until it
is due, and calls; latency runs from when it was *due*, so that a busy model can't hide its queue. Inputs are made
before the clock runs and a few different batches take turns.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field

from general_perf.backends.contract import Arrays, Session

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
    for place, session in enumerate(sessions):
        started = time.perf_counter()
        for count in range(WARMUPS):
            if count and time.perf_counter() - started > WARMUP_LIMIT_S:
                break
            began = time.perf_counter_ns()
            session.predict(batch)
            if place == 0:
                first.append(time.perf_counter_ns() - began)
    return first


def closed_loop(
    sessions: Sequence[Session], batches: Sequence[Arrays], seconds: float, iterations: int | None, progress: Progress
) -> Timed:
    """Each instance calls back to back, for `seconds`, or `iterations` times. Raises what a session raises."""
    limit = iterations if iterations is not None else MAX_SAMPLES // len(sessions)
    duration_ns = None if iterations is not None else int(seconds * 1e9)

    def call(place: int, session: Session, took: list[int], origin_ns: int) -> None:
        for count in range(limit):
            began = time.perf_counter_ns()
            if count and duration_ns is not None and began - origin_ns >= duration_ns:
                return
            session.predict(batches[(place + count) % len(batches)])
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

    def call(place: int, session: Session, took: list[int], origin_ns: int) -> None:
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
            columns_of[place].append((ended - began, offset, began - max(due, free)))

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

    def run(place: int) -> int:
        start.wait()
        call(place, sessions[place], columns[place], origins[0])
        return time.perf_counter_ns()

    reported = [0] * len(columns)

    def report() -> None:
        lengths = [len(column) for column in columns]
        fresh = [value for column, first, last in zip(columns, reported, lengths, strict=True) for value in column[first:last]]
        reported[:] = lengths
        if fresh:
            progress(fresh)

    with ThreadPoolExecutor(len(sessions), thread_name_prefix="instance") as threads:
        futures = [threads.submit(run, place) for place in range(len(sessions))]
        while wait(futures, REPORT_EVERY_S).not_done:
            report()
    report()
    return columns, max(future.result() for future in futures) - origins[0]


def _wait_until(due_ns: int) -> None:
    while (left := due_ns - time.perf_counter_ns()) > 0:
        if left > SPIN_NS:
            time.sleep((left - SPIN_NS) / 1e9)
