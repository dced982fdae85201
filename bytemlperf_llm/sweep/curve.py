"""The points of one server at one kind of request, in the order of their load; and where the curve bends.

The knee is the measured point of the greatest power, request throughput over mean end-to-end latency: beyond it a share more of
throughput costs more than that share of latency (Kleinrock, Power and deterministic rules of thumb for probabilistic problems in
computer communications, ICC 1979). On an M/M/1 queue it is at half of the capacity. It needs no scale, and does not move with the range
that was swept, as the point farthest from a chord does. Points whose interval of power reaches that of the best can't be told from it:
they are the knee's range.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import msgspec

from bytemlperf.runs.records import grouped
from bytemlperf_llm.loadgen.probe import WORTHWHILE_GAIN
from bytemlperf_llm.sweep.axes import Level
from bytemlperf_llm.sweep.row import TOKENS, PointRow

LEAST_POINTS = 3
"""A curve of two has no bend."""


class Knee(msgspec.Struct, frozen=True, kw_only=True):
    """At `load`; from `low` to `high` it can't be told from its neighbours. `power` is requests/s per second of latency. `edge` says
    that it is the curve's first or last point, so that it may lie beyond."""

    load: Level
    low: Level
    high: Level
    power: float
    edge: str = ""

    def sentence(self) -> str:
        between = f" (from {self.low} to {self.high} within the intervals)" if self.low != self.high else ""
        beyond = f"; it is the {self.edge} point, and may lie beyond" if self.edge else ""
        return f"{self.load}{between}, the greatest throughput per latency{beyond}"


class Curve(msgspec.Struct, frozen=True, kw_only=True):
    """`rows` ascend in load. Open loop where any of them has a rate."""

    name: str
    rows: list[PointRow]

    @property
    def open_loop(self) -> bool:
        return any(row.load.rate_rps is not None for row in self.rows)

    @property
    def carried(self) -> list[PointRow]:
        """The points in a steady state: the curve's line."""
        return [row for row in self.rows if row.carried]

    @property
    def overloaded(self) -> list[PointRow]:
        return [row for row in self.rows if row.on_curve and not row.carried]

    @property
    def aside(self) -> list[PointRow]:
        """Points that were measured, and say nothing of the server: client-limited, invalid, failing."""
        return [row for row in self.rows if row.state == "measured" and not row.on_curve]

    def limits(self) -> str:
        """What the range can't say: that it ends before the capacity, or begins above it; empty where it holds it."""
        if not self.open_loop:
            return self._still_growing()
        if not self.carried:
            return f"not even {self.overloaded[0].load} was carried: give lower --rates" if self.overloaded else ""
        top = self.carried[-1].load
        beyond = [row for row in self.rows if row.state == "measured" and (row.load.rate_rps or 0) > (top.rate_rps or 0)]
        if any(row.verdict in ("overloaded", "failing") for row in beyond):
            return ""
        limit = f", and at {beyond[0].load} the client was the limit" if beyond else ""
        return f"no rate overloaded the server: it carried {top}{limit}; its capacity is higher. Give higher --rates"

    def _still_growing(self) -> str:
        """Of a closed loop."""
        *_, before, last = [None, None, *(row for row in self.carried if TOKENS in row.figures)]
        if before is None or last is None or last.figures[TOKENS].value < WORTHWHILE_GAIN * before.figures[TOKENS].value:
            return ""
        return f"throughput still grew at {last.load}: give higher --concurrency for the server's highest"

    def knee(self) -> Knee | None:
        """None under three points that were carried."""
        powers = [(row.load, power) for row in self.carried if (power := _power(row)) is not None]
        if len(powers) < LEAST_POINTS:
            return None
        best = max(range(len(powers)), key=lambda place: powers[place][1][0])
        low = high = best
        while low and powers[low - 1][1][2] >= powers[best][1][1]:
            low -= 1
        while high < len(powers) - 1 and powers[high + 1][1][2] >= powers[best][1][1]:
            high += 1
        edge = "first" if best == 0 else "last" if best == len(powers) - 1 and not self.overloaded else ""
        return Knee(load=powers[best][0], low=powers[low][0], high=powers[high][0], power=powers[best][1][0], edge=edge)


def curves_of(rows: Iterable[PointRow]) -> list[Curve]:
    """In the order of their first rows."""
    return [Curve(name=name, rows=sorted(members, key=_order)) for name, members in grouped(rows, lambda row: row.curve).items()]


def _order(row: PointRow) -> float:
    load = row.load
    return load.rate_rps if load.rate_rps is not None else load.concurrency if load.concurrency is not None else math.inf


def _power(row: PointRow) -> tuple[float, float, float] | None:
    """Requests/s per second of latency, and its bounds: those of both figures at their ends."""
    throughput, latency = row.figures.get("request_throughput"), row.figures.get("e2e mean")
    if throughput is None or latency is None or not latency.bounds[0] > 0:
        return None
    (slow, fast), (short_ms, long_ms) = throughput.bounds, latency.bounds
    return 1000 * throughput.value / latency.value, 1000 * slow / long_ms, 1000 * fast / short_ms
