"""What one call of a step costs: measured here, interpolated from a sweep, or modelled by a spec card's roofline.

All three answer the same question, a `Price` for each `Call`, and none answers with a guess: what can't be told is a
sentence in the price's place, which ends the prediction.

From a sweep's run folder it is the same case, or interpolated between two that differ from it in one number: on logarithmic axes
(a straight line there is a power of the argument: 1 where bytes or FLOPs decide, 0 where the call itself does). Nothing is
extrapolated. Of hardware that is only a spec card it is the least time that its data sheet allows:

    call = max(FLOPs / peak FLOP/s of the dtype, bytes / memory bandwidth)
    collective = bus bytes / one way of its fastest link, or its own memory traffic where that is more

(Williams, Waterman, Patterson, Roofline, CACM 52(4), 2009). Real kernels take longer, and launching them takes time too: such a
prediction is a bound, and says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import exp, log
from pathlib import Path
from typing import NamedTuple

from bytemlperf.errors import UserError
from bytemlperf.hardware import cards
from bytemlperf.hardware.card import Card, Link
from bytemlperf.runs.folder import read_run_of
from bytemlperf.runs.records import RunRecords
from micro.cases.case import Arguments, BadCase, case_text, validate
from micro.collectives.operators import COLLECTIVES, bus_factor, link_bytes
from micro.predict.forward import Step
from micro.registry import OPERATORS
from micro.sweep.row import Row, last_rows


class Call(NamedTuple):
    """An operator with validated arguments. `hot`: with its inputs in the caches."""

    op: str
    args: Arguments
    hot: bool

    @property
    def text(self) -> str:
        """Equal for equal calls."""
        return f"{case_text(self.op, self.args)}, {'hot' if self.hot else 'cold'}"


class Price(NamedTuple):
    """Microseconds of one call. `source` says where from, `remark` what to know about it; `bounds_us` are
    those of the median's 95 % interval, None where there is none."""

    call_us: float
    source: str
    provider: str = ""
    remark: str = ""
    bounds_us: tuple[float, float] | None = None


Pricing = Callable[[Sequence[Call]], Sequence[Price | str]]
"""For each call its price, or why there is none."""


def call_of(step: Step, *, all_hot: bool) -> Call:
    """Raises UserError where no such operator is there, or its arguments are impossible: a part of the model is missing."""
    if step.op not in OPERATORS:
        raise UserError(
            f"the {step.part} needs the operator '{step.op}', which bmp micro does not have", "a prediction without it would be wrong"
        )
    try:
        args = validate(OPERATORS[step.op], step.args)
    except BadCase as bad:
        raise UserError(f"the {step.part} can't be measured: {bad}", "a prediction without it would be wrong") from None
    return Call(step.op, args, all_hot or not step.streams)


def prices(steps: Iterable[Step], pricing: Pricing, *, all_hot: bool) -> dict[str, Price]:
    """One price for each distinct call. Raises UserError with every operator that has none."""
    calls = {call.text: call for call in (call_of(step, all_hot=all_hot) for step in steps)}
    priced = dict(zip(calls, pricing(list(calls.values())), strict=True))
    missing = [f"{text}: {reason}" for text, reason in priced.items() if isinstance(reason, str)]
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise UserError(f"no time for {missing[0]}{more}", "a prediction without it would be wrong; nothing is counted as 0 µs")
    return {text: price for text, price in priced.items() if isinstance(price, Price)}


class FromRun:
    """A `micro.predict.costs.Pricing`. Raises UserError where the folder is no run of operators."""

    def __init__(self, folder: Path) -> None:
        read_run_of(folder, "micro", "give a run folder of bmp micro")
        self._rows = [row for row in last_rows(RunRecords(folder, Row)) if row.status == "ok" and row.latency_us is not None]
        if not self._rows:
            raise UserError(f"{folder} has no measured row", "give a run folder of bmp micro with measured cases")

    def __call__(self, calls: Sequence[Call]) -> list[Price | str]:
        return [price_from(call, [row for row in self._rows if row.op == call.op]) for call in calls]


def price_from(call: Call, rows: list[Row]) -> Price | str:
    """The fastest provider's; a sentence where the rows don't carry one."""
    if not rows:
        return f"the run has no {call.op}"
    priced = [price for provider in sorted({row.provider for row in rows}) if (price := _of_provider(call, provider, rows))]
    if priced:
        return min(priced, key=lambda price: price.call_us)
    return f"the run's {len(rows)} {call.op} cases have neither this one nor two around it that differ in one number only"


def _of_provider(call: Call, provider: str, rows: list[Row]) -> Price | None:
    own = [row for row in rows if row.provider == provider]
    same = [row for row in own if row.args == call.args]
    if same:
        chosen = next((row for row in same if row.hot == call.hot), same[0])
        return Price(chosen.latency.p50, "run", provider, _buffers(chosen, call))
    for name, value in call.args.items():
        if isinstance(value, int) and not isinstance(value, bool):
            price = _between(call, name, value, provider, [row for row in own if _differs_in(row.args, call.args) == [name]])
            if price:
                return price
    return None


def _between(call: Call, name: str, value: int, provider: str, rows: list[Row]) -> Price | None:
    fitting = [row for row in rows if row.hot == call.hot] or rows
    below = max((row for row in fitting if 0 < row.args[name] < value), key=lambda row: row.args[name], default=None)
    above = min((row for row in fitting if row.args[name] > value), key=lambda row: row.args[name], default=None)
    if below is None or above is None:
        return None
    low, high = below.args[name], above.args[name]
    share = log(value / low) / log(high / low)
    call_us = exp((1 - share) * log(below.latency.p50) + share * log(above.latency.p50))
    buffers = _buffers(below, call)
    return Price(call_us, "interpolated", provider, f"between {name}={low} and {high}" + (f"; {buffers}" if buffers else ""))


def _differs_in(args: Arguments, others: Arguments) -> list[str]:
    return [name for name in others if args.get(name) != others[name]] if args.keys() == others.keys() else ["", ""]


def _buffers(row: Row, call: Call) -> str:
    return "" if row.hot == call.hot else f"measured {'hot' if row.hot else 'cold'}"


class Modelled:
    """A `micro.predict.costs.Pricing` of one card. Raises UserError where the card has no memory bandwidth."""

    def __init__(self, card: Card) -> None:
        bandwidth = cards.memory_bandwidth(card)
        if bandwidth is None:
            raise UserError(f"the card of {card.name} has no memory bandwidth", "give a card that has one; see: bmp hardware list")
        self._card, self._bytes_per_s = card, bandwidth
        self._link = max(card.links, key=one_way_bytes_per_s, default=None)

    def __call__(self, calls: Sequence[Call]) -> list[Price | str]:
        return [self._collective(call) if call.op in COLLECTIVES else self._call(call) for call in calls]

    def _call(self, call: Call) -> Price | str:
        cost = OPERATORS[call.op].cost(call.args)
        memory_s = (cost.read_bytes + cost.write_bytes) / self._bytes_per_s
        if not cost.flops:
            return Price(memory_s * 1e6, "roofline", remark="memory")
        peak = cards.peak_flops(self._card, cost.flops_dtype)
        if peak is None:
            return f"the card of {self._card.name} has no dense peak of {cost.flops_dtype}"
        compute_s = cost.flops / peak
        return Price(max(memory_s, compute_s) * 1e6, "roofline", remark="memory" if memory_s >= compute_s else "compute")

    def _collective(self, call: Call) -> Price | str:
        if self._link is None:
            return f"the card of {self._card.name} has no link between devices"
        cost, ranks = OPERATORS[call.op].cost(call.args), int(call.args["world_size"])
        link_s = link_bytes(call.op, call.args) * bus_factor(call.op, ranks) / one_way_bytes_per_s(self._link)
        memory_s = (cost.read_bytes + cost.write_bytes) / self._bytes_per_s
        direction = "" if self._link.direction != "not said" else ", taken as both ways together"
        return Price(max(link_s, memory_s) * 1e6, "roofline", remark=f"{self._link.name}{direction}")


def one_way_bytes_per_s(link: Link) -> float:
    """Half of what is both ways added up; where the sheet doesn't say, it is taken as that."""
    return link.gbytes_per_s * cards.GIGA / (1 if link.direction == "one way" else 2)
