"""One metric's summary against Python's own statistics, and a rate's against single rates."""

from __future__ import annotations

import statistics

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bytemlperf.statistics.metric import Metric, describe, rate
from bytemlperf.statistics.statistics import nearest_rank, needed_count, parse_percentile

TIMES = st.lists(st.integers(1, 10**12), min_size=1, max_size=80)


@settings(deadline=None)
@given(TIMES)
def test_a_metric_is_what_python_computes(values):
    metric = describe(values, "ns", "f", ("50", "90"))
    assert (metric.count, metric.min, metric.max) == (len(values), min(values), max(values))
    assert metric.mean == pytest.approx(statistics.fmean(values), rel=1e-15)
    assert metric.std is None if len(values) == 1 else metric.std == pytest.approx(statistics.stdev(values))
    for text, value in metric.percentiles.items():
        share = parse_percentile(text)
        claimed = len(values) >= needed_count(share)
        assert value == (sorted(values)[nearest_rank(len(values), share) - 1] if claimed else "insufficient")
        assert (metric.ci95[text] == "insufficient") <= (value == "insufficient" or len(values) > 19)


@settings(deadline=None)
@given(TIMES)
def test_a_rate_is_work_over_mean_time_and_its_spread_that_of_single_ones(times):
    metric = rate(100, times, "1/s", "f")
    single = sorted(100 * 1e9 / time for time in times)
    assert metric.mean == pytest.approx(100 * 1e9 / statistics.fmean(times))
    assert (metric.min, metric.max) == (single[0], single[-1])
    for text, value in metric.percentiles.items():
        share = parse_percentile(text)
        claimed = len(times) >= needed_count(share)
        assert value == (single[nearest_rank(len(times), share) - 1] if claimed else "insufficient")
    if metric.ci95["mean"] != "insufficient":
        low, high = metric.ci95["mean"]
        assert low <= metric.mean * (1 + 1e-12)
        assert high >= metric.mean * (1 - 1e-12)


def test_nothing_is_claimed_without_samples():
    assert describe([], "ns", "") is None
    assert rate(10, [], "1/s", "") is None
    assert set(describe([5, 6, 7], "ns", "").percentiles.values()) == {"insufficient"}


def test_json_keeps_a_metric_and_leaves_out_what_a_suite_does_not_have():
    metric = describe([5, 6, 7, 8, 9, 10, 11], "ns", "f")
    content = msgspec.json.encode(metric)
    assert msgspec.json.decode(content, type=Metric) == msgspec.structs.replace(metric)
    assert b"percentiles_with_failures" not in content
    assert b'"percentiles_with_failures":null' in msgspec.json.encode(describe([5], "ns", "f", (), None))
