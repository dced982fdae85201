"""Per-request metrics from the accumulator's columns; `definitions` has the formulas."""

from __future__ import annotations

from bytemlperf.lazy import numpy
from bytemlperf.statistics.columns import ABSENT, Column

_SOURCES = {
    "ttft": ("first", "due"),
    "service_ttft": ("first", "sent"),
    "e2e": ("last", "due"),
    "service_e2e": ("last", "sent"),
    "schedule_lateness": ("sent", "planned"),
    "max_stall": ("max_gap",),
    "tpot": ("last", "first", "output"),
    "ntpot": ("last", "due", "output"),
}
"""A metric's columns: the later stamp, the earlier one, and what their difference is divided by."""


def request_column(columns: dict[str, Column], name: str, rows: Column) -> Column:
    """A metric of these rows, ABSENT for those that don't have it."""
    sources = [columns[source][rows] for source in _SOURCES.get(name, (name,))]
    there = numpy.logical_and.reduce([source != ABSENT for source in sources])
    if len(sources) == 3:
        sources[2] = sources[2] - (name == "tpot")
        there &= sources[2] > 0
    first, *others = (source[there] for source in sources)
    values = numpy.full(len(there), ABSENT, "i8")
    if others:
        first = first - others[0]
    if len(others) == 2:  # to the nearest ns, halves up
        whole, rest = numpy.divmod(first, others[1])
        first = whole + (2 * rest >= others[1])
    values[there] = first
    return values
