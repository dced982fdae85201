"""Stalls: responses that paused in mid-stream far beyond their own pace, and whether they paused together.

Of each response the longest silence counts (silences lie between bursts: definitions.BURST_NS). It is a stall where it is more than
`TIMES` the mean of the response's other silences, of which there must be `LEAST_SILENCES` for a pace to be known: for a stream of single
tokens, of TPOT without the stall. Of streams with exponential gaps, 128 tokens each, 0.6 % stall by chance (128 e⁻¹⁰).

Stalls that share a moment are one event. It is the server's where at least `LEAST_STREAMS` stalled, and half of the streams that were open
then; else single streams stopped.
"""

from __future__ import annotations

import msgspec

from bytemlperf.lazy import numpy
from bytemlperf.statistics.columns import ABSENT, Column
from bytemlperf_llm.metrics.accumulator import Accumulator

TIMES, LEAST_SILENCES = 10, 8
SERVER_SHARE, LEAST_STREAMS = 0.5, 3
MOST_EVENTS = 10


class StallEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A moment (ns from the run's origin) at which `stalled` of `streams` open ones stood still, the longest for `longest_ns`."""

    at_ns: int
    stalled: int
    streams: int
    longest_ns: int

    @property
    def of_server(self) -> bool:
        """Whether the server stopped, and not single streams."""
        return self.stalled >= LEAST_STREAMS and self.stalled >= SERVER_SHARE * self.streams


class Stalls(msgspec.Struct, frozen=True, kw_only=True):
    """Of `judged` responses `stalled` did, `together` of them in events of the server, whose largest `events` are listed."""

    judged: int
    stalled: int
    longest_ns: int
    together: int
    server_events: int
    events: list[StallEvent]


def find_stalls(acc: Accumulator) -> Stalls | None:
    """None where no response has a pace of its own."""
    rows = acc.rows("ok")
    rows = rows[acc.columns["silences"][rows] > LEAST_SILENCES]
    if not len(rows):
        return None
    first, last, longest, end, silences = (acc.columns[name][rows] for name in ("first", "last", "max_gap", "max_gap_end", "silences"))
    stalled = longest > TIMES * ((last - first - longest) / (silences - 1))
    events = _events(end[stalled] - longest[stalled], end[stalled], numpy.sort(first), numpy.sort(last))
    of_server = [event for event in events if event.of_server]
    return Stalls(
        judged=len(rows),
        stalled=int(stalled.sum()),
        longest_ns=int(longest.max()),
        together=sum(event.stalled for event in of_server),
        server_events=len(of_server),
        events=sorted(of_server, key=lambda event: (-event.stalled, event.at_ns))[:MOST_EVENTS],
    )


def _events(begins: Column, ends: Column, opened: Column, closed: Column) -> list[StallEvent]:
    """Stalls in the order of their begin: one that begins before the first of the others ends is of their event."""
    events: list[list[tuple[int, int]]] = []
    until = ABSENT
    for begin, end in sorted(zip(begins.tolist(), ends.tolist(), strict=True)):
        if events and begin < until:
            events[-1].append((begin, end))
            until = min(until, end)
        else:
            events.append([(begin, end)])
            until = end
    return [_event(stalls, opened, closed) for stalls in events]


def _event(stalls: list[tuple[int, int]], opened: Column, closed: Column) -> StallEvent:
    at_ns = (stalls[-1][0] + min(end for _, end in stalls)) // 2  # all stand still
    streams = int(numpy.searchsorted(opened, at_ns, "right") - numpy.searchsorted(closed, at_ns, "left"))
    return StallEvent(at_ns=at_ns, stalled=len(stalls), streams=streams, longest_ns=max(end - begin for begin, end in stalls))
