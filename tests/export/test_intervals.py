"""Live histograms: the intervals of an answer fall where a naive count puts them."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from bytemlperf.export.prometheus import Histogram
from bytemlperf_llm.live import metrics
from bytemlperf_llm.live.metrics import add_intervals
from bytemlperf_llm.metrics import definitions

BOUNDS = (0, 5, 10, 100)
BURST = 3


@pytest.fixture(autouse=True)
def _burst(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "BURST_NS", BURST)
    monkeypatch.setattr(definitions, "BURST_NS", BURST)


def test_gaps_fall_into_the_bucket_whose_bound_they_reach():
    counts = Histogram(BOUNDS)
    assert add_intervals(counts, [1, 1, 6, 10, 20, 203, 303], [0, 1, 1, 1, 1, 1, 1]) == (1, 303)
    assert counts.counts == [0, 2, 1, 1, 1]


def test_tokens_of_one_burst_share_its_time_however_they_were_read():
    whole, split = Histogram(BOUNDS), Histogram(BOUNDS)
    assert add_intervals(whole, [10, 40], [3, 4]) == (10, 40)
    assert add_intervals(split, [10, 10, 37, 39, 40], [1, 2, 1, 2, 1]) == (10, 40)
    assert whole.counts == split.counts == [2, 0, 4, 0, 0]


def test_a_chunk_of_very_many_tokens_takes_no_longer():
    counts = Histogram(BOUNDS)
    assert add_intervals(counts, [10, 20], [1, 1 << 40]) == (10, 20)
    assert counts.counts == [(1 << 40) - 10, 10, 0, 0, 0]


def test_no_tokens():
    counts = Histogram(BOUNDS)
    assert add_intervals(counts, [10, 20], [0, 0]) is None
    assert add_intervals(counts, [], []) is None
    assert counts.counts == [0] * 5


def naive_intervals(times, tokens):
    """Token by token: who came at most BURST after the one before is of its burst; each burst's time is dealt out ns by ns."""
    each = [stamp for stamp, many in zip(times, tokens, strict=True) for _ in range(many)]
    bursts = []
    for before, stamp in pairwise(each):
        if bursts and stamp - before <= BURST:
            bursts[-1][0] += stamp - before
            bursts[-1][1] += 1
        else:
            bursts.append([stamp - before, 1])
    return each, [(time + many - 1 - place) // many for time, many in bursts for place in range(many)]


def test_any_answer_equals_a_naive_count():
    draw = random.Random(3)
    for _ in range(300):
        chunks = draw.randrange(30)
        times = sorted(draw.randrange(400) for _ in range(chunks))
        tokens = [draw.choice((0, 1, 1, 2, 5)) for _ in range(chunks)]
        each, intervals = naive_intervals(times, tokens)
        expected = [sum(low < gap <= high for gap in intervals) for low, high in pairwise([-1, *BOUNDS, 1 << 40])]
        counts = Histogram(BOUNDS)
        ends = add_intervals(counts, times, tokens)
        assert counts.counts == expected
        assert ends == ((each[0], each[-1]) if each else None)


@pytest.mark.parametrize("compiled", [False, True], ids=["python", "compiled"])
def test_compiled_and_in_python_they_drain_the_same(compiled):
    if compiled and metrics.bin_intervals is None:
        pytest.skip("bytemlperf_llm/_stamps.c was not compiled here")
    draw = random.Random(5)
    intervals = metrics.Intervals((1e-3, 5e-3, 1e-1), compiled=compiled)
    expected, total_ns = [0] * 4, 0
    for _ in range(300):
        times = sorted(draw.randrange(10**9) for _ in range(draw.randrange(1, 30)))
        tokens = [draw.choice((0, 1, 1, 2, 5)) for _ in times]
        counts = Histogram((10**6, 5 * 10**6, 10**8))
        ends = add_intervals(counts, times, tokens)
        assert intervals.add(times, tokens) == ends
        expected = [mine + theirs for mine, theirs in zip(expected, counts.counts, strict=True)]
        total_ns += 0 if ends is None else ends[1] - ends[0]
    drained = intervals.drain()
    assert drained.counts == expected
    assert drained.total == pytest.approx(total_ns / 1e9)
    assert intervals.drain().counts == [0] * 4
