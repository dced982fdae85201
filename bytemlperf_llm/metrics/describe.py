"""One metric's summary: from a column of integers to mean, spread, percentiles and intervals."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Literal

import msgspec

from bytemlperf.statistics.arrays import ClusteredColumn, order_of, sort_values, sum_of_squares
from bytemlperf.statistics.columns import dot, take
from bytemlperf.statistics.statistics import (
    INSUFFICIENT,
    Interval,
    autocorrelation_factor,
    deviation,
    effective_count,
    effective_interval,
    mean_interval,
    nearest_rank,
    needed_count,
    parse_percentile,
    percentile,
    sample_interval,
)
from bytemlperf_llm.metrics.definitions import FORMULAS

_MEDIAN = Fraction(1, 2)
Claim = int | Literal["insufficient", "inf"]
"""A percentile in ns; `insufficient` when the sample can't carry it; `inf` when it lies among
requests that never ended."""


class Metric(msgspec.Struct, kw_only=True):
    """Summary of one metric. Times are nanoseconds (`unit`), of requests that ended ok.

    `ci95` has the key `mean` and one for each percentile: [low, high] or "insufficient".
    `percentiles_with_failures` counts failed, cancelled and in-flight requests as infinite; it's
    None for metrics that aren't of whole requests. `effective_count` is how many independent
    values the sample is worth for its mean (less than `count` when autocorrelated or clustered).
    """

    unit: str
    formula: str
    count: int
    mean: float
    std: float | None
    min: int
    max: int
    percentiles: dict[str, Claim]
    ci95: dict[str, Interval]
    percentiles_with_failures: dict[str, Claim] | None = None
    effective_count: int


def describe_requests(name: str, values: Sequence[int], percentiles: Sequence[str], infinite: int | None = None) -> Metric | None:
    """Summary of a per-request metric, values in time order; None without values.

    Whether a percentile is claimed depends on the count alone.
    """
    if not values:
        return None
    ordered = sort_values(values)

    def interval(share: Fraction) -> Interval:
        return sample_interval(values, ordered, share)

    claims = {text: claim(ordered, 0, parse_percentile(text)) for text in percentiles}
    with_failures = None if infinite is None else {text: claim(ordered, infinite, parse_percentile(text)) for text in percentiles}
    return _metric(
        name,
        ordered,
        (sum(values), sum_of_squares(values)),
        claims,
        _intervals(claims, interval, mean_interval(values, array("q", [1]) * len(values))),
        with_failures,
        int(len(values) / autocorrelation_factor(values)),
    )


def describe_tokens(name: str, column: ClusteredColumn, rank: Sequence[int], percentiles: Sequence[str]) -> Metric | None:
    """Summary of a per-token metric; `rank` gives a row's place in canonical order. A percentile
    is claimed when the effective sample carries it and those nearer the median: tokens of one request aren't independent."""
    if not len(column):
        return None
    ordered = column.ordered()
    places = order_of(take(rank, column.rows))
    sums, sizes = take(column.sums, places), take(column.lengths, places)
    found = _carried(column, places, sizes, ordered, percentiles)
    claims = {text: found[text][0] for text in percentiles}
    totals = (sum(sums), column.sum_of_squares())
    intervals = {"mean": mean_interval(sums, sizes), **{text: found[text][1] for text in percentiles}}
    return _metric(name, ordered, totals, claims, intervals, None, _clustered_count(sums, sizes, totals))


def _carried(
    column: ClusteredColumn, places: Sequence[int], sizes: Sequence[int], ordered: Sequence[int], percentiles: Sequence[str]
) -> dict[str, tuple[Claim, Interval]]:
    """Percentiles and their intervals, from the median outwards: behind one that the sample can't carry there is none."""
    found: dict[str, tuple[Claim, Interval]] = {}
    lost: set[bool] = set()  # sides of the median
    for text in sorted(percentiles, key=lambda text: abs(parse_percentile(text) - _MEDIAN)):
        share = parse_percentile(text)
        value, sides = percentile(ordered, share), {share > _MEDIAN, share >= _MEDIAN}
        worth = 0.0 if sides & lost else effective_count(take(column.counts_at_most(value), places), sizes, share)
        if worth >= needed_count(share):
            found[text] = value, effective_interval(ordered, share, worth)
        else:
            found[text] = INSUFFICIENT, INSUFFICIENT
            lost |= sides
    return found


def _metric(
    name: str,
    ordered: Sequence[int],
    totals: tuple[int, int],
    claims: dict[str, Claim],
    intervals: dict[str, Interval],
    with_failures: dict[str, Claim] | None,
    effective: int,
) -> Metric:
    count = len(ordered)
    return Metric(
        unit="ns",
        formula=FORMULAS[name],
        count=count,
        mean=float(Fraction(totals[0], count)),
        std=deviation(count, *totals),
        min=int(ordered[0]),
        max=int(ordered[-1]),
        percentiles=claims,
        ci95=intervals,
        percentiles_with_failures=with_failures,
        effective_count=effective,
    )


def claim(ordered: Sequence[int], infinite: int, share: Fraction) -> Claim:
    """The percentile over finite and infinite values together."""
    count = len(ordered) + infinite
    if count < needed_count(share):
        return INSUFFICIENT
    rank = nearest_rank(count, share)
    return int(ordered[rank - 1]) if rank <= len(ordered) else "inf"


def _intervals(claims: dict[str, Claim], interval: Callable[[Fraction], Interval], mean: Interval) -> dict[str, Interval]:
    of_percentiles = {text: INSUFFICIENT if claim == INSUFFICIENT else interval(parse_percentile(text)) for text, claim in claims.items()}
    return {"mean": mean, **of_percentiles}


def _clustered_count(sums: Sequence[int], sizes: Sequence[int], totals: tuple[int, int]) -> int:
    """n over the mean's design effect (Kish, Survey Sampling, 1965, 8.2), at most n."""
    count, clusters = sum(sizes), len(sizes)
    if clusters < 2:
        return clusters
    squares, total = totals[1], totals[0]
    parts, cross, shares = sum_of_squares(sums), dot(sums, sizes), sum_of_squares(sizes)
    spread = count * count * parts - 2 * count * total * cross + total * total * shares  # Σ(count · part − total · size)²
    plain = Fraction(count * squares - total * total, count * (count - 1))
    variance = Fraction(clusters * spread, (clusters - 1) * count**4)
    return min(count, int(plain / variance)) if variance else count
