"""Cards side by side: rows of published figures, and what they come to per currency and per watt.

Pure: cards in, rows out; the table of the command line and the pages of the site print the same rows.
A figure that no card's source gives stays None; ratios of it are None too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
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
    currencies = {price.currency for card in cards for price in card.prices[:1]}
    return currencies.pop() if len(currencies) == 1 else None


def rows(cards: Sequence[Card], dtype: str = PER_WATT_DTYPE, currency: str | None = None) -> list[Row]:
    """Every figure that at least one card has. `currency` None takes the one that they share."""
    name, money = api.normal_dtype(dtype), currency or currency_of(cards)
    figures = [*_published(), *(_of_money(name, money) if money else ()), *_of_watts(name)]
    candidates = [Row(label, unit, tuple(map(value_of, cards)), better) for label, unit, better, value_of in figures]
    return [row for row in candidates if any(value is not None for value in row.values)]


Measure = tuple[str, str, str, Callable[[Card], float | None]]
"""What a row says of a card: label, unit, better, value."""


def _published() -> Iterator[Measure]:
    for dtype in get_args(Dtype):
        for sparse, kind in ((False, "dense"), (True, "sparse")):
            yield f"{dtype} {kind}", "TFLOPS", "higher", partial(tflops, dtype=dtype, sparse=sparse)
    yield "memory", "GB", "higher", lambda card: card.memory_gb.value if card.memory_gb else None
    yield "memory bandwidth", "GB/s", "higher", gbytes_per_s
    yield "power (TDP)", "W", "lower", api.tdp_watts


def _of_money(dtype: str, money: str) -> Iterator[Measure]:
    def price(card: Card, basis: str = "purchase") -> float | None:
        priced = api.price(card, basis, money)
        return priced.amount if priced else None

    yield "price", money, "lower", price
    yield "price per hour", money, "lower", partial(price, basis="hour")
    yield f"{dtype} per 1,000 {money}", "TFLOPS", "higher", lambda card: per_currency(card, money, dtype)
    yield f"memory bandwidth per 1,000 {money}", "GB/s", "higher", lambda card: _per_thousand(gbytes_per_s(card), price(card))


def _of_watts(dtype: str) -> Iterator[Measure]:
    yield f"{dtype} per watt", "TFLOPS/W", "higher", partial(per_watt, dtype=dtype)
    yield "memory bandwidth per watt", "GB/s/W", "higher", lambda card: _ratio(gbytes_per_s(card), api.tdp_watts(card))


def tflops(card: Card, dtype: str, sparse: bool = False) -> float | None:
    """Peak of a data type in 10^12 operations a second."""
    rate = api.peak_flops(card, dtype, sparse)
    return None if rate is None else rate / api.TERA


def gbytes_per_s(card: Card) -> float | None:
    return card.memory_gbytes_per_s.value if card.memory_gbytes_per_s else None


def per_watt(card: Card, dtype: str = PER_WATT_DTYPE) -> float | None:
    """Dense TFLOPS a watt of TDP."""
    return _ratio(tflops(card, dtype), api.tdp_watts(card))


def per_currency(card: Card, currency: str, dtype: str = PER_WATT_DTYPE) -> float | None:
    """Dense TFLOPS per thousand of the currency, by the purchase price."""
    price = api.price(card, "purchase", currency)
    return _per_thousand(tflops(card, dtype), price.amount if price else None)


def ratios(row: Row) -> tuple[float | None, ...]:
    """Each value divided by the first card's."""
    first = row.values[0]
    return tuple(_ratio(value, first) for value in row.values)


def _per_thousand(value: float | None, price: float | None) -> float | None:
    return _ratio(value, price and price / PER_CURRENCY)


def _ratio(value: float | None, by: float | None) -> float | None:
    return None if value is None or not by else value / by
