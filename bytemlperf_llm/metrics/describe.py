"""Summary of a metric of tokens: values that come in clusters, the requests."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from bytemlperf.lazy import numpy
from bytemlperf.statistics.clusters import ClusteredColumn
from bytemlperf.statistics.columns import Column, Ordered, dot, total_of
from bytemlperf.statistics.metric import Claim, Metric, metric_of
from bytemlperf.statistics.statistics import (
    INSUFFICIENT,
    Interval,
    effective_count,
    effective_interval,
    mean_interval,
    needed_count,
    parse_percentile,
    percentile,
)
from bytemlperf_llm.metrics.definitions import FORMULAS

_MEDIAN = Fraction(1, 2)


def describe_tokens(name: str, values: ClusteredColumn, rank: Column, percentiles: Sequence[str]) -> Metric | None:
    """Summary of a per-token metric; `rank` gives a row's place in canonical order. A percentile
    is claimed when the effective sample carries it and those nearer the median: tokens of one request aren't independent."""
    if not len(values):
        return None
    ordered = values.ordered()
    places = numpy.argsort(rank[values.rows], kind="stable")
    sums, sizes = values.sums[places], values.lengths[places]
    found = _carried(values, places, sizes, ordered, percentiles)
    totals = (total_of(sums), values.sum_of_squares())
    intervals: dict[str, Interval] = {"mean": mean_interval(sums, sizes), **{text: found[text][1] for text in percentiles}}
    metric = metric_of("ns", FORMULAS[name], ordered, totals, {text: found[text][0] for text in percentiles}, intervals)
    metric.effective_count, metric.percentiles_with_failures = _clustered_count(sums, sizes, totals), None
    return metric


def _carried(
    values: ClusteredColumn, places: Column, sizes: Column, ordered: Ordered, percentiles: Sequence[str]
) -> dict[str, tuple[Claim, Interval]]:
    """Percentiles and their intervals, from the median outwards: behind one that the sample can't carry there is none."""
    found: dict[str, tuple[Claim, Interval]] = {}
    lost: set[bool] = set()  # sides of the median
    for text in sorted(percentiles, key=lambda text: abs(parse_percentile(text) - _MEDIAN)):
        share = parse_percentile(text)
        value, sides = percentile(ordered, share), {share > _MEDIAN, share >= _MEDIAN}
        worth = 0.0 if sides & lost else effective_count(values.counts_at_most(value)[places], sizes, share)
        if worth >= needed_count(share):
            found[text] = value, effective_interval(ordered, share, worth)
        else:
            found[text] = INSUFFICIENT, INSUFFICIENT
            lost |= sides
    return found


def _clustered_count(sums: Column, sizes: Column, totals: tuple[int, int]) -> int:
    """n over the mean's design effect (Kish, Survey Sampling, 1965, 8.2), at most n."""
    count, clusters = total_of(sizes), len(sizes)
    if clusters < 2:
        return clusters
    total, squares = totals
    spread = count * count * dot(sums, sums) - 2 * count * total * dot(sums, sizes) + total * total * dot(sizes, sizes)
    plain = Fraction(count * squares - total * total, count * (count - 1))
    variance = Fraction(clusters * spread, (clusters - 1) * count**4)  # spread: Σ(count · sum − total · size)²
    return min(count, int(plain / variance)) if variance else count
