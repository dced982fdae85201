"""Is a run of LLM serving what it says? What `bmp verify` asks besides the checksums, the logs' lines and the summary.

Each question is answered by sentences that name what is wrong (none: all is well): run.json against itself (its schedule hash and
facts follow from its configuration); each record against itself; the records against the schedule made anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice, pairwise, takewhile
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from bytemlperf.errors import UserError
from bytemlperf.hardware.measured import is_remote
from bytemlperf.runs.files import DAMAGED, why
from bytemlperf.runs.folder import part
from bytemlperf.runs.kinds import Unchecked, few
from bytemlperf.runs.records import RunRecords, with_log_names
from bytemlperf_llm.metrics.facts import RunFacts, facts_from, normalised
from bytemlperf_llm.plan.scenario import Scenario, scenario_of, seed_of
from bytemlperf_llm.record.gauges import read_gauges
from bytemlperf_llm.record.record import RequestRecord
from bytemlperf_llm.run.description import facts_of
from bytemlperf_llm.run.rebuild import MAX_WITHOUT_RECORD, refuse_endless, shifts_ns
from bytemlperf_llm.workload.schedule import PlannedSession, Schedule
from engines.contract import FAILED_REASONS, EngineInfo

EARLY_NS = 1_000_000
"""A timer may fire so much too early."""

SERVERS_WAY = 0.5
"""Where more than this share of a server's responses are longer than asked for, it is the server's way, and no record was changed."""


def verify(run: dict[str, Any], records: Iterable[RequestRecord]) -> Iterator[str]:
    """Look at everything. Raises UserError where run.json has no facts."""
    folder = records.folder if isinstance(records, RunRecords) else Path("run")
    facts = facts_from(run, folder)
    seen = _Seen(run, records)
    yield from few(seen.repeated)
    yield from few(seen.impossible)
    if is_remote(run) and len(seen.too_long) > len(seen.records) * SERVERS_WAY:
        yield Unchecked(f"{len(seen.too_long)} responses are longer than requested: the server generates more, or counts differently")
    else:
        yield from few(seen.too_long)
    yield from few(read_gauges(folder).damages)
    try:
        scenario, seed = scenario_of(run), seed_of(run)
        refuse_endless(scenario, len(seen.records))
        yield from _check_description(run, facts, scenario, seed)
        yield from few(_against_schedule(seen, scenario, seed))
        if scenario.prompts.sessions is not None:
            yield from few(_against_graph(seen, Schedule(scenario, seed)))
    except UserError as error:
        yield Unchecked(f"the schedule can't be rebuilt: {error.cause}")
    except DAMAGED as error:
        yield f"run.json is damaged: {why(error)}"


# -- the logs --------------------------------------------------------------------------


class _Kept(NamedTuple):
    """What a record says of the schedule. `planned_ns` as in the schedule, a resumed part's shift taken off."""

    id: str
    class_name: str | None
    planned_ns: int | None
    max_tokens: int
    session: str | None
    turn: int


class _Seen:
    """Every record of every log, by place in the schedule."""

    def __init__(self, run: dict[str, Any], records: Iterable[RequestRecord]) -> None:
        self.records: dict[int, _Kept] = {}
        self.ends_ns: dict[int, int] = {}
        self.repeated: list[str] = []
        self.impossible: list[str] = []
        self.too_long: list[str] = []
        try:
            shifts = shifts_ns(run)
        except (KeyError, TypeError, ValueError, AttributeError):
            shifts = {}
            self.repeated.append("run.json is damaged: its list of resumed parts can't be understood")
        for name, record in with_log_names(records):
            self._add(record, shifts.get(name, 0), name)

    def _add(self, record: RequestRecord, shift_ns: int, name: str) -> None:
        if record.index in self.records:
            self.repeated.append(f"{name}: request {record.index} has more than one record")
        self.impossible += [f"{name}: request {record.index} {text}" for text in contradictions(record)]
        if record.max_tokens and record.output_tokens > record.max_tokens:
            self.too_long.append(
                f"{name}: request {record.index} has {record.output_tokens} tokens where {record.max_tokens} were requested"
            )
        planned_ns = None if record.planned_ns is None else record.planned_ns - shift_ns
        self.ends_ns[record.index] = record.end_ns - shift_ns
        self.records[record.index] = _Kept(record.id, record.class_name, planned_ns, record.max_tokens, record.session, record.turn)


def contradictions(record: RequestRecord) -> Iterator[str]:
    """What can't be, of one record: time that runs backwards, tokens that nobody asked for or that didn't come."""
    stamps = [("was sent", record.sent_ns), ("had its first byte", record.first_byte_ns)]
    stamps += [("had a token", stamp) for stamp in record.chunk_ns] + [("ended", record.end_ns)]
    known = [(what, stamp) for what, stamp in stamps if stamp is not None]
    if record.planned_ns is not None and record.sent_ns is not None and record.sent_ns < record.planned_ns - EARLY_NS:
        yield f"was sent {record.planned_ns - record.sent_ns} ns before it was due"
    for (before, earlier), (after, later) in pairwise(known):
        if later < earlier:
            yield f"{after} {earlier - later} ns before it {before}"
            break
    if record.chunk_ns and record.sent_ns is None:
        yield "has tokens but was never sent"
    if len(record.tokens_per_chunk) != len(record.chunk_ns):
        yield f"has {len(record.chunk_ns)} stamps for {len(record.tokens_per_chunk)} chunks"
    if record.outcome != "ok":
        return
    tokens = sum(record.tokens_per_chunk)
    if record.output_tokens not in (tokens, record.usage_tokens):
        yield f"has {record.output_tokens} tokens, its chunks {tokens} and its usage {record.usage_tokens}"
    if (record.streamed_reasoning_tokens or 0) > tokens:
        yield f"has {record.streamed_reasoning_tokens} tokens of reasoning among {tokens}"
    reasoning = [stamp for stamp in (record.reasoning_ns, record.answer_ns) if stamp is not None]
    if reasoning and (reasoning != sorted(reasoning) or not set(record.chunk_ns).issuperset(reasoning)):
        yield "has no chunk at which its reasoning, or its answer after it, began"
    if record.max_tokens > 0 and not tokens:
        yield "is ok without a token"
    if record.finish_reason in FAILED_REASONS or record.error_class is not None:
        yield f"is ok with finish reason {record.finish_reason} and error class {record.error_class}"


def _against_schedule(seen: _Seen, scenario: Scenario, seed: int) -> Iterator[str]:
    left = dict(seen.records)
    walked = min(max(left, default=-1) + 1, MAX_WITHOUT_RECORD + 100 * len(left))  # a closed loop's schedule has no end
    for planned in islice(Schedule(scenario, seed).planned(), max(0, walked)):
        request = planned.request
        kept = left.pop(request.index, None)
        offset_ns = kept.planned_ns if kept and scenario.prompts.sessions else planned.offset_ns  # a turn's depends on what ended before
        expected = _Kept(request.id, request.class_name, offset_ns, request.max_tokens, request.session, request.turn)
        if kept is not None and kept != expected:
            name, value, wanted = next((field, a, b) for field, a, b in zip(_Kept._fields, kept, expected, strict=True) if a != b)
            yield f"the record of request {request.index} has {name} {value}, the schedule {wanted}"
    for index in sorted(left):
        yield f"there is a record of request {index}, which the schedule doesn't have"


def _against_graph(seen: _Seen, schedule: Schedule) -> Iterator[str]:
    """Turns that were due at another time than the ends of their parents make it."""
    last = min(max(seen.records, default=-1), MAX_WITHOUT_RECORD + 100 * len(seen.records))
    for planned in takewhile(lambda planned: planned.first_index <= last, schedule.sessions()):
        for index in range(planned.first_index, planned.first_index + len(planned.session.turns)):
            kept, due_ns = seen.records.get(index), _due_by_graph(seen, planned, index)
            if kept is not None and None not in (kept.planned_ns, due_ns) and kept.planned_ns != due_ns:
                yield f"request {index} was due at {kept.planned_ns} ns, and by the ends of the turns before it at {due_ns}"


def _due_by_graph(seen: _Seen, planned: PlannedSession, index: int) -> int | None:
    """None for a first turn, and where a record is missing."""
    first, turns = planned.first_index, planned.session.turns
    turn, begun = turns[index - first], seen.records.get(first)
    ends_ns = [seen.ends_ns[first + place] for place in turn.before if first + place in seen.ends_ns]
    if not ends_ns or len(ends_ns) < len(turn.before) or begun is None or begun.planned_ns is None:
        return None
    return turn.due_ns(begun.planned_ns - turns[0].at_ns, ends_ns)


# -- run.json -----------------------------------------------------------------------------


def _check_description(run: dict[str, Any], facts: RunFacts, scenario: Scenario, seed: int) -> list[str]:
    msgspec.convert(run.get("engine"), EngineInfo)  # raises where that is of no engine
    planned = Schedule(scenario, seed).describe()
    found = []
    if run["schedule_sha256"] != planned.sha256:
        found.append(f"run.json's schedule hash {run['schedule_sha256'][:12]}… is not that of its configuration, {planned.sha256[:12]}…")
    if run.get("scheduled_requests") != planned.requests:
        found.append(f"run.json says {run.get('scheduled_requests')} requests, its configuration makes {planned.requests}")
    expected = msgspec.structs.replace(
        facts_of(scenario, planned.requests or facts.scheduled_requests, part(run, "config", "engine_options")),
        loop_utilisation=facts.loop_utilisation,
    )
    differing = [name for name in RunFacts.__struct_fields__ if getattr(normalised(expected), name) != getattr(facts, name)]
    return found + [
        f"run.json's facts say {name} {getattr(facts, name)}, its configuration {getattr(expected, name)}" for name in differing
    ]
