"""The range of rates that a sweep finds, on servers of known capacity."""

from __future__ import annotations

import pytest

from bytemlperf_llm.sweep.auto import MOST_GAP, MOST_RATES, next_rate


def swept(ceiling_rps: float, capacity_rps: float, client_rps: float = float("inf")) -> dict[float, str]:
    """Verdicts by rate, of a server that is overloaded above its capacity and a client that is above its own."""
    verdicts: dict[float, str] = {}
    while (rate := next_rate(ceiling_rps, verdicts)) is not None:
        assert rate not in verdicts
        verdicts[rate] = "client-limited" if rate > client_rps else "overloaded" if rate > capacity_rps else "valid"
    return verdicts


@pytest.mark.parametrize("off", [0.05, 0.3, 0.7, 0.95, 1.0, 1.1, 1.7, 3.0, 20.0])
@pytest.mark.parametrize("capacity", [0.013, 4.2, 12_345.0])
def test_the_range_goes_from_a_light_load_to_the_plain_overload_however_far_off_the_probe_was(off: float, capacity: float) -> None:
    verdicts = swept(off * capacity, capacity)
    carried = [rate for rate, verdict in verdicts.items() if verdict == "valid"]
    overloaded = [rate for rate, verdict in verdicts.items() if verdict == "overloaded"]
    assert len(verdicts) <= MOST_RATES
    assert min(carried) <= 0.26 * capacity
    if off > 0.1:  # a probe that found a twentieth only is too far off for so few rates; the sweep says that its range ends early
        assert overloaded
        assert len(overloaded) <= 3
        assert min(overloaded) / max(carried) <= 1.01 * MOST_GAP


def test_a_good_probe_costs_eight_rates() -> None:
    assert swept(100, 101) == dict.fromkeys((10, 20, 40, 60, 80, 90, 100), "valid") | {120: "overloaded"}


def test_beyond_the_clients_limit_nothing_is_tried() -> None:
    verdicts = swept(100, 1_000, client_rps=70)
    assert verdicts == dict.fromkeys((10, 20, 40, 60), "valid") | dict.fromkeys((80, 90, 100), "client-limited")


def test_one_disturbed_rate_ends_nothing() -> None:
    verdicts = {10.0: "valid", 20.0: "client-limited"}
    assert next_rate(100, verdicts) == 40
    assert next_rate(100, verdicts | dict.fromkeys((40.0, 60.0, 80.0, 90.0, 100.0), "valid") | {120.0: "overloaded"}) is None


def test_a_rate_at_which_no_request_was_due_is_no_limit() -> None:
    verdicts = {10.0: ""}
    assert next_rate(100, verdicts) == 20
