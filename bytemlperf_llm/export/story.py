"""A run of LLM serving as a timeline: requests with their stages on their worker's track, turns on their session's, what was in flight,
tokens, the engine's gauges, and the stretches that the figures are of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any
from zlib import crc32

from bytemlperf.export.timeline import Amounts, Event, Mark, Reading, Slice, Story
from bytemlperf.runs.folder import part
from bytemlperf.units import NS_PER_MS, NS_PER_S
from bytemlperf_llm.metrics.definitions import due_ns, token_times
from bytemlperf_llm.record.gauges import Sample
from bytemlperf_llm.record.record import RequestRecord
from bytemlperf_llm.run.rebuild import clock_origin_ns

FACTS = (
    *("index", "class_name", "endpoint", "session", "turn", "prompt_tokens", "cached_tokens", "output_tokens"),
    *("reasoning_tokens", "finish_reason", "error_detail"),
)
STEADY = "steady state: rates are of this stretch"


def story_of(run: dict[str, Any], summary: dict[str, Any], records: Iterable[RequestRecord], samples: Iterable[Sample]) -> Story:
    """Times are on the run's own axis; of a run that was killed nothing is known but that axis."""
    clock_ns = clock_origin_ns(run)
    note = "the run kept no clock, as one that was killed: time 0 is its origin" if clock_ns is None else ""
    return Story(_events(run, summary, records, samples), clock_ns or 0, clock_origin_ns(run, "clock_origin_unix_ns"), note)


def _events(run: dict[str, Any], summary: dict[str, Any], records: Iterable[RequestRecord], samples: Iterable[Sample]) -> Iterator[Event]:
    yield from _stretches(run, summary)
    for record in records:
        yield from _of_request(record)
    for sample in samples:
        yield from (Reading(f"engine {name}", sample.at_ns, value) for name, value in sample.gauges.items())


def _stretches(run: dict[str, Any], summary: dict[str, Any]) -> Iterator[Event]:
    """Warm-up, what the rates are of and what they leave out, and where a run was resumed."""
    if warmups := part(run, "config", "scenario").get("warmup_requests"):
        yield Mark(name=f"{warmups} warm-up requests, not measured, ended before this", at_ns=0)
    for resumed in run.get("resumed", []):
        yield Mark(name="resumed: the pause before this is left out of the time axis", at_ns=resumed["begin_ns"])
    for event in (summary.get("stalls") or {}).get("events", []):
        facts = {"longest_ms": event["longest_ns"] / NS_PER_MS}
        yield Mark(name=f"stall: {event['stalled']} of {event['streams']} open streams", at_ns=event["at_ns"], facts=facts)
    for fault in summary.get("faults") or ():
        ended_ns = summary["steady_state"]["whole"]["end_ns"] if fault["ended_ns"] is None else fault["ended_ns"]
        facts = {"lost": fault["lost_requests"], "late": fault["late_requests"], "debt_s": fault["debt_ns"] / NS_PER_S}
        yield Slice(
            track=("stretches",), name=fault["kind"], start_ns=fault["began_ns"], end_ns=max(ended_ns, fault["began_ns"]), facts=facts
        )
    if steady := summary.get("steady_state"):
        whole, window = steady["whole"], steady["window"]
        edges = [whole["start_ns"], window["start_ns"], window["end_ns"], whole["end_ns"]]
        for name, (start_ns, end_ns) in zip(("ramp-up", STEADY, "ramp-down"), pairwise(edges), strict=True):
            if end_ns > start_ns:
                yield Slice(track=("stretches",), name=name, start_ns=start_ns, end_ns=end_ns)


def _of_request(record: RequestRecord) -> Iterator[Event]:
    due, times, session = due_ns(record), token_times(record), record.session
    start_ns = record.end_ns if due is None else due
    choice = record.index if session is None else crc32(session.encode())
    failed = "" if record.outcome == "ok" else record.error_class or record.outcome
    yield Slice(
        noun="request",
        track=("workers", f"worker {record.worker}"),
        name=record.id,
        start_ns=start_ns,
        end_ns=record.end_ns,
        stages=stages_of(record, times.stamps_ns),
        facts={name: getattr(record, name) for name in FACTS},
        choice=choice,
        failed=failed,
    )
    if session is not None:
        parents = [(session, parent) for parent in record.parents]
        name, track, own = f"turn {record.turn}", ("sessions", session), (session, record.turn)
        yield Slice(noun="turn", track=track, name=name, start_ns=start_ns, end_ns=record.end_ns, choice=choice, id=own, after=parents)
    if record.sent_ns is not None:
        yield Amounts("requests in flight", (record.sent_ns, record.end_ns), (1, -1), level=True)
    yield Amounts("output tokens/s", times.stamps_ns, times.tokens)


def stages_of(record: RequestRecord, stamps_ns: Sequence[int]) -> list[tuple[str, int, int]]:
    """Planned → sent → queued → scheduled → first token → last token → delivered, as far as each is known; `stamps_ns` are those of
    chunks that carry a token."""
    first, last = (stamps_ns[0], stamps_ns[-1]) if stamps_ns else (None, None)
    cuts = [("", due_ns(record)), ("waiting to be sent", record.sent_ns)]
    if (engine := record.stages) is None:
        cuts += [("to the first token", first), ("reasoning", record.answer_ns), ("decode", last)]
    else:
        cuts += [("reaching the engine", engine.queued_ns), ("engine queue", engine.scheduled_ns)]
        cuts += [("prefill", engine.first_token_ns), ("decode", engine.last_token_ns), ("delivery", last)]
    known = [(name, at_ns) for name, at_ns in cuts if at_ns is not None]
    return [(name, start_ns, end_ns) for (_, start_ns), (name, end_ns) in pairwise(known)]
