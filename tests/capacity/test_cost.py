"""Price and energy of a million tokens."""

from __future__ import annotations

import pytest

from bytemlperf.errors import UserError
from bytemlperf.hardware import cards
from bytemlperf.hardware.measured import parse_device
from bytemlperf_llm.capacity.cost import Hardware, Rates, cost_of, hardware_of


def test_price_and_joules_of_a_million_tokens() -> None:
    hardware = Hardware(price_per_hour=3.6, currency="USD", tdp_watts=700.0, tdp_source="TDP of a card")
    cost = cost_of(Rates(output_tokens_per_s=500.0, input_tokens_per_s=1500.0), hardware)
    assert cost is not None
    assert cost.price_per_million_output_tokens == pytest.approx(2.0)  # 0.001 a second over 500 tokens a second
    assert cost.price_per_million_tokens == pytest.approx(0.5)
    assert cost.joules_per_million_output_tokens == pytest.approx(1.4e6)
    assert cost.watts_source == "TDP of a card"


def test_measured_power_goes_before_the_tdp() -> None:
    rates = Rates(output_tokens_per_s=100.0, watts=50.0, watts_source="measured by RAPL")
    cost = cost_of(rates, Hardware(tdp_watts=700.0, tdp_source="TDP of a card"))
    assert cost is not None
    assert (cost.watts, cost.watts_source) == (50.0, "measured by RAPL")
    assert cost.joules_per_million_output_tokens == pytest.approx(5e5)
    assert cost.joules_per_million_tokens is None


def test_nothing_known_is_no_cost() -> None:
    assert cost_of(Rates(output_tokens_per_s=100.0), Hardware()) is None


def test_the_users_price_goes_before_the_cards() -> None:
    known = cards.load()
    device = parse_device("h100*2", known).device(known)
    hardware = hardware_of("98.32 USD", device)
    assert (hardware.price_per_hour, hardware.currency, hardware.price_source) == (98.32, "USD", "--price-per-hour")
    assert hardware.tdp_watts == 1400.0
    assert hardware.tdp_source.startswith("TDP of 2 × ")


@pytest.mark.parametrize("text", ["2.50", "USD 2.50", "0 USD", "-1 USD", "2.5 usd", "2,50 EUR"])
def test_a_price_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="--price-per-hour"):
        hardware_of(text, None)
