"""Is a run folder what the run left behind? Every published figure, computed again and compared.

Five questions, each answered by sentences that name what is wrong (none: all is well):
the files' checksums; run.json against itself (its schedule hash and facts follow from its
configuration); the logs' lines; the records against the schedule made anew; summary.json, byte
for byte, against the summary computed from the records.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from bytemlperf.errors import UserError
from bytemlperf.hardware.measured import is_remote
from bytemlperf.runs.checksums import check_checksums
from bytemlperf.runs.files import DAMAGED, read_plain, why
from bytemlperf.runs.kinds import Verified
from bytemlperf_llm.metrics.facts import RunFacts, facts_from, normalised
from bytemlperf_llm.metrics.summary import Summary
from bytemlperf_llm.plan.scenario import Scenario, scenario_of, seed_of
from bytemlperf_llm.record.gauges import read_gauges
from bytemlperf_llm.record.reader import RunReader
from bytemlperf_llm.record.record import RequestRecord
from bytemlperf_llm.run.description import facts_of
from bytemlperf_llm.run.rebuild import MAX_WITHOUT_RECORD, planned_requests, refuse_endless, shifts_ns
from bytemlperf_llm.run.summarise import load_of, summarise_folder
from bytemlperf_llm.workload import schedule
from engines.contract import FAILED_REASONS, EngineInfo
from engines.untrusted import decode_json

EARLY_NS = 1_000_000
"""A timer may fire so much too early."""

SERVERS_WAY = 0.5
"""Where more than this share of a server's responses are longer than asked for, it is the server's way, and no record was changed."""

MAX_OF_A_KIND = 20
"""So many findings of one kind are listed; the rest is counted."""


def verify_run(folder: Path) -> Verified:
    """Look at everything. Raises UserError only where the folder is no run at all."""
    if not (folder / "run.json").exists():
        RunReader(folder)  # says what the folder is instead
    findings, unchecked = check_checksums(folder), list[str]()
    try:
        reader = RunReader(folder)
        facts = facts_from(reader.run, folder)
    except UserError as error:
        return Verified([*findings, error.cause], unchecked, 0)
    seen = _Seen(reader)
    findings += _limited([*seen.damages, *seen.repeated])
    findings += _limited(seen.impossible)
    if is_remote(reader.run) and len(seen.too_long) > len(seen.records) * SERVERS_WAY:
        unchecked.append(f"{len(seen.too_long)} responses are longer than requested: the server generates more, or counts differently")
    else:
        findings += _limited(seen.too_long)
    findings += _limited(read_gauges(folder).damages)
    try:
        scenario, seed = scenario_of(reader.run), seed_of(reader.run)
        refuse_endless(scenario, len(seen.records))
        findings += _check_description(reader.run, facts, scenario, seed)
        findings += _limited(_against_schedule(seen, scenario, seed))
    except UserError as error:
        unchecked.append(f"the schedule can't be rebuilt: {error.cause}")
    except DAMAGED as error:
        findings.append(f"run.json is damaged: {why(error)}")
    return Verified([*findings, *_check_summary(folder, reader.run)], unchecked, len(seen.records))


# -- the logs --------------------------------------------------------------------------


class _Kept(NamedTuple):
    """What a record says of the schedule. `planned_ns` as in the schedule, a resumed part's shift taken off."""

    id: str
    planned_ns: int | None
    max_tokens: int
    session: str | None
    turn: int


class _Seen:
    """Every record of every log, by place in the schedule."""

    def __init__(self, reader: RunReader) -> None:
        self.records: dict[int, _Kept] = {}
        self.repeated: list[str] = []
        self.impossible: list[str] = []
        self.too_long: list[str] = []
        try:
            shifts = shifts_ns(reader.run)
        except (KeyError, TypeError, ValueError, AttributeError):
            shifts = {}
            self.repeated.append("run.json is damaged: its list of resumed parts can't be understood")
        for path in reader.logs():
            for record in reader.records_of(path):
                self._add(record, shifts.get(path.name, 0), path.name)
        self.damages = [f"{cut.file}: {cut.kind}, {cut.length_bytes} bytes at byte {cut.offset_bytes}" for cut in reader.damages]

    def _add(self, record: RequestRecord, shift_ns: int, name: str) -> None:
        if record.index in self.records:
            self.repeated.append(f"{name}: request {record.index} has more than one record")
        self.impossible += [f"{name}: request {record.index} {text}" for text in contradictions(record)]
        if record.max_tokens and record.output_tokens > record.max_tokens:
            self.too_long.append(
                f"{name}: request {record.index} has {record.output_tokens} tokens where {record.max_tokens} were requested"
            )
        planned_ns = None if record.planned_ns is None else record.planned_ns - shift_ns
        self.records[record.index] = _Kept(record.id, planned_ns, record.max_tokens, record.session, record.turn)


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
    if record.max_tokens > 0 and not tokens:
        yield "is ok without a token"
    if record.finish_reason in FAILED_REASONS or record.error_class is not None:
        yield f"is ok with finish reason {record.finish_reason} and error class {record.error_class}"


def _against_schedule(seen: _Seen, scenario: Scenario, seed: int) -> Iterator[str]:
    left = dict(seen.records)
    walked = min(max(left, default=-1) + 1, MAX_WITHOUT_RECORD + 100 * len(left))  # a closed loop's schedule has no end
    for planned in islice(planned_requests(scenario, seed), max(0, walked)):
        request = planned.request
        kept = left.pop(request.index, None)
        expected = _Kept(request.id, planned.offset_ns, request.max_tokens, request.session, request.turn)
        if kept is not None and kept != expected:
            name, value, wanted = next((field, a, b) for field, a, b in zip(_Kept._fields, kept, expected, strict=True) if a != b)
            yield f"the record of request {request.index} has {name} {value}, the schedule {wanted}"
    for index in sorted(left):
        yield f"there is a record of request {index}, which the schedule doesn't have"


# -- run.json -----------------------------------------------------------------------------


def _check_description(run: dict[str, Any], facts: RunFacts, scenario: Scenario, seed: int) -> list[str]:
    planned = schedule.describe(scenario, seed)
    found = []
    if run["schedule_sha256"] != planned.sha256:
        found.append(f"run.json's schedule hash {run['schedule_sha256'][:12]}… is not that of its configuration, {planned.sha256[:12]}…")
    if run.get("scheduled_requests") != planned.requests:
        found.append(f"run.json says {run.get('scheduled_requests')} requests, its configuration makes {planned.requests}")
    info = EngineInfo(name=str(run["engine"]["name"]), reports=run["engine"].get("reports", ()))
    expected = msgspec.structs.replace(
        facts_of(scenario, planned.requests or facts.scheduled_requests, info), loop_utilisation=facts.loop_utilisation
    )
    differing = [name for name in RunFacts.__struct_fields__ if getattr(normalised(expected), name) != getattr(facts, name)]
    return found + [
        f"run.json's facts say {name} {getattr(facts, name)}, its configuration {getattr(expected, name)}" for name in differing
    ]


# -- summary.json -------------------------------------------------------------------------


def _check_summary(folder: Path, run: dict[str, Any]) -> list[str]:
    """summary.json, and what run.json has of it, against the one computed now."""
    try:
        kept = read_plain(folder / "summary.json")
    except FileNotFoundError:
        return [f"there is no summary.json; write it with: bmp-llm summarize {folder}"]
    except OSError as error:
        return [f"summary.json can't be read: {error.strerror}"]
    try:
        summary = summarise_folder(folder)
    except DAMAGED as error:
        return [f"the summary can't be computed from run.json as it is: {why(error)}"]
    return [*_check_load(run, summary), *_compare(kept, summary.to_json())]


def _check_load(run: dict[str, Any], summary: Summary) -> list[str]:
    """The delivered load that run.json has, if it has one: a killed run doesn't."""
    end = run.get("end")
    if not isinstance(end, dict) or "load" not in end:
        return []
    kept, computed = dict(_leaves(end["load"])), dict(_leaves(load_of(summary)))
    return [
        f"run.json: end.load.{path} is {kept.get(path, _ABSENT)}, the records give {computed.get(path, _ABSENT)}"
        for path in {**kept, **computed}
        if kept.get(path) != computed.get(path)
    ]


def _compare(kept: bytes, computed: bytes) -> list[str]:
    if kept == computed:
        return []
    try:
        before, now = dict(_leaves(decode_json(kept))), dict(_leaves(decode_json(computed)))
    except ValueError:
        return ["summary.json is damaged: not valid JSON"]
    paths = [path for path in {**before, **now} if before.get(path, _ABSENT) != now.get(path, _ABSENT)]
    texts = (f"summary.json: {path} is {before.get(path, _ABSENT)}, the records give {now.get(path, _ABSENT)}" for path in paths)
    return _limited(texts) or ["summary.json is not formatted as this program writes it"]


_ABSENT = "absent"


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for place, item in enumerate(value):
            yield from _leaves(item, f"{path}[{place}]")
    else:
        yield path, json.dumps(value)


def _limited(texts: Any) -> list[str]:
    """The first findings, and how many more there are."""
    iterator = iter(texts)
    shown = list(islice(iterator, MAX_OF_A_KIND))
    more = sum(1 for _ in iterator)
    return [*shown, f"… and {more} more like these"] if more else shown
