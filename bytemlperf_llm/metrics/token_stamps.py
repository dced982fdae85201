"""When tokens came, from their intervals: a block of answers at a time."""

from __future__ import annotations

from collections.abc import Iterator

from bytemlperf.lazy import numpy
from bytemlperf.statistics.clusters import ClusteredColumn
from bytemlperf.statistics.columns import Floats
from bytemlperf_llm.metrics.accumulator import Accumulator

_BLOCK_CLUSTERS = 1 << 14
MAX_DRAWN = 1_024


def token_stamps(acc: Accumulator, intervals: ClusteredColumn) -> Iterator[tuple[Floats, Floats, Floats]]:
    """(stamps ns, gaps ns, weights) of the answers' tokens after their first, or of what else the `intervals` lie between. A stamp each; of
    a run of more than `MAX_DRAWN` equal gaps so many, which stand for all."""
    first = acc.columns["first"]
    for begin in range(0, len(intervals.rows), _BLOCK_CLUSTERS):
        end = min(begin + _BLOCK_CLUSTERS, len(intervals.rows))
        values, counts = intervals.runs(begin, end)
        begins = intervals.begins(begin, end)
        starts = first[intervals.rows[begin:end]].astype("f8")
        drawn = numpy.minimum(counts, MAX_DRAWN)
        weights = numpy.repeat(counts / drawn, drawn)
        gaps = numpy.repeat(values.astype("f8"), drawn)
        running = numpy.cumsum(gaps * weights)
        ends = numpy.cumsum(numpy.add.reduceat(drawn, begins))
        before = numpy.concatenate([[0], running[ends[:-1] - 1]])
        yield running + numpy.repeat(starts - before, numpy.diff(ends, prepend=0)), gaps, weights
