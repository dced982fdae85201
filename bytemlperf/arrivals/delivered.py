"""Were the arrivals that were delivered those of the process asked for? Rates, dispersion, the test of the gaps, the client's delay."""

from __future__ import annotations

import math
from fractions import Fraction

import msgspec

from bytemlperf.lazy import numpy
from bytemlperf.statistics.columns import Column, Values, column, dot, total_of
from bytemlperf.statistics.kolmogorov import Distribution, distance, exponential, gamma, p_value, rounded
from bytemlperf.units import NS_PER_S

ARRIVALS_PER_WINDOW = 10  # mean count of a window for the index of dispersion
MIN_WINDOWS = 10

MIN_TESTED_GAPS = 30
"""Of fewer gaps Kolmogorov and Smirnov's test can't tell even a constant rate from a burst."""

EVEN_SHARE = 0.1
EVEN_FLOOR_NS = 1_000_000
"""A gap of a constant rate is as asked within a tenth, or within a millisecond: the tick of coarse timers,
and less than the step of any serving engine."""

ARRIVAL_ALPHA = 0.01
ARRIVAL_DISTANCE = 0.05
"""Delivered gaps are noted as another process when one correct run in a hundred would look so *and* they are
as far from the asked process as burstiness 0.8 or 1.25 is from Poisson, which moves the mean wait of a GI/M/1 queue at
70 % use by +16 or −13 %. With many requests any difference is significant, however little it does."""

MIN_LATE_REQUESTS = 3
"""One or two late sends are the machine's hiccup, whatever their share of a short run."""


class ArrivalTest(msgspec.Struct, kw_only=True):
    """Delivered gaps between sends against the gaps of the process asked for.

    `distance` is Kolmogorov and Smirnov's D over `gaps` gaps, and `p_value` the probability of one as
    large from the process itself. A constant rate has no randomness to test: there D is taken with
    the asked gap widened to a tolerance (the share of gaps outside it), and `p_value` is None.
    """

    gaps: int
    distance: float
    p_value: float | None


def expected_dispersion(process: str, burstiness: float) -> float | None:
    """Long-run variance over mean of the counts of an arrival process; None where it has none."""
    return {"constant": 0.0, "poisson": 1.0, "gamma": 1.0 / burstiness}.get(process)


def rate_of(times_ns: Values) -> float | None:
    """(n − 1) gaps over the time they span, in 1/s; None under two distinct times."""
    if len(times_ns) < 2 or times_ns[0] == times_ns[-1]:
        return None
    return float(Fraction((len(times_ns) - 1) * NS_PER_S, int(times_ns[-1]) - int(times_ns[0])))


def gap_cv2(times_ns: Values) -> float | None:
    """Squared coefficient of variation of the gaps; None under three times or without a span."""
    gaps = numpy.diff(column(times_ns))
    total, count = total_of(gaps), len(gaps)
    if count < 2 or total == 0:
        return None
    squares = dot(gaps, gaps)
    return float(Fraction(count * squares - total * total, count * (count - 1)) / Fraction(total, count) ** 2)


def count_dispersion(times_ns: Values) -> float | None:
    """Index of dispersion of counts over equal windows of about ten arrivals (Cox and Lewis, The
    Statistical Analysis of Series of Events, 1966, 4.5); None under a hundred arrivals."""
    windows = len(times_ns) // ARRIVALS_PER_WINDOW
    if windows < MIN_WINDOWS or times_ns[0] == times_ns[-1]:
        return None
    times = column(times_ns)
    origin, span = int(times[0]), int(times[-1]) - int(times[0])
    edges = [origin - (-window * span // windows) for window in range(1, windows)]  # the first time that falls behind window − 1
    counts = numpy.diff(numpy.searchsorted(times, column(edges)), prepend=0, append=len(times)).tolist()
    mean = Fraction(len(times_ns), windows)
    return float(sum((count - mean) ** 2 for count in counts) / (windows - 1) / mean)


def dispersion_tolerance(expected: float, arrivals: int) -> float:
    """Four standard errors of the index of dispersion, plus 0.1 for the windows' edges."""
    windows = max(2, arrivals // ARRIVALS_PER_WINDOW)
    return 0.1 + 4.0 * expected * math.sqrt(2.0 / (windows - 1))


def arrival_test(times_ns: Values, process: str, burstiness: float, requested_rate: float | None) -> ArrivalTest | None:
    """Test the gaps between sends (times in order) against the asked process; None where no single
    rate was asked for, or there are too few. The rate is the asked one, so a wrong rate fails too."""
    if requested_rate is None or len(times_ns) <= MIN_TESTED_GAPS:
        return None
    gaps = numpy.sort(numpy.diff(column(times_ns)))
    per_gap = requested_rate / NS_PER_S
    if process == "constant":
        return ArrivalTest(gaps=len(gaps), distance=_uneven_share(gaps, 1 / per_gap), p_value=None)
    asked: dict[str, Distribution] = {"poisson": exponential, "gamma": gamma(burstiness)}
    if process not in asked:
        return None
    found = distance(gaps, per_gap, asked[process])
    return ArrivalTest(gaps=len(gaps), distance=found, p_value=p_value(len(gaps), found))


def _uneven_share(ordered: Column, gap_ns: float) -> float:
    tolerance = max(EVEN_SHARE * gap_ns, EVEN_FLOOR_NS)
    inside = (ordered >= gap_ns - tolerance) & (ordered <= gap_ns + tolerance)
    return rounded(1 - int(inside.sum()) / len(ordered))


def tail_lateness(delays_ns: Values) -> int | None:
    """The delay that one request in a hundred, and at least three, reach or exceed: p99 from 200
    requests on, the third largest before; None under three."""
    late = max(MIN_LATE_REQUESTS, len(delays_ns) // 100 + 1)
    return int(numpy.sort(column(delays_ns))[-late]) if len(delays_ns) >= MIN_LATE_REQUESTS else None
