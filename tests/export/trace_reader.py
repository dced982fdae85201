"""A reader of Perfetto's trace format that shares nothing with the writer: protobuf's wire format by hand, with the field numbers of
google/perfetto's protos/perfetto/trace (trace_packet.proto, track_event/*.proto, clock_snapshot.proto). Slices are made of begins and
ends as the trace processor makes them: sorted by time, in the order of the file where times are equal, a stack a track."""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

BEGIN, END, INSTANT, COUNTER = 1, 2, 3, 4
MONOTONIC, REALTIME = 3, 1


def varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """(field number, value) in the order of the file: a number, or bytes."""
    at = 0
    while at < len(data):
        key, at = varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = varint(data, at)
        elif kind == 1:
            value, at = data[at : at + 8], at + 8
        elif kind == 2:
            length, at = varint(data, at)
            value, at = data[at : at + length], at + length
            assert len(value) == length
        else:
            raise AssertionError(f"wire type {kind}")
        yield key >> 3, value


def message(data: bytes) -> dict[int, list[Any]]:
    values = defaultdict(list)
    for number, value in fields(data):
        values[number].append(value)
    return values


class Slice(NamedTuple):
    track: tuple[str, ...]
    lane: int
    name: str
    start_ns: int
    end_ns: int
    depth: int
    facts: dict[str, Any]
    category: str
    leaving: tuple[int, ...]
    arriving: tuple[int, ...]


class Trace:
    """`tracks` by number: (names from the root, rank); `instants` are (track, name, at, facts); `counters` (at, value) by name;
    `clocks` by number."""

    def __init__(self, path: Path) -> None:
        self.clocks: dict[int, int] = {}
        self.primary_clock = 0
        self.tracks: dict[int, tuple[tuple[str, ...], int]] = {}
        self.descriptions: dict[tuple[str, ...], str] = {}
        self.instants: list[tuple[tuple[str, ...], str, int, dict[str, Any]]] = []
        self.counters: dict[str, list[tuple[int, float]]] = defaultdict(list)
        self.slices: list[Slice] = []
        self.in_order = True
        self._names: dict[int, dict[int, str]] = defaultdict(dict)
        self._cleared = False
        events = []
        for number, data in fields(path.read_bytes()):
            assert number == 1
            self._packet(message(data), events)
        self._play(events)

    def _packet(self, packet: dict[int, list[Any]], events: list[Any]) -> None:
        assert packet[10] == [1], "one sequence"
        flags = packet[13][0] if packet[13] else 0
        self._cleared |= bool(flags & 1)
        assert self._cleared or not flags & 2
        for interned in packet[12]:
            for table, entries in message(interned).items():
                for entry in map(message, entries):
                    assert entry[1][0] not in self._names[table]
                    self._names[table][entry[1][0]] = entry[2][0].decode()
        for snapshot in map(message, packet[6]):
            self.primary_clock = snapshot[2][0]
            self.clocks = {clock[1][0]: clock[2][0] for clock in map(message, snapshot[1])}
        for track in map(message, packet[60]):
            uuid, parent = track[1][0], track[5][0] if track[5] else None
            assert uuid not in self.tracks
            path = (*(self.tracks[parent][0] if parent else ()), track[2][0].decode())
            self.tracks[uuid] = (path, track[12][0])
            if track[14]:
                self.descriptions[path] = track[14][0].decode()
        for event in packet[11]:
            events.append((packet[8][0], message(event)))

    def _name(self, event: dict[int, list[Any]]) -> str:
        return event[23][0].decode() if event[23] else self._names[2][event[10][0]]

    def _facts(self, event: dict[int, list[Any]]) -> dict[str, Any]:
        facts = {}
        for note in map(message, event[4]):
            name = self._names[3][note[1][0]]
            if note[4]:
                facts[name] = note[4][0] if note[4][0] < 1 << 63 else note[4][0] - (1 << 64)
            else:
                facts[name] = struct.unpack("<d", note[5][0])[0] if note[5] else note[6][0].decode()
        return facts

    def _play(self, events: list[Any]) -> None:
        latest: dict[int, int] = {}
        for at_ns, event in events:  # the writer has each track's events in the order of time
            track = event[11][0]
            self.in_order &= event[9][0] == INSTANT or latest.get(track, 0) <= at_ns
            latest[track] = at_ns
        stacks = defaultdict(list)
        for at_ns, event in sorted(events, key=lambda entry: entry[0]):
            lane, kind = event[11][0], event[9][0]
            path, _ = self.tracks[lane]
            if kind == COUNTER:
                self.counters[path[-1]].append((at_ns, struct.unpack("<d", event[44][0])[0]))
            elif kind == INSTANT:
                self.instants.append((path[1:], self._name(event), at_ns, self._facts(event)))
            elif kind == BEGIN:
                stacks[lane].append((at_ns, event))
            else:
                start_ns, begun = stacks[lane].pop()
                flows = [tuple(int.from_bytes(flow, "little") for flow in begun[number]) for number in (47, 48)]
                category = begun[22][0].decode() if begun[22] else ""
                made = (path[1:], lane, self._name(begun), start_ns, at_ns, len(stacks[lane]), self._facts(begun), category, *flows)
                self.slices.append(Slice(*made))
        assert not any(stacks.values()), "a slice without an end"
        self.slices.sort(key=lambda one: (one.start_ns, one.depth))
