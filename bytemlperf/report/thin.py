"""Making many values few enough to look at, without hiding any: minima, maxima and quantiles stay.

Everything takes and gives numpy arrays of float64. A plot of a million values keeps every extreme,
and in between values that were measured, never an average that nobody saw.
"""

from __future__ import annotations

from itertools import pairwise

from bytemlperf.lazy import numpy
from bytemlperf.statistics.columns import Column, Floats

CURVE_POINTS = 400
TAIL_POINTS = 120
WIDE_SPREAD = 20.0  # max / p0.5 above which a histogram's bins grow with the value
HISTOGRAM_BINS = 60
TIME_BINS = 240
DOTS = 1_500


def distribution(values: Floats) -> tuple[Floats, Floats]:
    """The empirical distribution function of values: x, and the share of values ≤ x. All of them where
    they are few; else evenly spaced ranks with the ranks of the tail spaced by factors, ends included."""
    ordered = numpy.sort(values)
    count = len(ordered)
    if count <= CURVE_POINTS:
        return ordered, numpy.arange(1, count + 1) / count
    body = numpy.linspace(0, count - 1, CURVE_POINTS)
    tail = count - numpy.geomspace(1, count / 2, TAIL_POINTS)
    head = numpy.geomspace(1, count / 2, TAIL_POINTS) - 1
    ranks = numpy.unique(numpy.concatenate([[0, count - 1], head, body, tail]).astype("i8"))
    return ordered[ranks], (ranks + 1) / count


def limits_between(low: float, high: float) -> Floats:
    """Where to count: from the least to the greatest value, by factors where they are far apart."""
    limits = numpy.geomspace(low, high, CURVE_POINTS) if low > 0 and high / low > 3 else numpy.linspace(low, high, CURVE_POINTS)
    limits[0], limits[-1] = low, high
    return limits


def histogram_edges(values: Floats) -> tuple[Floats, bool]:
    """Edges of the bins of a histogram that holds every value, so its first and last edge are the extremes;
    and whether the bins grow by a factor, as they do where the values reach far."""
    low, high = float(values.min()), float(values.max())
    if low == high:
        return numpy.array([low - 0.5, high + 0.5]), False
    if low > 0 and high / float(numpy.quantile(values, 0.005)) > WIDE_SPREAD:
        edges = numpy.geomspace(low, high, HISTOGRAM_BINS + 1)
        edges[0], edges[-1] = low, high
        return edges, True
    return numpy.linspace(low, high, HISTOGRAM_BINS + 1), False


def time_edges(start: float, end: float, count: int) -> Floats:
    """Edges of equal stretches of time, as many as the number of values can fill."""
    bins = int(min(TIME_BINS, max(10, count // 8)))
    return numpy.linspace(start, max(end, start + 1e-9), bins + 1)


class Binned:
    """What the values in each stretch of `edges` were. Empty stretches have a count of 0 and NaN."""

    def __init__(self, place: Floats, values: Floats, edges: Floats) -> None:
        self.edges = edges
        self.middle = (edges[:-1] + edges[1:]) / 2
        bins = len(edges) - 1
        held: Column = numpy.clip(numpy.searchsorted(edges, place, side="right") - 1, 0, bins - 1)
        order: Column = numpy.lexsort((values, held))
        self._values, held = values[order], held[order]
        self._start: Column = numpy.searchsorted(held, numpy.arange(bins), side="left")
        self._end: Column = numpy.searchsorted(held, numpy.arange(bins), side="right")
        self.count = self._end - self._start

    def percentile(self, percent: float) -> Floats:
        """Nearest-rank, in each stretch; 0 is the minimum, 100 the maximum."""
        result = numpy.full(len(self.count), numpy.nan)
        filled = self.count > 0
        rank = numpy.maximum(1, numpy.ceil(percent / 100 * self.count[filled])).astype("i8")
        result[filled] = self._values[self._start[filled] + rank - 1]
        return result


def kept_dots(values: Floats, most: int = DOTS) -> Column:
    """Which of the values to draw as dots: all, or the extremes with an even choice of the rest, in order."""
    count = len(values)
    if count <= most:
        return numpy.arange(count)
    extremes = numpy.argpartition(values, (most // 10, count - most // 5))
    even = numpy.linspace(0, count - 1, most - most // 10 - most // 5).astype("i8")
    return numpy.unique(numpy.concatenate([extremes[: most // 10], extremes[count - most // 5 :], even]))


def thinned_steps(times: Floats, levels: Floats, most: int = 2 * TIME_BINS) -> tuple[Floats, Floats]:
    """A step function with fewer steps: in each stretch its first, lowest and highest level stay."""
    count = len(times)
    if count <= most:
        return times, levels
    edges = numpy.linspace(0, count, most // 3 + 1).astype("i8")
    kept: set[int] = {count - 1}
    for begin, end in pairwise(edges.tolist()):
        part = levels[begin:end]
        kept.update((begin, int(begin + part.argmin()), int(begin + part.argmax())))
    places = numpy.array(sorted(kept))
    return times[places], levels[places]
