"""Was more asked than the system carries? Then there is no stationary latency, and percentiles depend on the run's length.

Requests are taken in the order in which they were due and cut into thirds. What carries the load ends requests at the rate at
which they come, so that the mean end of the last third follows the mean end of the first one as their due times do: early and late
requests take as long. Above capacity ends fall behind, and latency grows with each second of arrivals. A long start, a slow
answer or a run that is shorter than its answers moves both thirds alike and is no growth.

A run is overloaded when each of these holds:
- the asked rate is above the rate of ends by more than 5 % and by more than `SIGMAS`/√requests (a random schedule's own scatter:
  a queue below capacity wanders as far), and latency grows by as much in each second; a trace has no asked rate, and is held to the latter;
- it grew in both halves (`MIN_HALF_SHARE` of the growth in each: a freeze or an outage is one step);
- the growth is more than three standard errors of the difference of both means.

Of sessions the whole session takes the place of the request: from when it starts to the end of its last turn. Turns won't do, since later
ones have longer prompts and so longer latencies on any server. Those that go on when no session begins any more are left out.

Known from simulation (tests/metrics/test_overload.py): M/M/1, M/D/1 and queues of
8 and 64 slots, at 0.7 to 0.9 of capacity and at 1.2 times.
"""

from __future__ import annotations

import math
from itertools import pairwise, takewhile

import msgspec

from bytemlperf.lazy import numpy
from bytemlperf.statistics.columns import ABSENT, Column, column, dot, total_of
from bytemlperf.units import NS_PER_S
from bytemlperf_llm.metrics.accumulator import OUTCOMES, Accumulator
from bytemlperf_llm.metrics.facts import RunFacts

MIN_REQUESTS = 30
MIN_GROWTH = 0.05
"""Load above capacity by less is called full: at 0.95 to 1.05 of it latency is long, and stationary or nearly."""
SIGMAS = 1.8
MIN_HALF_SHARE = 0.1
MIN_STANDARD_ERRORS = 3.0
UNJUDGED = ("failed", "cancelled")
"""One that failed says nothing of the queue."""
UNFINISHED = ("in_flight", "dropped")
"""What still ran or waited when the run ended took at least until then, and at least as long as what was due before it."""


class LatencyTrend(msgspec.Struct, kw_only=True):
    """How latency (from due to end) moved over a run of one rate; each session is a request here, by its whole time. `growth` is seconds
    of latency for each second of arrivals, `completion_rate` requests/s at which requests of the first to the last third ended, and
    `excess` the asked rate over it, less 1 (without an asked rate, `growth` again); both are held against `limit`. `overloaded` when
    every condition of the module holds."""

    requests: int
    growth: float
    completion_rate: float
    excess: float
    limit: float
    overloaded: bool


def latency_trend(acc: Accumulator, facts: RunFacts, dispersion: float | None) -> LatencyTrend | None:
    """None for loads without one rate (closed loop, all at once, a ramp), and under `MIN_REQUESTS`. `dispersion` is that of the
    arrivals' counts, as they were delivered."""
    rate = facts.sessions.requested_rate if facts.sessions else facts.requested_rate
    if not facts.open_loop or (rate is None and facts.process != "trace"):
        return None
    due, latencies = _of_sessions(acc) if facts.sessions else _of_requests(acc)
    if len(due) < MIN_REQUESTS:
        return None
    end = due + latencies
    third, count = len(due) // 3, len(due) - len(due) // 3
    span_s, ends_span_s = (_between(times, third) for times in (due, end))
    if span_s <= 0 or ends_span_s <= 0:
        return None
    growth = ends_span_s / span_s - 1
    excess = growth if rate is None else rate * ends_span_s / count - 1
    limit = max(MIN_GROWTH, SIGMAS * math.sqrt(max(1.0, dispersion or 0.0) / len(due)))
    return LatencyTrend(
        requests=len(due),
        growth=growth,
        completion_rate=count / ends_span_s,
        excess=excess,
        limit=limit,
        overloaded=min(growth, excess) > limit and _grows_throughout(latencies, third),
    )


def _of_requests(acc: Accumulator) -> tuple[Column, Column]:
    """Due times and latencies of those that are judged, in order."""
    rows, columns = acc.rows(), acc.columns
    unjudged = numpy.isin(columns["outcome"][rows], [OUTCOMES.index(outcome) for outcome in UNJUDGED])
    rows = rows[(columns["due"][rows] != ABSENT) & ~unjudged]
    due = columns["due"][rows]
    latencies = columns["end"][rows] - due
    unfinished = numpy.isin(columns["outcome"][rows], [OUTCOMES.index(outcome) for outcome in UNFINISHED])
    return due, numpy.where(unfinished, numpy.maximum.accumulate(latencies), latencies)


def _of_sessions(acc: Accumulator) -> tuple[Column, Column]:
    """The same of sessions that didn't fail, up to the first that hadn't ended when the last one began: what comes then has an easier
    time."""
    spans = acc.sessions.spans()
    under_load = list(takewhile(lambda span: span[1] <= spans[-1][0], spans))
    due, end = (column([span[side] for span in under_load]) for side in (0, 1))
    return due, end - due


def _between(times_ns: Column, third: int) -> float:
    """Seconds from the mean of the first third to that of the last."""
    return (total_of(times_ns[-third:]) - total_of(times_ns[:third])) / third / NS_PER_S


def _grows_throughout(latencies_ns: Column, third: int) -> bool:
    parts = (latencies_ns[:third], latencies_ns[third:-third], latencies_ns[-third:])
    early, middle, late = (total_of(part) / len(part) for part in parts)
    error = math.sqrt(sum(_variance(part) / len(part) for part in (parts[0], parts[2])))
    growth = late - early
    return growth > MIN_STANDARD_ERRORS * error and all(b - a > MIN_HALF_SHARE * growth for a, b in pairwise((early, middle, late)))


def _variance(values: Column) -> float:
    count, total = len(values), total_of(values)
    return (count * dot(values, values) - total * total) / (count * (count - 1))
