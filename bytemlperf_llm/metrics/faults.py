"""Faults in mid-run, outages and slow-downs: when service levels held again, and what the requests until then lost.

A request is late where it took longer from t0 than its level: the E2E target, else the TTFT target and TPOT's for each further token;
without these twice the usual, the medians of TTFT and TPOT for as many tokens. A fault is over when `LEAST_GOOD` requests in a row
(or all that are left), in the order in which they were due, were answered in time; until then its debt is the time beyond their levels,
summed up, beside the requests lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

import msgspec

from bytemlperf.lazy import numpy
from bytemlperf.statistics.columns import ABSENT, Column, Floats, Mask
from bytemlperf.units import NS_PER_MS
from bytemlperf_llm.metrics.accumulator import OUTCOMES, Accumulator
from bytemlperf_llm.metrics.facts import RunFacts, SloMs
from bytemlperf_llm.metrics.outages import Outage
from bytemlperf_llm.metrics.slowdowns import find_slowdowns

TIMES_USUAL = 2.0
LEAST_GOOD = 8


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """`began_ns` and `ended_ns` of the fault itself, and `recovered_ns`, from which on requests were in time again, `recovery_ns` after it
    began (ns from the run's origin; None: not before the run's end). Of the `requests` due in it, from its begin to its recovery,
    `lost_requests` were not answered, and `late_requests` took `debt_ns` longer than their levels. A slow-down's steps took `times` the
    usual."""

    kind: Literal["outage", "slow-down"]
    began_ns: int
    ended_ns: int | None
    recovered_ns: int | None
    recovery_ns: int | None
    requests: int
    lost_requests: int
    late_requests: int
    debt_ns: int
    times: float | None = None


def find_faults(acc: Accumulator, facts: RunFacts, outages: Iterable[Outage]) -> list[Fault]:
    """In order; a slow-down within an outage is no fault of its own."""
    gone = [_Stretch("outage", outage.began_ns, outage.recovered_ns, None) for outage in outages]
    slow = [_Stretch("slow-down", each.began_ns, each.ended_ns, each.times) for each in find_slowdowns(acc)]
    stretches = sorted(
        [*gone, *(each for each in slow if not any(each.touches(outage) for outage in gone))], key=lambda each: each.began_ns
    )
    return list(_merged(_faults(acc, facts, stretches))) if stretches else []


class _Stretch(NamedTuple):
    kind: Literal["outage", "slow-down"]
    began_ns: int
    ended_ns: int | None
    times: float | None

    def touches(self, other: _Stretch) -> bool:
        return all(a.ended_ns is None or b.began_ns < a.ended_ns for a, b in ((self, other), (other, self)))


def _faults(acc: Accumulator, facts: RunFacts, stretches: list[_Stretch]) -> Iterator[Fault]:
    columns, rows = acc.columns, acc.rows()
    outcomes = columns["outcome"][rows]
    judged = (columns["due"][rows] != ABSENT) & (columns["own_limit"][rows] == 0)
    judged &= numpy.isin(outcomes, [OUTCOMES.index(outcome) for outcome in ("ok", "failed", "in_flight")])
    rows, outcomes = rows[judged], outcomes[judged]
    due, ok = columns["due"][rows], outcomes == OUTCOMES.index("ok")
    beyond = numpy.where(ok, columns["end"][rows] - due - _levels(acc, facts, rows), 0.0)
    late = ok & (beyond > 0)
    good = numpy.convolve(numpy.append(ok & ~late, [True] * (LEAST_GOOD - 1)), [1] * LEAST_GOOD, "valid") == LEAST_GOOD
    for kind, began, ended, times in stretches:
        healthy = numpy.flatnonzero(good & (due >= (began if ended is None else ended)))
        recovered = None if ended is None or not len(healthy) else int(due[healthy[0]])
        inside = _inside(due, columns["end"][rows], began, recovered)
        yield Fault(
            kind=kind,
            began_ns=began,
            ended_ns=ended,
            recovered_ns=recovered,
            recovery_ns=None if recovered is None else recovered - began,
            requests=int(inside.sum()),
            lost_requests=int((inside & ~ok).sum()),
            late_requests=int((inside & late).sum()),
            debt_ns=int(beyond[inside & late].sum()),
            times=times,
        )


def _inside(due: Column, end: Column, began: int, recovered: int | None) -> Mask:
    """Requests that a fault met: those that ran when it began, and those due until its recovery."""
    return (end >= began) & (True if recovered is None else due < recovered)


def _levels(acc: Accumulator, facts: RunFacts, rows: Column) -> Floats:
    """How long each may take, in ns."""
    columns, further = acc.columns, numpy.maximum(acc.columns["output"][rows] - 1, 0)
    first, each, whole = (_median(acc, name) for name in ("ttft", "tpot", "e2e"))
    levels = TIMES_USUAL * (first + each * further if first else numpy.full(len(rows), whole))
    if not facts.classes:
        return _targets(facts.slo_ms.finite(), further, levels)
    for traffic in facts.classes:
        own = columns["class_name"][rows] == acc.labels["class_name"].get(traffic.name, ABSENT)
        levels[own] = _targets(traffic.slo_ms.finite(), further[own], levels[own])
    return levels


def _targets(slo: SloMs, further: Column, otherwise: Floats) -> Floats:
    if slo.e2e is not None:
        return numpy.full(len(further), slo.e2e * NS_PER_MS)
    if slo.ttft is not None and slo.tpot is not None:
        return (slo.ttft + slo.tpot * further) * NS_PER_MS
    return otherwise


def _median(acc: Accumulator, name: str) -> float:
    values = acc.request_values(name, acc.rows("ok"))
    return float(numpy.median(values)) if len(values) else 0.0


def _merged(faults: Iterable[Fault]) -> Iterator[Fault]:
    """One that begins before service levels held again after another is that one's: its requests are counted there."""
    before: Fault | None = None
    for fault in faults:
        if before is not None and (before.recovered_ns is None or fault.began_ns < before.recovered_ns):
            continue
        before = fault
        yield fault
