"""timeline.perfetto-trace: a run as ui.perfetto.dev opens it, written packet by packet with the `perfetto` package's protobufs.

One root track, named after the run; below it its marks, its errors, its counters, and the tracks of its slices. A lane is a track of its
own with the name of its track: the viewer draws tracks of one name as one, with its lanes below each other. Timestamps are those of
CLOCK_MONOTONIC of the machine that ran it, where the run kept them; a clock snapshot says what time of day that was.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from bytemlperf.errors import UserError
from bytemlperf.export.timeline import MOST_TEXT, Fact, Mark, Slice, Story, Timeline, Track, lanes_of
from bytemlperf.extras import require
from bytemlperf.lazy import Lazy
from bytemlperf.report.text import visible
from bytemlperf.runs.files import UNREADABLE, damage_said, json_of, writing
from bytemlperf.runs.folder import read_run_json
from bytemlperf.runs.kinds import run_kind
from bytemlperf.runs.records import RunRecords

protos: Any = Lazy("perfetto.protos.perfetto.trace.perfetto_trace_pb2", keep=True)
NAME = "timeline.perfetto-trace"
SEQUENCE = 1
STATE_CLEARED, NEEDS_STATE = 1, 2
"""Flags of a packet: names that packets before it have declared by number hold no longer; hold."""
LATEST = (1 << 63) - 1
MOST_SAID = 500
MARKS, ERRORS, COUNTERS = ("run",), ("errors",), "counters"


def export_timeline(folder: Path, run: dict[str, Any] | None = None) -> str:
    """Write the timeline of a run into its folder; where it is, and what of the run is drawn. Raises UserError."""
    require("a timeline", "perfetto", "perfetto")
    run = read_run_json(folder) if run is None else run
    kind = run_kind(str(run.get("kind")))
    records: RunRecords[Any] = RunRecords(folder, kind.record)
    path = folder / NAME
    partial = path.with_name(f".{NAME}.{os.getpid()}")
    with damage_said(folder), writing(path, "free disk space"):
        try:
            summary = json_of(folder / "summary.json", dict[str, Any])
        except UNREADABLE:  # of a killed run
            summary = {}
        story = kind.story(run, summary, records)
        timeline = Timeline(story.events)
        if not timeline:
            raise UserError(f"{folder} has no records to draw", "name a run that has measured something")
        missing = "" if summary else f"summary.json can't be read, so there is no verdict: bmp summarize {folder}"
        said = [
            visible(text)[:MOST_SAID] for text in (timeline.said, story.note, *map(str, records.damages), *records.notes, missing) if text
        ]
        try:
            with partial.open("wb") as file:
                TraceFile(file, story).write(folder.name, summary, timeline, said)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    return f"{path} ({'; '.join(said)})"


class TraceFile:
    def __init__(self, file: IO[bytes], story: Story) -> None:
        self._file, self._story = file, story
        self._uuids: dict[Track | int, int] = {}
        self._names: dict[tuple[str, str], int] = {}

    def write(self, name: str, summary: dict[str, Any], timeline: Timeline, said: Sequence[str]) -> None:
        packet = protos.TracePacket(sequence_flags=STATE_CLEARED)
        packet.clock_snapshot.primary_trace_clock = protos.BUILTIN_CLOCK_MONOTONIC
        clocks = {protos.BUILTIN_CLOCK_MONOTONIC: self._story.clock_ns, protos.BUILTIN_CLOCK_REALTIME: self._story.unix_ns}
        for clock, at_ns in clocks.items():
            if at_ns is not None:
                packet.clock_snapshot.clocks.add(clock_id=clock, timestamp=at_ns)
        self._put(packet)
        self._describe(self._uuid(()), None, name, "; ".join(said))
        slices = timeline.slices
        end_ns, reasons = max(kept.end_ns for kept in slices), summary.get("reasons", [])
        told = Mark(name=said[0], at_ns=slices[0].start_ns, facts=_numbered("note", said[1:]))
        verdict = Mark(name=f"verdict: {summary.get('verdict')}", at_ns=end_ns, facts=_numbered("reason", reasons))
        for mark in (told, *timeline.marks, *([verdict] if summary else [])):
            self._event(self._track(MARKS), mark.at_ns, "INSTANT", mark.name, mark.facts)
        for counter, kept in timeline.counters.items():
            meaning, readings = kept.readings()
            uuid = self._track((COUNTERS, counter), meaning, counter=True)
            for at_ns, value in readings:
                self._put(self._packet(at_ns, uuid, "COUNTER", double_counter_value=value))
        self._slices(slices)

    def _slices(self, slices: Sequence[Slice]) -> None:
        """Each slice whole, in the order of their start: the events of one lane are in the order of time."""
        leaving: defaultdict[Hashable, list[int]] = defaultdict(list)
        arriving: defaultdict[Hashable, list[int]] = defaultdict(list)
        drawn = {kept.id for kept in slices if kept.id is not None}
        for flow, (parent, child) in enumerate([(parent, kept.id) for kept in slices for parent in kept.after if parent in drawn], 1):
            leaving[parent].append(flow)
            arriving[child].append(flow)
        for lane, kept in lanes_of(slices):
            uuid = self._track(kept.track, lane=lane)
            flows = {"flow_ids": leaving.get(kept.id, ()), "terminating_flow_ids": arriving.get(kept.id, ())}
            facts = {**kept.facts, "failed": kept.failed} if kept.failed else kept.facts
            self._event(uuid, kept.start_ns, "SLICE_BEGIN", kept.name, facts, categories=[kept.noun] if kept.noun else (), **flows)
            for name, start_ns, end_ns in kept.stages:
                self._event(uuid, start_ns, "SLICE_BEGIN", name)
                self._put(self._packet(end_ns, uuid, "SLICE_END"))
            self._put(self._packet(kept.end_ns, uuid, "SLICE_END"))
            if kept.failed:
                self._event(self._track(ERRORS), kept.end_ns, "INSTANT", kept.failed, {kept.noun or "of": kept.name})

    def _event(self, uuid: int, at_ns: int, kind: str, name: str, facts: Mapping[str, Fact] = {}, **more: Any) -> None:
        """With facts or flows it is one of many names; without, one of a few that are declared once."""
        packet = self._packet(at_ns, uuid, kind, **more)
        event = packet.track_event
        if facts:
            event.name = _plain(name)
        else:
            event.name_iid = self._declared(packet, "event_names", name)
        for key, fact in facts.items():
            note = event.debug_annotations.add(name_iid=self._declared(packet, "debug_annotation_names", key))
            if isinstance(fact, float):
                note.double_value = fact
            elif isinstance(fact, int) and abs(fact) <= LATEST:
                note.int_value = fact
            else:
                note.string_value = _plain(str(fact))
        self._put(packet)

    def _declared(self, packet: Any, table: str, name: str) -> int:
        """The number of a name, which the first packet with it declares."""
        packet.sequence_flags = NEEDS_STATE
        if (table, name) not in self._names:
            self._names[table, name] = len(self._names) + 1
            getattr(packet.interned_data, table).add(iid=len(self._names), name=_plain(name))
        return self._names[table, name]

    def _packet(self, at_ns: int, uuid: int, kind: str, **more: Any) -> Any:
        event = protos.TrackEvent(type=f"TYPE_{kind}", track_uuid=uuid, **more)
        return protos.TracePacket(timestamp=min(max(at_ns + self._story.clock_ns, 0), LATEST), track_event=event)

    def _put(self, packet: Any) -> None:
        packet.trusted_packet_sequence_id = SEQUENCE
        self._file.write(protos.Trace(packet=[packet]).SerializeToString())

    def _uuid(self, key: Track | int) -> int:
        return self._uuids.setdefault(key, len(self._uuids) + 1)

    def _track(self, track: Track, meaning: str = "", *, lane: int | None = None, counter: bool = False) -> int:
        """Its number; described with the groups that it is in, where it's new. A `lane` is a track beside those of its name."""
        key = track if lane is None else lane
        if key not in self._uuids:
            parent = self._track(track[:-1])
            self._describe(self._uuid(key), parent, track[-1], meaning, counter=counter)
        return self._uuids[key]

    def _describe(self, uuid: int, parent: int | None, name: str, meaning: str = "", *, counter: bool = False) -> None:
        """Tracks stand in the order in which they are described."""
        ordering = protos.TrackDescriptor.EXPLICIT
        described = protos.TrackDescriptor(uuid=uuid, name=_plain(name), child_ordering=ordering, sibling_order_rank=uuid)
        if parent is not None:
            described.parent_uuid = parent
        if meaning:
            described.description = meaning
        if counter:
            described.counter.SetInParent()
        self._put(protos.TracePacket(track_descriptor=described))


def _numbered(what: str, texts: Sequence[str]) -> dict[str, Fact]:
    return {f"{what} {place}": str(text) for place, text in enumerate(texts, 1)}


def _plain(text: str) -> str:
    return visible(text)[:MOST_TEXT]
