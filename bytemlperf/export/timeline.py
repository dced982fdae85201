"""What a run did when, small enough to look at: a kind of run tells slices, marks and counters (`RunKind.story`), `Timeline` keeps what
has room and counts all.

Slices are thinned by `choice`, a number that those share which belong together (the turns of a session): while all have room all are kept,
then those whose choice is even, then every fourth, and so on. The first `MOST_FAILED` failed ones stay. Counters are of everything:
amounts are summed in stretches of 2ⁿ ns, which double when there are more than `MOST_POINTS`. So memory doesn't grow with the run.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from heapq import heappop, heappush
from itertools import accumulate
from typing import Any, NamedTuple

import msgspec

from bytemlperf.lazy import numpy
from bytemlperf.units import NS_PER_MS, NS_PER_S

MOST_BYTES = 15_000_000
"""Of slices, by `weight`; counters and tracks have the rest of 20 MB."""
MOST_FAILED, MOST_TRACKS, MOST_POINTS, MOST_TEXT = 1_000, 2_000, 2_048, 120
MOST_STEP = 1 << 40
PACKET_BYTES, FACT_BYTES = 28, 8
"""In the file, without their texts."""
LEVEL_SHIFT, RATE_SHIFT = 20, 27
"""A level is known every millisecond, a rate over an eighth of a second; over more in a long run."""
BATCH = 1 << 16

PLACED = "each stands where it ended by the time of day, one whose record keeps no time behind the one before"

Fact = str | int | float | None
Track = tuple[str, ...]
"""Names from the outermost group to the track."""


class Slice(msgspec.Struct, frozen=True, kw_only=True):
    """What took time; ns on the run's own axis. `noun` is what is counted ("request"; empty: nothing); slices of a track that overlap
    stand side by side. `stages` are (name, start, end), in order. `failed` says why. `after` are the `id`s of those it waited for."""

    track: Track
    name: str
    start_ns: int
    end_ns: int
    noun: str = ""
    stages: Sequence[tuple[str, int, int]] = ()
    facts: Mapping[str, Fact] = {}
    choice: int = 0
    failed: str = ""
    id: Hashable = None
    after: Sequence[Hashable] = ()

    def kept(self) -> Slice:
        """With short texts, and times that nest whatever the record says."""
        end, at, stages = max(self.start_ns, self.end_ns), self.start_ns, []
        for name, start, stop in self.stages:
            start, stop = min(max(start, at), end), min(stop, end)
            if stop > start:
                stages.append((name, start, stop))
                at = stop
        cut = {name: fact[:MOST_TEXT] if isinstance(fact, str) else fact for name, fact in self.facts.items() if fact not in (None, "")}
        texts = {"name": self.name[:MOST_TEXT], "failed": self.failed[:MOST_TEXT], "track": tuple(name[:MOST_TEXT] for name in self.track)}
        return msgspec.structs.replace(self, end_ns=end, stages=tuple(stages), facts=cut, **texts)

    @property
    def weight(self) -> int:
        """Bytes in the file, at most."""
        texts = [self.name, *(fact for fact in self.facts.values() if isinstance(fact, str))]
        plain = sum(len(text) if text.isascii() and text.isprintable() else 4 * MOST_TEXT for text in texts)
        return 2 * PACKET_BYTES * (1 + len(self.stages)) + FACT_BYTES * len(self.facts) + plain


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    at_ns: int
    facts: Mapping[str, Fact] = {}


class Amounts(NamedTuple):
    """What came when: the counter shows so much in a second; with `level` the sum so far (+1 and −1: how many there are)."""

    counter: str
    at_ns: Sequence[int]
    amounts: Sequence[int]
    level: bool = False


class Reading(NamedTuple):
    """The value of a counter from then on."""

    counter: str
    at_ns: int
    value: float


Event = Slice | Mark | Amounts | Reading


class Story(NamedTuple):
    """A run's events in any order. `clock_ns` is zero of their axis on the machine's monotonic clock, `unix_ns` the time of day then;
    `note` says how the times are to be read."""

    events: Iterable[Event]
    clock_ns: int = 0
    unix_ns: int | None = None
    note: str = ""


def placed(run: dict[str, Any], parts: Iterable[tuple[Slice, int]]) -> Story:
    """Slices and stages that begin at 0, each with the time of day when it ended in Unix nanoseconds: where they were since the run began.
    One without such a time (0) follows the one before. Raises ValueError for a `started_at` that is none."""
    unix_ns = round(datetime.fromisoformat(run["started_at"]).timestamp() * NS_PER_S) if "started_at" in run else None

    def laid() -> Iterator[Slice]:
        at = 0
        for place, (part, ended_unix_ns) in enumerate(parts):
            if ended_unix_ns and unix_ns is not None:
                at = max(ended_unix_ns - unix_ns - part.end_ns, 0)
            stages = [(name, at + start, at + end) for name, start, end in part.stages]
            yield msgspec.structs.replace(part, start_ns=at, end_ns=at + part.end_ns, stages=stages, choice=place)
            at += part.end_ns

    return Story(laid(), unix_ns=unix_ns, note=PLACED)


class Sums:
    """Amounts summed in stretches of time."""

    def __init__(self, *, level: bool) -> None:
        self._level, self._shift = level, LEVEL_SHIFT if level else RATE_SHIFT
        self._stamps: list[int] = []
        self._amounts: list[int] = []
        self._sums: Counter[int] = Counter()

    def add(self, stamps: Sequence[int], amounts: Sequence[int]) -> None:
        self._stamps += stamps
        self._amounts += amounts
        if len(self._stamps) >= BATCH:
            self._sum_up()

    def _sum_up(self) -> None:
        if not self._stamps:
            return
        stamps, amounts = numpy.array(self._stamps, dtype="i8"), numpy.array(self._amounts, dtype="f8")
        self._stamps, self._amounts = [], []
        places = [int(stamps.min()) >> self._shift, int(stamps.max()) >> self._shift, *self._sums]
        low, high = min(places), max(places)
        while high - low >= MOST_POINTS:
            low, high, self._shift = low >> 1, high >> 1, self._shift + 1
            halved, self._sums = self._sums, Counter()
            for place, amount in halved.items():
                self._sums[place >> 1] += amount
        sums = numpy.bincount((stamps >> self._shift) - low, weights=amounts)
        for place in numpy.nonzero(sums)[0].tolist():
            self._sums[low + place] += int(sums[place])

    def readings(self) -> tuple[str, list[tuple[int, float]]]:
        """How they are to be read; a level at the end of each stretch, a rate from its start on."""
        self._sum_up()
        width, places = 1 << self._shift, sorted(self._sums)
        if self._level:
            ends = [(place + 1) * width for place in places]
            levels = accumulate(self._sums[place] for place in places)
            return f"known every {width / NS_PER_MS:.4g} ms", list(zip(ends, levels, strict=True))
        rates = {place + 1: 0.0 for place in places} | {place: self._sums[place] * NS_PER_S / width for place in places}
        return f"means of {width / NS_PER_MS:.4g} ms", [(place * width, rates[place]) for place in sorted(rates)]


class Readings:
    """Every one, then every second, every fourth, …"""

    def __init__(self) -> None:
        self._kept: list[tuple[int, float]] = []
        self._count, self._step = 0, 1

    def add(self, at_ns: int, value: float) -> None:
        if self._count % self._step == 0:
            self._kept.append((at_ns, value))
        self._count += 1
        if len(self._kept) > MOST_POINTS:
            del self._kept[1::2]
            self._step *= 2

    def readings(self) -> tuple[str, list[tuple[int, float]]]:
        """How many there were, and those that are kept, in order."""
        return "" if self._step == 1 else f"one in {self._step} of {self._count:,}", sorted(self._kept)


class Timeline:
    """What is kept of a story; false where nothing was told that counts."""

    def __init__(self, events: Iterable[Event]) -> None:
        self.marks: list[Mark] = []
        self._sums: dict[str, Sums] = {}
        self._readings: defaultdict[str, Readings] = defaultdict(Readings)
        self._counts: Counter[str] = Counter()
        self._kept: list[Slice] = []
        self._failed: list[Slice] = []
        self._tracks: set[Track] = set()
        self._bytes, self._step = 0, 1
        for event in events:
            self._add(event)

    def _add(self, event: Event) -> None:
        if isinstance(event, Slice):
            self._counts[event.noun] += 1
            if event.failed and len(self._failed) < MOST_FAILED:
                self._failed.append(event.kept())
            elif event.choice % self._step == 0 and self._bytes < MOST_BYTES:
                self._keep(event.kept())
        elif isinstance(event, Amounts):
            if event.counter not in self._sums:
                self._sums[event.counter] = Sums(level=event.level)
            self._sums[event.counter].add(event.at_ns, event.amounts)
        elif isinstance(event, Reading):
            self._readings[event.counter].add(event.at_ns, event.value)
        else:
            self.marks.append(event)

    def _keep(self, kept: Slice) -> None:
        self._kept.append(kept)
        self._bytes += kept.weight
        self._tracks.add(kept.track)
        while (self._bytes >= MOST_BYTES or len(self._tracks) > MOST_TRACKS) and self._step < MOST_STEP:
            self._step *= 2
            self._kept = [slice for slice in self._kept if slice.choice % self._step == 0]
            self._bytes, self._tracks = sum(slice.weight for slice in self._kept), {slice.track for slice in self._kept}

    @property
    def counters(self) -> dict[str, Sums | Readings]:
        return {**self._sums, **self._readings}

    @property
    def slices(self) -> list[Slice]:
        """Those that are kept, in the order of their start, the longer first."""
        return sorted([*self._kept, *self._failed], key=lambda kept: (kept.start_ns, -kept.end_ns))

    def __bool__(self) -> bool:
        return any(self._counts)

    @property
    def said(self) -> str:
        """How many of what are drawn, and how those were chosen."""
        drawn = Counter(kept.noun for kept in [*self._kept, *self._failed])
        parts = ", ".join(f"{drawn[noun]:,} of {count:,} {noun}s" for noun, count in self._counts.items() if noun)
        failed = f", and the first {MOST_FAILED:,} that failed" if self._failed else ""
        return parts if drawn == self._counts else f"{parts}: one in {self._step:,}{failed}"


def lanes_of(slices: Iterable[Slice]) -> Iterator[tuple[int, Slice]]:
    """Each slice, in the order of their start, with its lane: slices of one lane are of one track and never overlap."""
    free: defaultdict[Track, list[tuple[int, int]]] = defaultdict(list)
    count = 0
    for kept in slices:
        lanes = free[kept.track]
        if lanes and lanes[0][0] <= kept.start_ns:
            _, lane = heappop(lanes)
        else:
            lane, count = count, count + 1
        heappush(lanes, (kept.end_ns, lane))
        yield lane, kept
