"""Outages: stretches in which the engine returned nothing. Kill it in mid-run, start it again, and
this says how long it was gone and what that cost.

Requests are looked at in the order in which they ended. An outage is at least `MIN_FAILURES`
failures in a row with no answer between them; those of the client's own limits don't count. It begins with
the first of them and is over when the first token arrives of a request sent after that; failures until then belong to it.
"""

from __future__ import annotations

import msgspec

from bytemlperf.statistics.arrays import order_of
from bytemlperf.statistics.columns import rows_with, take
from bytemlperf_llm.metrics.accumulator import ABSENT, OUTCOMES, Accumulator

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
    outcome, end = acc.columns["outcome"], acc.columns["end"]
    if acc.outcomes["failed"] < MIN_FAILURES:
        return []
    rows = rows_with(acc.rows("ok") + acc.rows("failed"), acc.columns["own_limit"], 0)
    ended = take(rows, order_of(take(end, rows), take(acc.columns["index"], rows)))
    found: list[Outage] = []
    streak: list[int] = []
    for row in [*ended, None]:
        if row is not None and outcome[row] == _FAILED:
            streak.append(end[row])
            continue
        if len(streak) >= MIN_FAILURES:
            found.append(_outage(acc, streak))
        streak = []
    return _merged(found)


def _outage(acc: Accumulator, failures_ns: list[int]) -> Outage:
    began = failures_ns[0]
    outcome, sent, first = acc.columns["outcome"], acc.columns["sent"], acc.columns["first"]
    answers = (
        first[row] for row in range(len(acc)) if outcome[row] == _OK and first[row] != ABSENT and sent[row] != ABSENT and sent[row] >= began
    )
    recovered = min(answers, default=None)
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
