"""What a million tokens cost at the load that holds: currency by the price of an hour, joules by measured power, else by TDP."""

from __future__ import annotations

import re

import msgspec

from bytemlperf.errors import UserError
from bytemlperf.hardware.measured import Device
from bytemlperf.report.text import number
from bytemlperf.runs.kinds import Table

MILLION, SECONDS_PER_HOUR = 1e6, 3600.0
_PRICE = re.compile(r"(\d{1,12}(?:\.\d+)?) *([A-Z]{3})")


class Rates(msgspec.Struct, frozen=True, kw_only=True):
    """Of one probe: tokens per second in its steady window, and the mean power that was measured meanwhile, with what measured it."""

    output_tokens_per_s: float | None = None
    input_tokens_per_s: float | None = None
    watts: float | None = None
    watts_source: str = ""


NO_RATES = Rates()


class Hardware(msgspec.Struct, frozen=True, kw_only=True):
    """What an hour of it costs and which power it is rated for, as far as that is known, and who says so."""

    price_per_hour: float | None = None
    currency: str = ""
    price_source: str = ""
    tdp_watts: float | None = None
    tdp_source: str = ""


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """Of a million tokens, of output alone and with the prompts'. None where price, power or tokens aren't known."""

    price_per_hour: float | None
    currency: str
    price_source: str
    watts: float | None
    watts_source: str
    price_per_million_output_tokens: float | None
    price_per_million_tokens: float | None
    joules_per_million_output_tokens: float | None
    joules_per_million_tokens: float | None

    def table(self, load: str) -> Table:
        names = ["million output tokens", "million tokens, prompts included"]
        prices = (self.price_per_million_output_tokens, self.price_per_million_tokens)
        joules = (self.joules_per_million_output_tokens, self.joules_per_million_tokens)
        rows: list[list[str | float | int | None]] = []
        if self.price_per_hour is not None:
            rows.append([f"{self.currency}, at {self.price_per_hour:.10g} an hour ({self.price_source})", *prices])
        if self.watts is not None:
            rows.append([f"joules, at {number(self.watts)} W ({self.watts_source})", *joules])
        return Table(title=f"Price and energy at {load}", columns=["", *names], rows=rows)


def hardware_of(price: str | None, device: Device | None) -> Hardware:
    """From `--price-per-hour`, "2.50 USD", and the hardware card. Raises UserError."""
    amount, currency, source = _given(price) if price is not None else (None, "", "")
    if device is None:
        return Hardware(price_per_hour=amount, currency=currency, price_source=source)
    if amount is None and (listed := device.price("hour")) is not None:
        amount, currency, source = *listed, f"hardware card, {device.text}"
    watts = device.watts
    rated = "" if watts is None else f"TDP of {device.text}"
    return Hardware(price_per_hour=amount, currency=currency, price_source=source, tdp_watts=watts, tdp_source=rated)


def _given(text: str) -> tuple[float, str, str]:
    match = _PRICE.fullmatch(text.strip())
    if match is None or not float(match[1]):
        raise UserError(f"--price-per-hour {text[:40]!r} is not a price", "give an amount and a currency, such as '2.50 USD'")
    return float(match[1]), match[2], "--price-per-hour"


def cost_of(rates: Rates, hardware: Hardware) -> Cost | None:
    """None where neither price nor power is known."""
    measured = rates.watts is not None
    watts, source = (rates.watts, rates.watts_source) if measured else (hardware.tdp_watts, hardware.tdp_source)
    if watts is None and hardware.price_per_hour is None:
        return None
    output = rates.output_tokens_per_s
    both = None if output is None or rates.input_tokens_per_s is None else output + rates.input_tokens_per_s
    hour = None if hardware.price_per_hour is None else hardware.price_per_hour / SECONDS_PER_HOUR
    return Cost(
        price_per_hour=hardware.price_per_hour,
        currency=hardware.currency,
        price_source=hardware.price_source,
        watts=watts,
        watts_source=source,
        price_per_million_output_tokens=_per_million(hour, output),
        price_per_million_tokens=_per_million(hour, both),
        joules_per_million_output_tokens=_per_million(watts, output),
        joules_per_million_tokens=_per_million(watts, both),
    )


def _per_million(per_s: float | None, tokens_per_s: float | None) -> float | None:
    return None if per_s is None or not tokens_per_s else per_s / tokens_per_s * MILLION
