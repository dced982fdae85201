"""Arrivals: the processes are what they are called, exactly seeded, and never drift."""

from __future__ import annotations

import hashlib
import math
from itertools import islice, pairwise

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bytemlperf.arrivals.processes import OpenProcess, Ramp, bounded, offsets_ns
from bytemlperf.units import NS_PER_S

SAMPLES = 100_000


def gaps_s(process: OpenProcess, rate: float, seed: int, burstiness: float = 1.0) -> npt.NDArray[np.float64]:
    offsets = list(islice(offsets_ns(process, rate=rate, burstiness=burstiness, seed=seed), SAMPLES))
    return np.diff(np.array([0, *offsets], dtype=np.int64)) / NS_PER_S


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_poisson_has_the_rate_and_distribution_of_poisson(seed: int) -> None:
    gaps = gaps_s("poisson", 100.0, seed)
    assert abs(gaps.mean() * 100 - 1) < 4 / math.sqrt(SAMPLES)
    # Kolmogorov-Smirnov against the exponential law; 1.63 / sqrt(n) is its 1 % critical value.
    ordered = 1 - np.exp(-np.sort(gaps) * 100)
    steps = np.arange(SAMPLES + 1) / SAMPLES
    assert max(np.abs(ordered - steps[1:]).max(), np.abs(ordered - steps[:-1]).max()) < 1.63 / math.sqrt(SAMPLES)
    # Neighbouring gaps are independent.
    assert abs(np.corrcoef(gaps[1:], gaps[:-1])[0, 1]) < 4 / math.sqrt(SAMPLES)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_poisson_counts_have_dispersion_one(seed: int) -> None:
    counts = np.bincount(np.cumsum(gaps_s("poisson", 100.0, seed)).astype(int))[:-1]
    dispersion = counts.var(ddof=1) / counts.mean()
    assert abs(dispersion - 1) < 4 * math.sqrt(2 / len(counts))


@pytest.mark.parametrize("burstiness", [0.1, 0.5, 2.0, 7.5])
def test_gamma_gaps_have_mean_one_over_rate_and_squared_cv_one_over_burstiness(burstiness: float) -> None:
    gaps = gaps_s("gamma", 50.0, 3, burstiness)
    squared_cv = gaps.var() / gaps.mean() ** 2
    assert gaps.mean() * 50 == pytest.approx(1, abs=4 / math.sqrt(SAMPLES * burstiness))
    # Variance of a sample variance: (kurtosis - 1) / n, with kurtosis 3 + 6 / shape.
    assert squared_cv * burstiness == pytest.approx(1, abs=5 * math.sqrt((2 + 6 / burstiness) / SAMPLES))


def test_burstiness_one_is_poisson_to_the_nanosecond() -> None:
    poisson = offsets_ns("poisson", rate=3.0, seed=9)
    assert list(islice(offsets_ns("gamma", rate=3.0, burstiness=1.0, seed=9), 500)) == list(islice(poisson, 500))


def test_constant_is_exact_to_the_nanosecond_for_ever() -> None:
    assert list(islice(offsets_ns("constant", rate=3.0), 4)) == [0, 333_333_333, 666_666_667, 1_000_000_000]
    assert next(islice(offsets_ns("constant", rate=0.1), 100_000, None)) == 1_000_000 * NS_PER_S
    assert next(islice(offsets_ns("constant", rate=7.0), 700_000, None)) == 100_000 * NS_PER_S


def test_at_once_is_at_zero() -> None:
    assert list(bounded(offsets_ns("at_once"), num_requests=3)) == [0, 0, 0]


def test_bounded_ends_by_number_and_by_duration() -> None:
    def half_seconds() -> list[int]:
        return list(bounded(offsets_ns("constant", rate=2.0), num_requests=10, duration_ns=2 * NS_PER_S))

    assert half_seconds() == [0, NS_PER_S // 2, NS_PER_S, 3 * NS_PER_S // 2]
    assert len(list(bounded(offsets_ns("constant", rate=2.0), num_requests=3, duration_ns=2 * NS_PER_S))) == 3


PINNED = {
    ("poisson", 1.0): "b8c945e5e48841724dabccd89c1fd3dfd16e1c4c3ca915772f923b08eae6dde7",
    ("gamma", 0.3): "7f1bf5b2f7004f6bcef3c039567aafa95d49fd36f15d36e0402b2c5066b7a90a",
    ("gamma", 4.0): "1eedc20e5b4791c1ad51c0cb7b921313db59e36f17e46b59f6c5797b9b2769f9",
}


@pytest.mark.parametrize(("process", "burstiness"), list(PINNED))
def test_offsets_are_the_same_on_every_machine(process: OpenProcess, burstiness: float) -> None:
    offsets = islice(offsets_ns(process, rate=12.5, burstiness=burstiness, seed=42), 10_000)
    assert hashlib.sha256(",".join(map(str, offsets)).encode()).hexdigest() == PINNED[process, burstiness]


def test_seeds_differ() -> None:
    first = {next(offsets_ns("poisson", rate=1.0, seed=seed)) for seed in range(100)}
    assert len(first) == 100


rates = st.floats(min_value=1e-3, max_value=1e6)


@settings(max_examples=200, deadline=None)
@given(
    process=st.sampled_from(["poisson", "constant", "gamma"]),
    rate=rates,
    burstiness=st.floats(min_value=0.01, max_value=1000),
    seed=st.integers(),
    ramp=st.one_of(
        st.none(),
        st.builds(Ramp, st.sampled_from(["linear", "exponential"]), rates, rates, st.integers(1, 300), st.none()),
        st.builds(Ramp, st.sampled_from(["linear", "exponential"]), rates, rates, st.none(), st.integers(10**6, 10**13)),
    ),
)
def test_offsets_never_decrease(process: OpenProcess, rate: float, burstiness: float, seed: int, ramp: Ramp | None) -> None:
    offsets = list(islice(offsets_ns(process, rate=rate, burstiness=burstiness, seed=seed, ramp=ramp), 200))
    assert offsets[0] >= 0
    assert all(type(each) is int for each in offsets)
    assert all(a <= b for a, b in pairwise(offsets))


@pytest.mark.parametrize("rate", [0.0, -1.0, math.inf, math.nan, None])
def test_a_rate_that_is_none_is_refused(rate: float | None) -> None:
    with pytest.raises(ValueError, match="is not a number above 0"):
        next(offsets_ns("poisson", rate=rate))


def test_a_ramp_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="both rates must be above 0"):
        offsets_ns("poisson", ramp=Ramp("linear", 0.0, 4.0, 10))
    with pytest.raises(ValueError, match="needs num_requests or duration_ns"):
        offsets_ns("poisson", ramp=Ramp("linear", 1.0, 4.0))


@pytest.mark.parametrize("strategy", ["linear", "exponential"])
def test_ramp_over_requests_has_vllms_rate_at_every_request(strategy: str) -> None:
    ramp = Ramp("linear" if strategy == "linear" else "exponential", 2.0, 32.0, num_requests=101)
    offsets = list(islice(offsets_ns("constant", ramp=ramp), 101))
    for index in range(1, 101):
        progress = index / 100
        rate = 2 + 30 * progress if strategy == "linear" else 2 * 16**progress
        assert offsets[index] - offsets[index - 1] == pytest.approx(NS_PER_S / rate, abs=1)


@pytest.mark.parametrize(
    ("strategy", "start", "end"), [("linear", 2, 32), ("linear", 32, 2), ("exponential", 2, 32), ("exponential", 9, 9)]
)
def test_ramp_over_time_sends_as_many_as_the_integral_of_the_rate(strategy: str, start: float, end: float) -> None:
    span_s = 100
    ramp = Ramp("linear" if strategy == "linear" else "exponential", start, end, duration_ns=span_s * NS_PER_S)
    offsets = np.array(list(bounded(offsets_ns("constant", ramp=ramp), duration_ns=span_s * NS_PER_S)))
    for until_s in (10, 35, 60, 100):
        share = until_s / span_s
        if strategy == "linear":
            expected = start * until_s + (end - start) * until_s * share / 2
        else:
            expected = start * until_s if start == end else start * span_s / math.log(end / start) * ((end / start) ** share - 1)
        assert abs((offsets < until_s * NS_PER_S).sum() - expected) <= 1


def test_a_ramp_over_time_keeps_its_end_rate_afterwards() -> None:
    ramp = Ramp("linear", 1.0, 10.0, duration_ns=2 * NS_PER_S)
    offsets = list(islice(offsets_ns("constant", ramp=ramp), 40))
    assert offsets[-1] - offsets[-2] == pytest.approx(NS_PER_S / 10, abs=1)
