"""The durations that a server told of each request, summed up."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from bytemlperf.statistics.columns import ABSENT, total_of
from bytemlperf.statistics.metric import Metric, describe
from bytemlperf_llm.metrics.accumulator import Accumulator
from bytemlperf_llm.metrics.server_tally import COLUMN

FORMULA = "as the server measured it"


class ServerTimes(msgspec.Struct, frozen=True, kw_only=True):
    """`server_times` of summary.json: `durations` by name, of answered requests; `shares` of the summed E2E from sent of those that have
    it. `refused` metrics of Server-Timing were no duration, `impossible` ones were longer than their request, `unnamed` ones had a name
    beyond the first sixteen. `own_ids` responses had an id of the server's own, which is in their records."""

    durations: dict[str, Metric]
    shares: dict[str, float]
    refused: int
    impossible: int
    unnamed: int
    own_ids: int


def server_times_of(acc: Accumulator, percentiles: Sequence[str]) -> ServerTimes | None:
    """None where the server said nothing."""
    tally, rows = acc.server, acc.rows("ok")
    durations, shares = {}, {}
    whole = acc.columns["last"][rows] - acc.columns["sent"][rows]
    for ours in dict.fromkeys(tally.names.values()):
        values = acc.columns[COLUMN.format(ours)][rows]
        there = (values != ABSENT) & (acc.columns["last"][rows] != ABSENT)
        metric = describe(values[there], "ns", FORMULA, percentiles, None)
        if metric is not None:
            durations[ours] = metric
            shares[ours] = total_of(values[there]) / max(1, total_of(whole[there]))
    said = tally.refused or tally.impossible or tally.unnamed or tally.own_ids
    if not durations and not said:
        return None
    return ServerTimes(
        durations=durations,
        shares=shares,
        refused=tally.refused,
        impossible=tally.impossible,
        unnamed=tally.unnamed,
        own_ids=tally.own_ids,
    )
