"""The rules' arithmetic against the figures that MLCommons publishes, and the steady-state verdict on shapes that are known."""

from __future__ import annotations

from collections.abc import Callable

import numpy
import pytest

from bytemlperf.hardware import cards
from bytemlperf_llm.mlperf.disclosure import Node, System
from bytemlperf_llm.mlperf.power import Devices, system_power
from bytemlperf_llm.mlperf.regions import REGIONS, default_points, regions, uncovered
from bytemlperf_llm.mlperf.samples import certified, estimate, lower_percentile, samples_of
from bytemlperf_llm.mlperf.steady import Window, steady_state, trend
from tests.metrics.records import answered, failed
from tests.mlperf.made import closed_records


@pytest.mark.parametrize(
    ("percent", "least"), [("50", 11), ("75", 24), ("80", 31), ("90", 64), ("95", 130), ("97", 219), ("99", 662), ("99.9", 6636)]
)
def test_an_estimate_needs_as_many_samples_as_in_the_reference(percent: str, least: int) -> None:
    """mlcommons/endpoints, docs/early_stopping.md; LoadGen's mlperf.conf has the 662 of MultiStream."""
    values = numpy.arange(least)
    assert estimate(values[:-1], percent) is None
    assert estimate(values, percent) == least - 1  # the largest of them


def test_an_estimate_of_many_is_the_77th_highest() -> None:
    assert estimate(numpy.arange(10_000), "99") == 10_000 - 77


@pytest.mark.parametrize(("over", "least"), [(0, 459), (1, 662)])
def test_a_server_run_of_so_many_is_long_enough(over: int, least: int) -> None:
    assert certified(least, over, "99")
    assert not certified(least - 1, over, "99")


def test_percentiles_are_the_lower_of_two() -> None:
    assert lower_percentile(numpy.arange(11), "90.0") == 9
    assert lower_percentile(numpy.arange(10), "90.0") == 8


@pytest.mark.parametrize(
    ("c_max", "c_min", "bounds"),
    [(8192, 32, (32, 52, 437, 8192, 9012)), (256, 1, (1, 7, 41, 256, 282)), (1024, 16, (16, 26, 117, 1024, 1127))],
)
def test_the_worked_examples_of_the_regions(c_max: int, c_min: int, bounds: tuple[int, ...]) -> None:
    """Of the last the rules' text says 116, their algorithm and the checker 117."""
    assert regions(c_max, c_min) == bounds
    assert regions(32, 1) is None


def test_default_points_cover_every_region() -> None:
    assert default_points(256) == [1, 3, 6, 16, 40, 102, 256]
    for c_max in (33, 64, 256, 1000, 100_000):
        assert uncovered(default_points(c_max), c_max) == []
    assert uncovered([1, 64], 64) == ["low-concurrency-coverage", "med-concurrency-coverage", "point-count"]
    assert uncovered([40, 64], 96) == ["ultra-low-concurrency-coverage", "region-computation", "point-count", "offline-point-present"]


def test_regions_are_the_checkers_own() -> None:
    checker = pytest.importorskip("submission_checker.models.regions", reason="endpoints-submission-cli is not installed (extra dev)")
    for c_max in (33, 34, 40, 100, 256, 999, 4096):
        for c_min in (1, 2, 16, 32):
            theirs = checker.compute_regions(c_max, c_min)
            assert regions(c_max, c_min) == tuple(getattr(theirs, name).end for name in REGIONS)


def test_ttft_and_tpot_are_from_issue_and_after_the_first_fragment() -> None:
    records = [
        answered(0, None, 10, [110, 150, 210], tokens_per_chunk=[4, 2, 2]),
        answered(1, None, 20, [70]),  # a single fragment has no TPOT
        failed(2, None, 30, sent_ns=25_000_000),
    ]
    samples = samples_of(reversed(records))
    assert samples.ttft_ns().tolist() == [100_000_000, 50_000_000]
    assert samples.tpot_ns().tolist() == [25_000_000]
    assert (samples.requests, samples.output_tokens, samples.issue_span_ns) == (3, 9, 15_000_000)


def test_trends_are_told_from_noise() -> None:
    assert trend([1, 2, 3, 4, 5]) == 1
    assert trend([5, 4, 3, 2, 1]) == -1
    assert trend([1, 3, 2, 4]) == 0
    assert trend([1, 2, 3]) == 0
    assert trend([7.0] * 9) == 0


SHAPES: dict[str, tuple[Callable[[int], float], str, str]] = {
    "steady": (lambda index: 20.0, "STEADY STATE", "windowable"),
    "settling": (lambda index: 40.0 if index < 192 else 20.0, "STEADY STATE", "windowable"),
    "rising": (lambda index: 20.0 + 0.1 * (index // 64), "drifting_up", "insufficient_passes"),
    "rising late": (lambda index: 20.0 + max(0, index // 64 - 4), "drifting_up", "insufficient_passes"),
    "falling late": (lambda index: 20.0 - max(0, index // 64 - 5) * 0.2, "drifting_down", "insufficient_passes"),
    "a step": (lambda index: 20.0 if index < 2048 else 30.0, "anomaly", "windowable"),
    "creeping": (lambda index: 20.0 + 0.02 * (index // 64), "STEADY STATE", "windowable"),
    "a step, creeping": (lambda index: (20.0 if index < 2048 else 30.0) + 0.02 * (index // 64), "anomaly", "windowable"),
    "all over": (lambda index: 10.0 * 1.3 ** (index // 64), "not found", "insufficient_passes"),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_verdict_of_known_shapes(shape: str) -> None:
    tpot_ms, verdict, status = SHAPES[shape]
    steady = steady_state(samples_of(closed_records(4, 64 * 40, tpot_ms=tpot_ms)), 64, least_s=1)
    assert (steady.verdict, steady.status) == (verdict, status)
    if shape == "creeping":
        assert (steady.window.super_pass_start, steady.window.super_pass_end) == (1, 39)
    if verdict == "anomaly":
        assert steady.anomaly is not None
        assert steady.anomaly["super_pass"] == 32
        assert steady.anomaly["delta_percent"] == pytest.approx(50, abs=1.5)
        assert (steady.window.super_pass_start, steady.window.super_pass_end) == (1, 31)


def test_the_first_plateau_that_is_long_enough_counts() -> None:
    """Eight super-passes at 30 ms, then 32 at 20 ms."""
    records = samples_of(closed_records(4, 64 * 40, tpot_ms=lambda index: 30.0 if 128 <= index < 640 else 20.0))
    long, short = steady_state(records, 64, least_s=60), steady_state(records, 64, least_s=25)
    assert (long.status, long.window.super_pass_start, long.window.super_pass_end) == ("windowable", 10, 39)
    assert short.window.super_pass_end == 9


def test_short_runs_have_no_official_window() -> None:
    records = closed_records(4, 64 * 8)
    assert steady_state(samples_of(records), 64, least_s=600).status == "insufficient_duration"
    assert steady_state(samples_of(records[:256]), 64, least_s=1).status == "insufficient_passes"
    few = steady_state(samples_of(records[:63]), 64, least_s=1)
    assert (few.status, few.window) == ("partial_dataset", Window(super_pass_size=64))


def test_power_is_the_cards_and_checked_as_the_rules_compute_it() -> None:
    """Two CPUs of 350 W, eight accelerators of 700 W, NVLink of 8 × 900 GB/s at 5 pJ/bit: 288 W; half as much again for air."""
    devices = Devices(cards.find("intel-xeon-platinum-8480plus"), None, 2, cards.find("h200"), 8)
    power = system_power(System(), "s", devices)
    assert power is not None
    assert (power.kilowatts, power.estimated) == (round(1.5 * (700 + 5600 + 288) / 1000, 2), True)
    liquid = system_power(System(cooling="liquid"), "s", devices._replace(accelerators=1))
    assert liquid is not None
    assert (liquid.kilowatts, liquid.estimated) == (round(1.3 * 1400 / 1000, 2), False)
    for made in (power, liquid):
        checker = pytest.importorskip("submission_checker.models.file.system_power", reason="endpoints-submission-cli is not installed")
        theirs = checker.SystemPower.model_validate(made.descriptor).compute()
        assert (theirs.provisioned_power_kw, theirs.problems, bool(theirs.estimated)) == (made.kilowatts, [], made.estimated)


def test_no_power_is_made_up() -> None:
    unknown = Devices(None, "some CPU", 2, None, 0)
    assert system_power(System(), "s", unknown) is None
    assert system_power(System(node=Node(number_of_nodes=2)), "s", unknown._replace(cpu=cards.find("amd-epyc-9654"))) is None
    half = system_power(System(), "s", unknown._replace(accelerator=cards.find("h200"), accelerators=1))
    assert half is not None
    assert half.kilowatts is None
    assert "tdp_per_unit" not in half.descriptor["node_sets"][0]["components"]["cpu"]
