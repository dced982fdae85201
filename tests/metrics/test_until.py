"""`--until`: the looks, their errors, and that the interval which ends a run covers as often as it says."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest

from benchmarks.capacity import ENGINES, Stream
from bytemlperf.errors import UserError
from bytemlperf.statistics.columns import ABSENT, Column
from bytemlperf.units import NS_PER_S
from bytemlperf_llm.metrics.until import Until, errors, last_look, parse_until
from bytemlperf_llm.run.summarise import in_order


@pytest.mark.parametrize(
    ("text", "metric", "share", "within"),
    [
        ("ttft p99 ±10%", "ttft", Fraction(99, 100), 0.1),
        ("e2el p99.9 +-2.5 %", "e2e", Fraction(999, 1000), 0.025),
        ("TPOT mean +/-5%", "tpot", None, 0.05),
    ],
)
def test_a_figure_and_its_width(text: str, metric: str, share: Fraction | None, within: float) -> None:
    until = parse_until(text)
    assert (until.metric, until.share) == (metric, share)
    assert until.within == pytest.approx(within)


@pytest.mark.parametrize("text", ["", "ttft", "ttft p99", "itl p99 ±10%", "ttft p0 ±10%", "ttft p99 ±0%", "ttft p99 10%", "ttft p99 ±200%"])
def test_what_is_none_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"--until|percentile"):
        parse_until(text)


def test_the_errors_of_all_looks_sum_to_five_percent() -> None:
    sizes, spent = zip(*errors(parse_until("ttft p99 ±10%"), 10**12), strict=True)
    assert sizes[0] == 459
    assert all(later >= 1.49 * size for size, later in pairwise(sizes))
    assert 0.045 < sum(spent) <= 0.05
    sizes, spent = zip(*errors(parse_until("ttft p99 ±10%", budget=20_000), 20_000), strict=True)
    assert (sizes[0], sizes[-1]) == (459, 20_000)
    assert sum(spent) == pytest.approx(0.05)
    assert spent[-1] > 0.01  # the last look has most of it


def test_a_run_ends_at_the_first_narrow_look_whatever_came_after_it() -> None:
    until = parse_until("ttft mean ±10%")
    values = np.random.default_rng(1).integers(90, 110, 5_000) * 1_000_000
    reached = last_look(until, values)
    assert (reached.reached, reached.requests) == (True, 60)
    assert last_look(until, values[:59]).requests == 0
    assert last_look(until, values[:700]) == reached
    assert "reached with 60 requests" in reached.sentence()


def test_requests_without_the_figure_count_as_sent_and_not_as_samples() -> None:
    until = parse_until("ttft p50 ±50%")
    values: Column = np.full(200, 1_000_000, "i8")
    values[:10] = ABSENT
    assert last_look(until, values[: until.first]).value_ns is None
    assert last_look(until, values).reached


def test_figures_of_a_run_are_those_of_the_schedules_first_requests_without_a_gap() -> None:
    index = np.array([2, 0, 1, 5, 4], "i8")  # 3 has no record
    columns = {"index": index, "first": 10 + index, "due": np.zeros(5, "i8")}
    assert in_order(columns, "ttft", np.array([0, 1, 3, 4], "i8")).tolist() == [10, ABSENT, 12]


def holds(until: Until, seed: int) -> bool:
    """Whether the last look's interval on M/M/1 at 70 % load holds the truth, P(sojourn > t) = exp(−30 t)."""
    assert until.share is not None
    rng = np.random.default_rng(seed)
    stream = Stream(ENGINES["M/M/1"], 70.0, rng)
    stream.more(500)
    truth = -math.log(1 - float(until.share)) / 30 * NS_PER_S
    reached = last_look(until, (stream.more(20_000)[1] * NS_PER_S).astype("i8"))
    return reached.low_ns is None or reached.high_ns is None or reached.low_ns <= truth <= reached.high_ns


def test_the_interval_that_ends_a_run_of_dependent_requests_covers() -> None:
    for text in ("e2el p90 ±20%", "e2el p99 ±30%"):
        until = parse_until(text, budget=20_000)
        assert sum(holds(until, seed) for seed in range(120)) >= 110  # 114 or more expected; fewer than 110 once in 50
