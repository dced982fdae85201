"""Prices from a sweep's run folder: the same case, or between two that differ from it in one number.

Between two neighbours the time is interpolated on logarithmic axes (a straight line there is a power of the
argument: 1 where bytes or FLOPs decide, 0 where the call itself does). Nothing is extrapolated.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, log
from pathlib import Path
from typing import NamedTuple

from bytemlperf.errors import UserError
from bytemlperf.runs.folder import read_run_json
from bytemlperf.runs.records import RunRecords
from micro.cases.case import Arguments
from micro.predict.costs import Call, Price
from micro.sweep.row import Row, last_rows


class Known(NamedTuple):
    """A measured row. `hot` as its buffers say."""

    op: str
    args: Arguments
    provider: str
    hot: bool
    call_us: float


class FromRun:
    """A `micro.predict.costs.Pricing`. Raises UserError where the folder is no run of operators."""

    def __init__(self, folder: Path) -> None:
        kind = read_run_json(folder).get("kind")
        if kind != "micro":
            raise UserError(f"{folder} is a run of kind {kind}, not micro", "give a run folder of bmp micro")
        self._rows = [
            Known(row.op, row.args, row.provider, row.buffers.startswith("hot"), row.latency_us.p50)
            for row in last_rows(RunRecords(folder, Row))
            if row.status == "ok" and row.latency_us is not None
        ]
        if not self._rows:
            raise UserError(f"{folder} has no measured row", "give a run folder of bmp micro with measured cases")

    def __call__(self, calls: Sequence[Call]) -> list[Price | str]:
        return [price_from(call, [row for row in self._rows if row.op == call.op]) for call in calls]


def price_from(call: Call, rows: list[Known]) -> Price | str:
    """The fastest provider's; a sentence where the rows don't carry one."""
    if not rows:
        return f"the run has no {call.op}"
    priced = [price for provider in sorted({row.provider for row in rows}) if (price := _of_provider(call, provider, rows))]
    if priced:
        return min(priced, key=lambda price: price.call_us)
    return f"the run's {len(rows)} {call.op} cases have neither this one nor two around it that differ in one number only"


def _of_provider(call: Call, provider: str, rows: list[Known]) -> Price | None:
    own = [row for row in rows if row.provider == provider]
    same = [row for row in own if row.args == call.args]
    if same:
        chosen = next((row for row in same if row.hot == call.hot), same[0])
        return Price(chosen.call_us, "run", provider, _buffers(chosen, call))
    for name, value in call.args.items():
        if isinstance(value, int) and not isinstance(value, bool):
            price = _between(call, name, value, provider, [row for row in own if _differs_in(row.args, call.args) == [name]])
            if price:
                return price
    return None


def _between(call: Call, name: str, value: int, provider: str, rows: list[Known]) -> Price | None:
    fitting = [row for row in rows if row.hot == call.hot] or rows
    below = max((row for row in fitting if 0 < row.args[name] < value), key=lambda row: row.args[name], default=None)
    above = min((row for row in fitting if row.args[name] > value), key=lambda row: row.args[name], default=None)
    if below is None or above is None:
        return None
    low, high = below.args[name], above.args[name]
    share = log(value / low) / log(high / low)
    call_us = exp((1 - share) * log(below.call_us) + share * log(above.call_us))
    buffers = _buffers(below, call)
    return Price(call_us, "interpolated", provider, f"between {name}={low} and {high}" + (f"; {buffers}" if buffers else ""))


def _differs_in(args: Arguments, others: Arguments) -> list[str]:
    return [name for name in others if args.get(name) != others[name]] if args.keys() == others.keys() else ["", ""]


def _buffers(row: Known, call: Call) -> str:
    return "" if row.hot == call.hot else f"measured {'hot' if row.hot else 'cold'}"
