"""Slow-downs of the server: stretches in which its streams went on, but far slower than usual, for no more load than it carried elsewhere.

The pace of the server at a time is the seconds that its streams were open over the steps that came in them (bursts: definitions.BURST_NS),
which is ITL as a mean over time, whatever the number of streams; it sees stalls and freezes too. Usual is the median of bins of time. A
slow-down is a stretch of `LEAST_BINS` bins or more, `LEAST_STEPS` steps long at the usual pace, in each of which steps took more than
`TIMES` the usual. Streams are also slow where many are open: so it isn't one where the server made as many steps a second as it ever does
(`BUSY` of the bins' 95th percentile), which is load.
"""

from __future__ import annotations

import msgspec

from bytemlperf.lazy import numpy
from bytemlperf.statistics.columns import Column, Floats
from bytemlperf_llm.metrics.accumulator import Accumulator
from bytemlperf_llm.metrics.token_stamps import token_stamps

TIMES = 2.0
LEAST_BINS, LEAST_STEPS = 5, 100
BUSY = 0.85
MOST_BINS = 2_000
STEPS_PER_BIN = 10  # of one stream
LEAST_STEPS_JUDGED = 5


class Slowdown(msgspec.Struct, frozen=True, kw_only=True):
    """From `began_ns` to `ended_ns` (from the run's origin; None: to the end of the last stream) steps took `times` the usual."""

    began_ns: int
    ended_ns: int | None
    times: float


def find_slowdowns(acc: Accumulator) -> list[Slowdown]:
    """In order; none where the run is too short for any."""
    columns, rows = acc.columns, acc.rows("ok")
    rows = rows[columns["silences"][rows] > 0]
    first, last = columns["first"][rows], columns["last"][rows]
    steps = int(columns["silences"][rows].sum())
    if steps < LEAST_STEPS:
        return []
    begin, end = int(first.min()), int(last.max())
    mean_ns = float((last - first).astype("f8").sum()) / steps
    bins = int(min(MOST_BINS, (end - begin) // (STEPS_PER_BIN * mean_ns)))
    if bins < 2 * LEAST_BINS:
        return []
    edges = numpy.linspace(begin, end, bins + 1)
    open_ns = numpy.diff(_time_since(first, edges) - _time_since(last, edges))
    came = numpy.zeros(bins)
    for stamps, _, weights in token_stamps(acc, acc.inter_chunk):
        places = ((stamps - begin) * (bins / (end - begin))).astype("i8").clip(0, bins - 1)
        came += numpy.bincount(places, weights, bins)
    return _stretches(edges, open_ns, came)


def _stretches(edges: Floats, open_ns: Floats, came: Floats) -> list[Slowdown]:
    pace = open_ns / numpy.maximum(came, 1.0)
    usual = float(numpy.median(pace[open_ns > 0]))
    slow = (pace > TIMES * usual) & (open_ns > LEAST_STEPS_JUDGED * usual)
    changes = numpy.flatnonzero(numpy.diff(slow.astype("i1"), prepend=0, append=0)).reshape(-1, 2)
    most = numpy.percentile(came[~slow], 95) if not slow.all() else 0.0
    found = []
    for start, stop in changes.tolist():
        expected, steps = float(open_ns[start:stop].sum()) / usual, float(came[start:stop].sum())
        if stop - start >= LEAST_BINS and expected >= LEAST_STEPS and steps / (stop - start) < BUSY * most:
            ended = None if stop == len(slow) else round(edges[stop])
            found.append(Slowdown(began_ns=round(edges[start]), ended_ns=ended, times=expected / max(steps, 1.0)))
    return found


def _time_since(stamps: Column, edges: Floats) -> Floats:
    """At each edge, the time since all stamps before it, summed up."""
    ordered = numpy.sort(stamps).astype("f8")
    before = numpy.searchsorted(ordered, edges, side="right")
    return before * edges - numpy.concatenate(([0.0], numpy.cumsum(ordered)))[before]
