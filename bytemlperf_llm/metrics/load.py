"""Was the load that was asked for the load that was offered? Lateness, rates, arrivals.

With a cap on concurrency a request may wait for a slot. That wait is the user's wish, and counts
in the latency; the client's own delay is what comes after a slot was free. Slots are given first
come first served, so the i-th request to be sent took the slot of the (i − cap)-th to end.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from fractions import Fraction
from operator import sub

import msgspec

from bytemlperf.statistics.arrays import ABSENT, ascending, order_of, sort_values, sum_of_squares
from bytemlperf.statistics.columns import delays_from, either, gaps_of, present, rows_with, rows_without, take
from bytemlperf.statistics.kolmogorov import Distribution, distance, exponential, gamma, p_value, rounded
from bytemlperf.statistics.statistics import parse_percentile
from bytemlperf_llm.metrics.accumulator import OUTCOMES, Accumulator
from bytemlperf_llm.metrics.describe import Claim, claim
from bytemlperf_llm.metrics.facts import RunFacts
from bytemlperf_llm.metrics.overload import LatencyTrend, latency_trend

NS_PER_S = 1_000_000_000
ARRIVALS_PER_WINDOW = 10  # mean count of a window for the index of dispersion
MIN_WINDOWS = 10

MIN_TESTED_GAPS = 30
"""Of fewer gaps Kolmogorov and Smirnov's test can't tell even a constant rate from a burst."""

EVEN_SHARE = 0.1
EVEN_FLOOR_NS = 1_000_000
"""A gap of a constant rate is as asked within a tenth, or within a millisecond: the tick of coarse timers,
and less than the step of any serving engine."""


class ArrivalTest(msgspec.Struct, kw_only=True):
    """Delivered gaps between sends against the gaps of the process asked for.

    `distance` is Kolmogorov and Smirnov's D over `gaps` gaps, and `p_value` the probability of one as
    large from the process itself. A constant rate has no randomness to test: there D is taken with
    the asked gap widened to a tolerance (the share of gaps outside it), and `p_value` is None.
    """

    gaps: int
    distance: float
    p_value: float | None


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


def expected_dispersion(process: str, burstiness: float) -> float | None:
    """Long-run variance over mean of the counts of an arrival process; None where it has none."""
    return {"constant": 0.0, "poisson": 1.0, "gamma": 1.0 / burstiness}.get(process)


def rate_of(times_ns: Sequence[int]) -> float | None:
    """(n − 1) gaps over the time they span, in 1/s; None under two distinct times."""
    if len(times_ns) < 2 or times_ns[0] == times_ns[-1]:
        return None
    return float(Fraction((len(times_ns) - 1) * NS_PER_S, times_ns[-1] - times_ns[0]))


def gap_cv2(times_ns: Sequence[int]) -> float | None:
    """Squared coefficient of variation of the gaps; None under three times or without a span."""
    gaps = gaps_of(times_ns)
    total, count = sum(gaps), len(gaps)
    if count < 2 or total == 0:
        return None
    squares = sum_of_squares(gaps)
    return float(Fraction(count * squares - total * total, count * (count - 1)) / Fraction(total, count) ** 2)


def count_dispersion(times_ns: Sequence[int]) -> float | None:
    """Index of dispersion of counts over equal windows of about ten arrivals (Cox and Lewis, The
    Statistical Analysis of Series of Events, 1966, 4.5); None under a hundred arrivals."""
    windows = len(times_ns) // ARRIVALS_PER_WINDOW
    if windows < MIN_WINDOWS or times_ns[0] == times_ns[-1]:
        return None
    origin, span = times_ns[0], times_ns[-1] - times_ns[0]
    edges = (origin - (-window * span // windows) for window in range(1, windows))  # the first time that falls behind window − 1
    before = [0, *(bisect_left(times_ns, edge) for edge in edges), len(times_ns)]
    counts = list(map(sub, before[1:], before))
    mean = Fraction(len(times_ns), windows)
    return float(sum((count - mean) ** 2 for count in counts) / (windows - 1) / mean)


def dispersion_tolerance(expected: float, arrivals: int) -> float:
    """Four standard errors of the index of dispersion, plus 0.1 for the windows' edges."""
    windows = max(2, arrivals // ARRIVALS_PER_WINDOW)
    return 0.1 + 4.0 * expected * math.sqrt(2.0 / (windows - 1))


def arrival_test(times_ns: Sequence[int], facts: RunFacts) -> ArrivalTest | None:
    """Test the gaps between sends (times in order) against the asked process; None where no single
    rate was asked for, or there are too few. The rate is the asked one, so a wrong rate fails too."""
    if not facts.open_loop or facts.requested_rate is None or len(times_ns) <= MIN_TESTED_GAPS:
        return None
    gaps = sort_values(gaps_of(times_ns))
    per_gap = facts.requested_rate / NS_PER_S
    if facts.process == "constant":
        return ArrivalTest(gaps=len(gaps), distance=_uneven_share(gaps, 1 / per_gap), p_value=None)
    asked: dict[str, Distribution] = {"poisson": exponential, "gamma": gamma(facts.burstiness)}
    if facts.process not in asked:
        return None
    found = distance(gaps, per_gap, asked[facts.process])
    return ArrivalTest(gaps=len(gaps), distance=found, p_value=p_value(len(gaps), found))


def _uneven_share(ordered: Sequence[int], gap_ns: float) -> float:
    tolerance = max(EVEN_SHARE * gap_ns, EVEN_FLOOR_NS)
    inside = bisect_right(ordered, gap_ns + tolerance) - bisect_left(ordered, gap_ns - tolerance)
    return rounded(1 - inside / len(ordered))


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
        arrival_test=arrival_test(sent, facts),
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
