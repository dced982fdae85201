"""Prices of hardware that is only a spec card: the roofline, the least time that its data sheet allows.

    call = max(FLOPs / peak FLOP/s of the dtype, bytes / memory bandwidth)
    collective = bus bytes / one way of its fastest link, or its own memory traffic where that is more

(Williams, Waterman, Patterson, Roofline, CACM 52(4), 2009). Real kernels take longer, and launching them
takes time too: such a prediction is a bound, and says so.
"""

from __future__ import annotations

from collections.abc import Sequence

from bytemlperf.errors import UserError
from bytemlperf.hardware import cards
from bytemlperf.hardware.card import Card, Link
from micro.collectives.operators import COLLECTIVES, bus_factor, link_bytes
from micro.predict.costs import Call, Price
from micro.registry import OPERATORS


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
