"""Cards side by side: rows of published figures, and what they come to per currency and per watt.

Pure: cards in, rows out; the table of the command line and the pages of the site print the same rows.
A figure that no card's source gives stays None; ratios of it are None too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, get_args

from bytemlperf.hardware import cards as api
from bytemlperf.hardware.card import Card, Dtype

PER_CURRENCY = 1000.0
"""Purchase prices are divided by this: performance per thousand of the currency."""

PER_WATT_DTYPE = "bf16"
"""The data type that performance per currency and per watt stand on, unless another is asked for."""


class Row(NamedTuple):
    """One figure of every card; `better` says which direction a reader looks for."""

    label: str
    unit: str
    values: tuple[float | None, ...]
    better: str = "higher"


def currency_of(cards: Sequence[Card]) -> str | None:
    """The currency that all priced cards share, None when none has a price or they differ."""
    found = {price.currency for card in cards for price in card.prices[:1]}
    return found.pop() if len(found) == 1 else None


def rows(cards: Sequence[Card], dtype: str = PER_WATT_DTYPE, currency: str | None = None) -> list[Row]:
    """Every figure that at least one card has. `currency` None takes the one that they share."""
    name = api.normal_dtype(dtype)
    money = currency or currency_of(cards)
    candidates = [
        *_peaks(cards),
        Row("memory", "GB", tuple(card.memory_gb.value if card.memory_gb else None for card in cards)),
        Row("memory bandwidth", "GB/s", tuple(_scaled(api.memory_bandwidth(card), api.GIGA) for card in cards)),
        Row("power (TDP)", "W", tuple(api.tdp_watts(card) for card in cards), "lower"),
        *(_money_rows(cards, name, money) if money else ()),
        Row(f"{name} per watt", "TFLOPS/W", tuple(per_watt(card, name) for card in cards)),
        Row(
            "memory bandwidth per watt",
            "GB/s/W",
            tuple(_ratio(_scaled(api.memory_bandwidth(card), api.GIGA), api.tdp_watts(card)) for card in cards),
        ),
    ]
    return [row for row in candidates if any(value is not None for value in row.values)]


def per_watt(card: Card, dtype: str = PER_WATT_DTYPE) -> float | None:
    """Dense TFLOPS a watt of TDP."""
    return _ratio(_scaled(api.peak_flops(card, dtype), api.TERA), api.tdp_watts(card))


def per_currency(card: Card, currency: str, dtype: str = PER_WATT_DTYPE) -> float | None:
    """Dense TFLOPS per thousand of the currency, by the purchase price."""
    found = api.price(card, "purchase", currency)
    return _ratio(_scaled(api.peak_flops(card, dtype), api.TERA), found.amount / PER_CURRENCY if found else None)


def ratios(row: Row) -> tuple[float | None, ...]:
    """Each value divided by the first card's."""
    first = row.values[0]
    return tuple(_ratio(value, first) for value in row.values)


def _peaks(cards: Sequence[Card]) -> list[Row]:
    found = []
    for dtype in get_args(Dtype):
        for sparse, suffix in ((False, "dense"), (True, "sparse")):
            values = tuple(_scaled(api.peak_flops(card, dtype, sparse), api.TERA) for card in cards)
            found.append(Row(f"{dtype} {suffix}", "TFLOPS", values))
    return found


def _money_rows(cards: Sequence[Card], dtype: str, money: str) -> list[Row]:
    bought = [api.price(card, "purchase", money) for card in cards]
    rented = [api.price(card, "hour", money) for card in cards]
    prices = tuple(price.amount if price else None for price in bought)
    bandwidths = [_scaled(api.memory_bandwidth(card), api.GIGA) for card in cards]
    return [
        Row("price", money, prices, "lower"),
        Row("price per hour", money, tuple(price.amount if price else None for price in rented), "lower"),
        Row(f"{dtype} per 1,000 {money}", "TFLOPS", tuple(per_currency(card, money, dtype) for card in cards)),
        Row(
            f"memory bandwidth per 1,000 {money}",
            "GB/s",
            tuple(_ratio(rate, price / PER_CURRENCY if price else None) for rate, price in zip(bandwidths, prices, strict=True)),
        ),
    ]


def _scaled(value: float | None, unit: float) -> float | None:
    return None if value is None else value / unit


def _ratio(value: float | None, by: float | None) -> float | None:
    return None if value is None or not by else value / by
