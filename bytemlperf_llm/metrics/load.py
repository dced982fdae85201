"""Was the load that was asked for the load that was offered? Lateness, rates, arrivals.

With a cap on concurrency a request may wait for a slot. That wait is the user's wish, and counts
in the latency; the client's own delay is what comes after a slot was free. Slots are given first
come first served, so the i-th request to be sent took the slot of the (i − cap)-th to end.
"""

from __future__ import annotations

import msgspec

from bytemlperf.arrivals.delivered import ArrivalTest, arrival_test, count_dispersion, expected_dispersion, gap_cv2, rate_of
from bytemlperf.lazy import numpy
from bytemlperf.statistics.columns import ABSENT, Column, column, either, present
from bytemlperf.statistics.metric import Claim, claim
from bytemlperf.statistics.statistics import parse_percentile
from bytemlperf_llm.metrics.accumulator import OUTCOMES, Accumulator
from bytemlperf_llm.metrics.facts import RunFacts
from bytemlperf_llm.metrics.overload import LatencyTrend, latency_trend


class Lateness(msgspec.Struct, kw_only=True):
    """The client's own delay of sends, ns; p99 may be `insufficient`."""

    p50: Claim
    p99: Claim
    max: int


class Load(msgspec.Struct, kw_only=True):
    """Offered against requested load. Rates in requests/s; None where it can't be told.

    `gap_cv2` is the squared coefficient of variation of the gaps between sends, and
    `count_dispersion` variance over mean of sends per window of ten expected ones: both are 0 for
    a constant rate, 1 for Poisson, 1/burstiness for gamma (`expected_dispersion`).
    `capped_requests` waited for a slot under the cap on concurrency. A ramp's counts have no single
    dispersion to expect: None.
    """

    requested_rate: float | None
    planned_rate: float | None
    offered_rate: float | None
    gap_cv2: float | None
    count_dispersion: float | None
    expected_dispersion: float | None
    capped_requests: int
    loop_utilisation: float | None
    arrival_test: ArrivalTest | None = None
    lateness: Lateness | None = None
    latency_trend: LatencyTrend | None = None


def _starts(acc: Accumulator) -> tuple[Column, Column]:
    """Start and row of every request that took a slot, in order of start. One that failed before
    it was sent (no such host) started when it ended."""
    columns, rows = acc.columns, _offered_rows(acc)
    starts = either(columns["sent"], columns["end"])[rows]
    places = numpy.lexsort((columns["index"][rows], starts))
    return starts[places], rows[places]


def client_lateness(acc: Accumulator, cap: int | None) -> tuple[Column, int]:
    """The client's own delay of each sent request (ns, in order of sending), and how many waited
    for a slot. Requests whose due time isn't known (the first of a closed loop) are left out."""
    starts, rows, due = _slots(acc, cap)
    planned, sent = (acc.columns[name][rows] for name in ("planned", "sent"))
    kept = (due != ABSENT) & (sent != ABSENT)
    waited = kept & (planned != ABSENT) & (planned < due)
    return numpy.maximum(starts[kept] - due[kept], 0), int(waited.sum())


def waits_in_client(acc: Accumulator, cap: int | None) -> tuple[Column, Column]:
    """Of each row's time from planned to sent (ns) the client's own delay, and the wait for one of its slots; 0 without a planned time."""
    starts, rows, due = _slots(acc, cap)
    late, waited = numpy.zeros((2, len(acc)), "i8")
    planned = acc.columns["planned"][rows]
    known = planned != ABSENT
    late[rows[known]] = numpy.maximum(starts - due, 0)[known]
    waited[rows[known]] = (numpy.minimum(due, starts) - planned)[known]
    return late, waited


def _slots(acc: Accumulator, cap: int | None) -> tuple[Column, Column, Column]:
    """`_starts`, and the later of when each was planned and when a slot was free for it."""
    starts, rows = _starts(acc)
    planned, end = (acc.columns[name][rows] for name in ("planned", "end"))
    free = numpy.full(len(rows), ABSENT, "i8")
    if cap is not None and cap < len(rows):
        free[cap:] = numpy.sort(end)[: len(rows) - cap]
    return starts, rows, numpy.maximum(planned, free)


def lateness(delays_ns: Column) -> Lateness | None:
    """p50, p99 and max of the client's own delays; None without any."""
    if not len(delays_ns):
        return None
    ordered = numpy.sort(delays_ns)
    p50, p99 = (claim(ordered, 0, parse_percentile(text)) for text in ("50", "99"))
    return Lateness(p50=p50, p99=p99, max=int(ordered[-1]))


def measure_load(acc: Accumulator, facts: RunFacts, capped: int, delays_ns: Column | None = None) -> Load:
    """Everything of `Load`, from the requests that were offered: a server that takes no connection was offered them all the same."""
    sent, rows = _starts(acc)
    planned = numpy.sort(present(acc.columns["planned"][rows]))
    dispersion = count_dispersion(sent) if facts.open_loop else None
    one_rate = facts.open_loop and facts.requested_rate is not None
    return Load(
        requested_rate=facts.requested_rate,
        planned_rate=rate_of(planned),
        offered_rate=rate_of(sent),
        gap_cv2=gap_cv2(sent) if facts.open_loop else None,
        count_dispersion=dispersion,
        expected_dispersion=expected_dispersion(facts.process, facts.burstiness) if one_rate else None,
        capped_requests=capped,
        loop_utilisation=facts.loop_utilisation,
        arrival_test=arrival_test(sent, facts.process, facts.burstiness, facts.requested_rate) if facts.open_loop else None,
        lateness=None if delays_ns is None else lateness(delays_ns),
        latency_trend=latency_trend(acc, facts, count_dispersion(column(acc.sessions.starts())) if facts.sessions else dispersion),
    )


def offered_requests(acc: Accumulator) -> int:
    """How many requests left the client's schedule, whether or not a server took them."""
    return len(_offered_rows(acc))


def _offered_rows(acc: Accumulator) -> Column:
    """Those that were sent, and those that failed before they could be."""
    rows, columns = acc.rows(), acc.columns
    return rows[(columns["sent"][rows] != ABSENT) | (columns["outcome"][rows] == OUTCOMES.index("failed"))]
