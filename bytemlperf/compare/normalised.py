"""Rates of each run per watt and per currency of its hardware, by the spec cards.

Power is the TDP that the card states, never a measurement; a price is the card's or the user's own. Where a run's device, or how many
it used, is not known, or the card has no price, the cell is empty.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from bytemlperf.compare.comparison import Comparison, Row
from bytemlperf.errors import UserError
from bytemlperf.hardware.card import Card
from bytemlperf.hardware.compare import PER_CURRENCY
from bytemlperf.hardware.measured import Assignment, Device, assigned_to, device_of
from bytemlperf.report.text import number
from bytemlperf.runs.kinds import RATE_UNITS, Table

MAX_ROWS = 24
MILLION = 1e6


def devices_of(comparison: Comparison, assignments: Sequence[Assignment], known: Mapping[str, Card]) -> list[Device]:
    """The device of each run, as `hardware.measured` has it; what is assigned to a run by its name here, its folder or its label goes
    before. Raises UserError where no run has a name that fits."""
    runs = [(name, view.folder.name, view.label) for name, view in zip(comparison.names, comparison.views, strict=True)]
    if unknown := [assignment.pattern for assignment in assignments if not any(assignment.fits(*names) for names in runs)]:
        raise UserError(f"--card matches none of these runs: {', '.join(unknown)}", f"the runs are called {', '.join(comparison.names)}")
    return [
        device_of(view.run, known, assigned_to(names, assignments), view.suite.devices_used(view.run))
        for names, view in zip(runs, comparison.views, strict=True)
    ]


def normalised_table(comparison: Comparison, devices: Sequence[Device]) -> Table | None:
    """Every rate per watt and per thousand of the currency, tokens also by the rented hour; None without any card."""
    rates = [row for row in comparison.rows if row.better == "higher" and RATE_UNITS.search(row.unit)][:MAX_ROWS]
    rows = [cells for row in rates for cells in _rows(row, devices)]
    if not rows:
        return None
    named = ", ".join(f"{name}: {_named(device)}" for name, device in zip(comparison.names, devices, strict=True))
    note = f"{named}. Power is the published TDP, not a measurement; prices are those of the cards, or your own by --cards."
    return Table(title="To power and price", columns=["", *comparison.names], rows=rows, note=note)


def _named(device: Device) -> str:
    return device.text if device.used else f"{device.name} ({device.why})"


def _rows(row: Row, devices: Sequence[Device]) -> list[list[str | float | int | None]]:
    amount = row.unit.removesuffix("/s")
    of_row = [device.of(row.metric) for device in devices]

    def cells(name: str, normalise: Callable[[Device, float], float | None]) -> list[str | float | int | None]:
        values = [side.figure.value if side.figure else None for side in row.sides]
        normalised = [value and normalise(device, value) for value, device in zip(values, of_row, strict=True)]
        return [f"{row.label}, {name}", *(number(value) if value else None for value in normalised)]

    rows = [cells(f"{amount}/J (per watt of TDP)", Device.per_watt)]
    for currency in _currencies(devices, "purchase"):
        rows.append(cells(f"{row.unit} per {PER_CURRENCY:,.0f} {currency}", partial(Device.per_price, currency=currency)))
    for currency in _currencies(devices, "hour") if amount == "tokens" else ():
        rows.append(cells(f"{currency} per million, by the hour", partial(_per_million, currency=currency)))
    return [each for each in rows if any(each[1:])]


def _per_million(device: Device, rate: float, currency: str) -> float | None:
    bought = device.per_rent(rate, currency)
    return MILLION / bought if bought else None


def _currencies(devices: Sequence[Device], basis: str) -> list[str]:
    return sorted({price.currency for device in devices if (price := device.price(basis))})
