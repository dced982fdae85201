"""Rates of each run per watt and per currency of its hardware, by the spec cards.

Power is the TDP that the card states, never a measurement; a price is the card's or the user's own.
Where a run's machine matches no card, or the card has no price, the cell is empty.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from bytemlperf.compare.comparison import Comparison, Row
from bytemlperf.errors import UserError
from bytemlperf.hardware import cards as api
from bytemlperf.hardware import measured
from bytemlperf.hardware.card import Card
from bytemlperf.report.text import number
from bytemlperf.runs.folder import part
from bytemlperf.runs.kinds import Table

MAX_ROWS = 24
PER_PRICE = 1000.0
MILLION = 1e6
SECONDS_PER_HOUR = 3600.0
PARALLEL_OPTIONS = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size")


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """What a run ran on: a card, and how many of it."""

    card: Card
    count: int

    @property
    def watts(self) -> float | None:
        watts = api.tdp_watts(self.card)
        return None if watts is None else watts * self.count

    def price(self, basis: str) -> tuple[float, str] | None:
        found = api.price(self.card, basis)
        return None if found is None else (found.amount * self.count, found.currency)


def devices_of(comparison: Comparison, chosen: Mapping[str, str], cards: Mapping[str, Card] | None = None) -> list[Device | None]:
    """The device of each run: the one chosen for its name, else the one that the run states, else the one that its own
    hardware matches; None for a server that nothing is stated of. Raises UserError."""
    known = api.load_or(cards)
    unknown = [name for name in chosen if name not in comparison.names and name != "*"]
    if unknown:
        raise UserError(f"--card matches none of these runs: {', '.join(unknown)}", f"the runs are called {', '.join(comparison.names)}")
    return [
        device_of(view.run, chosen.get(name, chosen.get("*")), known) for name, view in zip(comparison.names, comparison.views, strict=True)
    ]


def device_of(run: Mapping[str, object], name: str | None, cards: Mapping[str, Card]) -> Device | None:
    """Of one run.json: `name` (CARD or CARD*COUNT), else what the run states, else what its own hardware matches; None where nothing
    does. Raises UserError for a name that no card has."""
    stated = measured.parse_device(name, cards) if name else measured.stated(run, cards)
    hardware = measured.hardware_of(run)
    if stated is not None and (stated.used > 1 or measured.is_remote(run)):
        return Device(card=cards[stated.card_id], count=stated.used)
    card = api.match(hardware, cards) if stated is None else cards[stated.card_id]
    return None if card is None else Device(card=card, count=_count(run, hardware, card))


def _count(run: Mapping[str, object], hardware: dict[str, Any], card: Card) -> int:
    """Devices that worked: as the engine was told to split the model, else all that the machine shows."""
    options = part(run, "config", "engine_options")
    told = [int(options[name]) for name in PARALLEL_OPTIONS if str(options.get(name, "")).isdigit()]
    if told:
        product = 1
        for each in told:
            product *= max(each, 1)
        return product
    if card.kind == "cpu":
        sockets = part(hardware, "cpu").get("sockets")
        return sockets if isinstance(sockets, int) and sockets > 0 else 1
    gpus = hardware.get("gpus")
    return max(1, len(gpus)) if isinstance(gpus, list) else 1


def normalised_table(comparison: Comparison, devices: Sequence[Device | None]) -> Table | None:
    """Every rate per watt and per thousand of the currency, tokens also by the rented hour; None without any card."""
    rates = [row for row in comparison.rows if row.better == "higher" and row.unit.endswith("/s")][:MAX_ROWS]
    rows = [cells for row in rates for cells in _rows(row, devices)]
    if not rows:
        return None
    named = (
        f"{name}: {f'{device.count} × {device.card.name}' if device else measured.UNKNOWN if measured.is_remote(view.run) else 'no card'}"
        for name, device, view in zip(comparison.names, devices, comparison.views, strict=True)
    )
    note = f"{', '.join(named)}. Power is the published TDP, not a measurement; prices are those of the cards, or your own by --cards."
    return Table(title="To power and price", columns=["", *comparison.names], rows=rows, note=note)


def _rows(row: Row, devices: Sequence[Device | None]) -> list[list[str | float | int | None]]:
    amount = row.unit.removesuffix("/s")
    pairs = [(side.figure.value if side.figure else None, device) for side, device in zip(row.sides, devices, strict=True)]
    found = [(f"{amount}/J (per watt of TDP)", [_over(value, device.watts if device else None) for value, device in pairs])]
    for currency in _currencies(devices, "purchase"):
        per_price = [_over(value, _money(device, "purchase", currency), PER_PRICE) for value, device in pairs]
        found.append((f"{row.unit} per {PER_PRICE:,.0f} {currency}", per_price))
    for currency in _currencies(devices, "hour") if amount == "tokens" else ():
        cost = [_over(_money(device, "hour", currency), value, MILLION / SECONDS_PER_HOUR) for value, device in pairs]
        found.append((f"{currency} per million, by the hour", cost))
    return [
        [f"{row.label}, {name}", *(None if each is None else number(each) for each in values)]
        for name, values in found
        if any(each is not None for each in values)
    ]


def _currencies(devices: Sequence[Device | None], basis: str) -> list[str]:
    return sorted({price[1] for device in devices if device and (price := device.price(basis))})


def _money(device: Device | None, basis: str, currency: str) -> float | None:
    price = device.price(basis) if device else None
    return price[0] if price and price[1] == currency else None


def _over(value: float | None, by: float | None, times: float = 1.0) -> float | None:
    return None if value is None or not by else value / by * times
