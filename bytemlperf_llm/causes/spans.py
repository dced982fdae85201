"""Stretches of time as sets: disjoint, in order, and how much of other stretches they cover. All in ms."""

from __future__ import annotations

from bytemlperf.lazy import numpy
from bytemlperf.statistics.columns import Column, Floats, Mask


class Spans:
    """Disjoint stretches in the order of time, from any that may overlap."""

    def __init__(self, begins: Floats, ends: Floats) -> None:
        order = numpy.argsort(begins, kind="stable")
        begins, ends = begins[order], numpy.maximum.accumulate(ends[order]) if len(ends) else ends
        apart = numpy.ones(len(begins), bool)
        apart[1:] = begins[1:] > ends[:-1]
        at = numpy.flatnonzero(apart)
        self.begins: Floats = begins[at]
        self.ends: Floats = ends[numpy.append(at[1:], len(ends)) - 1] if len(at) else ends

    def __len__(self) -> int:
        return len(self.begins)

    @property
    def total(self) -> float:
        """How long they are together."""
        return float((self.ends - self.begins).sum())

    def hold(self, times: Floats) -> Mask:
        """Whether each moment lies inside."""
        inside: Mask = numpy.searchsorted(self.begins, times, "right") > numpy.searchsorted(self.ends, times, "right")
        return inside

    def within(self, begins: Floats, ends: Floats) -> Floats:
        """How long of each stretch is covered."""
        if not len(self):
            return numpy.zeros(len(begins))
        knots = numpy.stack([self.begins, self.ends], axis=1).ravel()
        covered = numpy.cumsum(numpy.stack([numpy.zeros(len(self)), self.ends - self.begins], axis=1).ravel())
        covers: Floats = numpy.interp(ends, knots, covered) - numpy.interp(begins, knots, covered)
        return covers

    def without(self, other: Spans) -> Spans:
        """What of these isn't in the other ones."""
        knots = numpy.unique(numpy.concatenate([self.begins, self.ends, other.begins, other.ends]))
        middle = (knots[1:] + knots[:-1]) / 2
        kept = self.hold(middle) & ~other.hold(middle)
        return Spans(knots[:-1][kept], knots[1:][kept])

    def longer_than(self, least: float) -> Spans:
        """Without the shorter ones."""
        kept = self.ends - self.begins > least
        return Spans(self.begins[kept], self.ends[kept])


def level_at(times: Floats, begins: Floats, ends: Floats) -> Column:
    """How many stretches are open at each moment: begun at or before it, not ended."""
    level: Column = numpy.searchsorted(numpy.sort(begins), times, "right") - numpy.searchsorted(numpy.sort(ends), times, "right")
    return level
