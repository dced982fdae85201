"""Was the load that was asked for the load that was offered? Lateness, rates, arrivals.

With a cap on concurrency a request may wait for a slot. That wait is the user's wish, and counts
in the latency; the client's own delay is what comes after a slot was free. Slots are given first
come first served, so the i-th request to be sent took the slot of the (i − cap)-th to end.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import msgspec

from bytemlperf.arrivals.delivered import ArrivalTest, arrival_test, count_dispersion, expected_dispersion, gap_cv2, rate_of
from bytemlperf.statistics.arrays import ABSENT, ascending, order_of, sort_values
from bytemlperf.statistics.columns import delays_from, either, present, rows_with, rows_without, take
from bytemlperf.statistics.statistics import parse_percentile
from bytemlperf_llm.metrics.accumulator import OUTCOMES, Accumulator
from bytemlperf_llm.metrics.describe import Claim, claim
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


def _starts(acc: Accumulator) -> tuple[array[int], array[int]]:
    """Start and row of every request that took a slot, in order of start. One that failed before
    it was sent (no such host) started when it ended."""
    sent, end, index = (acc.columns[name] for name in ("sent", "end", "index"))
    rows = _offered_rows(acc)
    starts = either(take(sent, rows), take(end, rows))
    places = order_of(starts, take(index, rows))
    return take(starts, places), take(rows, places)


def client_lateness(acc: Accumulator, cap: int | None) -> tuple[Sequence[int], int]:
    """The client's own delay of each sent request (ns, in order of sending), and how many waited
    for a slot. Requests whose due time isn't known (the first of a closed loop) are left out."""
    starts, rows = _starts(acc)
    planned, sent = (take(acc.columns[name], rows) for name in ("planned", "sent"))
    free = array("q", [ABSENT]) * len(rows)
    if cap is not None and cap < len(rows):
        free[cap:] = ascending(take(acc.columns["end"], rows))[: len(rows) - cap]
    return delays_from(starts, planned, free, sent)


def _arrival_test(sent_ns: Sequence[int], facts: RunFacts) -> ArrivalTest | None:
    return arrival_test(sent_ns, facts.process, facts.burstiness, facts.requested_rate) if facts.open_loop else None


def lateness(delays_ns: Sequence[int]) -> Lateness | None:
    """p50, p99 and max of the client's own delays; None without any."""
    if not delays_ns:
        return None
    ordered = sort_values(delays_ns)
    p50, p99 = (claim(ordered, 0, parse_percentile(text)) for text in ("50", "99"))
    return Lateness(p50=p50, p99=p99, max=int(ordered[-1]))


def measure_load(acc: Accumulator, facts: RunFacts, capped: int, delays_ns: Sequence[int] = ()) -> Load:
    """Everything of `Load`, from the requests that were offered: a server that takes no connection was offered them all the same."""
    sent, rows = _starts(acc)
    planned = ascending(present(take(acc.columns["planned"], rows)))
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
        arrival_test=_arrival_test(sent, facts),
        lateness=lateness(delays_ns),
        latency_trend=latency_trend(acc, facts, dispersion),
    )


def offered_requests(acc: Accumulator) -> int:
    """How many requests left the client's schedule, whether or not a server took them."""
    return len(_offered_rows(acc))


def _offered_rows(acc: Accumulator) -> array[int]:
    """Those that were sent, and those that failed before they could be."""
    sent, outcome = acc.columns["sent"], acc.columns["outcome"]
    unsent = rows_with(acc.rows(), sent, ABSENT)
    return rows_without(acc.rows(), sent, ABSENT) + rows_with(unsent, outcome, OUTCOMES.index("failed"))
