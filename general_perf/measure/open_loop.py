"""What an open loop offered: the calls that were due against the process asked for, and the client's own delay.

A call *arrives* when it is due plus the client's own delay: with a free instance until the call, else until the moment
an instance became free and took it (that wait is the model's queue, and belongs to the latency). The test of the gaps
between arrivals and the index of dispersion are those of bytemlperf.arrivals.delivered.
"""

from __future__ import annotations

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
from general_perf.job.records import PerformanceRecord

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
