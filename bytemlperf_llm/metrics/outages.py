"""Outages: stretches in which the engine returned nothing. Kill it in mid-run, start it again, and
this says how long it was gone and what that cost.

Requests are looked at in the order in which they ended. An outage is at least `MIN_FAILURES`
failures in a row with no answer between them; those of the client's own limits don't count. It begins with
the first of them and is over when the first token (or the response) arrives of a request sent after that; failures until then belong
to it.
"""

from __future__ import annotations

import msgspec

from bytemlperf.lazy import numpy
from bytemlperf.statistics.columns import ABSENT, either
from bytemlperf_llm.metrics.accumulator import OUTCOMES, Accumulator

MIN_FAILURES = 3
"""Fewer in a row are single failures: with 1 % failing at random, three in a row are one in a million."""

_OK, _FAILED = OUTCOMES.index("ok"), OUTCOMES.index("failed")


class Outage(msgspec.Struct, frozen=True, kw_only=True):
    """One outage; ns from the run's origin. `recovered_ns` is None when it lasted to the end.

    `recovery_ns` runs from the first failure to the first token after it.
    """

    began_ns: int
    recovered_ns: int | None
    recovery_ns: int | None
    failed_requests: int


def find_outages(acc: Accumulator) -> list[Outage]:
    """All outages, in order."""
    if acc.outcomes["failed"] < MIN_FAILURES:
        return []
    columns = acc.columns
    judged = columns["own_limit"] == 0
    judged &= (columns["outcome"] == _OK) | (columns["outcome"] == _FAILED)
    end, index, failed = (values[judged] for values in (columns["end"], columns["index"], columns["outcome"] == _FAILED))
    ended = numpy.lexsort((index, end))
    found: list[Outage] = []
    streak: list[int] = []
    for end_ns, one_failed in [*zip(end[ended].tolist(), failed[ended].tolist(), strict=True), (0, False)]:
        if one_failed:
            streak.append(end_ns)
            continue
        if len(streak) >= MIN_FAILURES:
            found.append(_outage(acc, streak))
        streak = []
    return _merged(found)


def _outage(acc: Accumulator, failures_ns: list[int]) -> Outage:
    began, columns = failures_ns[0], acc.columns
    sent, first = columns["sent"], either(columns["first"], columns["last"])
    answered = first[(columns["outcome"] == _OK) & (first != ABSENT) & (sent != ABSENT) & (sent >= began)]
    recovered = int(answered.min()) if len(answered) else None
    return Outage(
        began_ns=began,
        recovered_ns=recovered,
        recovery_ns=None if recovered is None else recovered - began,
        failed_requests=len(failures_ns),
    )


def _merged(outages: list[Outage]) -> list[Outage]:
    """An answer that was sent before an outage and ends within it does not make two of one."""
    merged: list[Outage] = []
    for outage in outages:
        before = merged[-1] if merged else None
        if before is not None and (before.recovered_ns is None or outage.began_ns < before.recovered_ns):
            merged[-1] = msgspec.structs.replace(before, failed_requests=before.failed_requests + outage.failed_requests)
        else:
            merged.append(outage)
    return merged
