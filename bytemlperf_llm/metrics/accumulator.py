"""Records in, columns out: what the final summary and the page are both computed from.

`Accumulator.add_all` takes records and keeps a few integers of each, plus four bytes for each run of equal token
intervals; the record itself isn't kept, so a million requests of 128 tokens fit in memory. Nothing
is averaged on the way. Rows are put into one canonical order (due time, then index) before
anything is computed, so that the order in which records arrived, or workers' files were read,
changes no bit of a result.
"""

from __future__ import annotations

import copy
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import compress, repeat
from operator import attrgetter
from typing import get_args

import msgspec

from bytemlperf.lazy import numpy
from bytemlperf.runs.records import RunRecords
from bytemlperf.statistics.clusters import ClusteredColumn
from bytemlperf.statistics.columns import ABSENT, Column, Mask, column, either, present
from bytemlperf_llm.metrics.blocks import Block, block_of, blocks_of
from bytemlperf_llm.metrics.definitions import STAGES, last_ns, stage_times_ns
from bytemlperf_llm.metrics.facts import RunFacts
from bytemlperf_llm.metrics.fluidity import Targets, missed_deadlines
from bytemlperf_llm.metrics.recount import Counted, RecountTally, read_recount
from bytemlperf_llm.metrics.server_tally import ServerTally
from bytemlperf_llm.metrics.session_tally import SessionTally
from bytemlperf_llm.metrics.tokens import TokenTally
from bytemlperf_llm.record.record import Outcome, RequestRecord
from engines.contract import ErrorClass

OUTCOMES: tuple[str, ...] = get_args(Outcome)
OUTCOME_NUMBERS = {outcome: number for number, outcome in enumerate(OUTCOMES)}
OWN_LIMIT: ErrorClass = "client_limit"
"""A failure of this class says nothing of the server."""
MAX_DETAILS = 3
MAX_DETAIL_CHARS = 200
MAX_ENDS = 100_000
MAX_STEP_TOKENS = 32
"""Bursts of as many tokens, and of more, are counted together."""


class Failure(msgspec.Struct, kw_only=True):
    """Failures of one class: how many, and the first lines of up to three distinct details."""

    count: int
    details: list[str]


class _Failures:
    """Counts failures by class and keeps the earliest distinct details, whatever the order. `ends` are when (ns) and why."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.ends: list[tuple[int, str]] = []
        self._details: dict[str, dict[str, int]] = {}

    def add_all(self, records: Iterable[RequestRecord]) -> None:
        for record in records:
            self._add(record)

    def _add(self, record: RequestRecord) -> None:
        name = record.error_class or "unclassified"
        self.counts[name] += 1
        if len(self.ends) < MAX_ENDS:
            self.ends.append((record.end_ns, name))
        lines = record.error_detail.strip().splitlines()
        if not lines:
            return
        line = lines[0][:MAX_DETAIL_CHARS]
        kept = self._details.setdefault(name, {})
        kept[line] = min(record.index, kept.get(line, record.index))
        if len(kept) > MAX_DETAILS:
            del kept[max(kept, key=lambda text: (kept[text], text))]

    def table(self) -> dict[str, Failure]:
        """Most frequent class first."""
        names = sorted(self.counts, key=lambda name: (-self.counts[name], name))
        firsts = {name: sorted((index, line) for line, index in self._details.get(name, {}).items()) for name in names}
        return {name: Failure(count=self.counts[name], details=[line for _, line in firsts[name]]) for name in names}


class Accumulator:
    """Everything that a summary needs of the records added so far. None is added once columns were taken."""

    def __init__(self, counted: Counted | None = None, targets: Targets | None = None) -> None:
        self._targets = targets
        self.recount = None if counted is None else RecountTally(counted)
        self._stored: dict[str, array[int]] = {}
        self.itl = ClusteredColumn()
        self._inter_chunk: ClusteredColumn | None = None
        self.outcomes: Counter[str] = Counter()
        self.failures = _Failures()
        self.tokens = TokenTally()
        self.sessions = SessionTally()
        self.server = ServerTally()
        self.labels: dict[str, dict[str, int]] = {"class_name": {}, "endpoint": {}}
        self.batched_tokens = 0
        self.step_sizes = numpy.zeros(MAX_STEP_TOKENS + 1, "i8")
        self.stream_tokens = 0
        self.stream_chunks = 0
        self._rows: dict[str | None, Column] = {}
        self._keep(block_of([]), [])

    def __len__(self) -> int:
        return len(self._stored["index"])

    @property
    def columns(self) -> dict[str, Column]:
        """What is kept of each record, in the order in which they came; ABSENT where it has none."""
        return {name: column(stored) for name, stored in self._stored.items()}

    @property
    def inter_chunk(self) -> ClusteredColumn:
        """Gaps between bursts: the very column `itl` until a burst of several tokens makes them differ."""
        return self.itl if self._inter_chunk is None else self._inter_chunk

    def add_all(self, records: Iterable[RequestRecord]) -> Accumulator:
        """Add many; returns itself. Cost: a few microseconds a record and about 0.1 more for each token."""
        for block in blocks_of(records):
            self._add(block)
        return self

    def _add(self, records: Sequence[RequestRecord]) -> None:
        self._rows.clear()
        block, row = block_of(records), len(self)
        ok = numpy.array([record.outcome == "ok" for record in records], bool)
        if self._inter_chunk is None and block.batched[ok].any():
            self._inter_chunk = copy.deepcopy(self.itl)
        block.intervals.add_to(self.itl, row, ok)
        if self._inter_chunk is not None:
            block.silences.add_to(self._inter_chunk, row, ok)
        self._count_steps(block, ok)
        self.batched_tokens += int(block.batched[ok].sum())
        self.stream_tokens += int(block.seen[ok].sum())
        self.stream_chunks += int(block.chunks[ok].sum())
        self.outcomes.update([record.outcome for record in records])
        self.sessions.add_all(records)
        self.failures.add_all(record for record in records if record.outcome == "failed")
        answered = list(compress(records, ok))
        self.tokens.add_all(answered, block.max_gap[ok].tolist(), (block.last - block.first)[ok].tolist())
        if self.recount is not None:
            for record in answered:
                self.recount.add(record)
        self._keep(block, records)

    def _count_steps(self, block: Block, ok: Mask) -> None:
        lengths = block.silences.lengths
        if block.steps is None:
            self.step_sizes[1] += int(lengths[ok].sum())
        else:
            sizes = numpy.minimum(block.steps[numpy.repeat(ok, lengths)], MAX_STEP_TOKENS)
            self.step_sizes += numpy.bincount(sizes, minlength=len(self.step_sizes))

    def _keep(self, block: Block, records: Sequence[RequestRecord]) -> None:
        plain = dict(zip(_PLAIN, zip(*map(_plain_of, records), strict=True) if records else repeat(()), strict=False))
        fields: dict[str, Iterable[int | None]] = {
            **plain,
            "outcome": [OUTCOME_NUMBERS[record.outcome] for record in records],
            "due": [sent if planned is None else planned for planned, sent in zip(plain["planned"], plain["sent"], strict=True)],
            "turn": [record.turn if record.session_turns else None for record in records],
            "own_limit": [record.error_class == OWN_LIMIT for record in records],
            **{name: _codes(map(attrgetter(name), records), codes) for name, codes in self.labels.items()},
            **dict(zip(STAGES, _stages(records, block.last.tolist()), strict=True)),
            **dict(zip(REASONING, _reasoning(records), strict=True)),
        }
        before = len(self._stored["index"]) if self._stored else 0
        fields |= self.server.columns(records)
        for name, values in fields.items():
            stored = self._stored.setdefault(name, array("q", [ABSENT]) * before)
            stored.extend([ABSENT if value is None else value for value in values])
        last = block.last
        if any(record.inputs for record in records):
            last = column([ABSENT if (end_ns := last_ns(record)) is None else end_ns for record in records])
        found = {
            "first": block.first,
            "last": last,
            "stream": block.seen,
            "silences": block.silences.lengths,
            "step_tokens": block.step_tokens(),
            "max_gap": block.max_gap,
            "max_gap_end": block.max_gap_end,
        }
        if self._targets:
            due = column(self._stored["due"])[before:]
            found["deadlines"], found["missed"] = missed_deadlines(block.flat, due, *self._targets.of(records))
        for name, values in found.items():
            self._stored.setdefault(name, array("q")).frombytes(values.astype("i8").tobytes())

    def rows(self, outcome: str | None = None) -> Column:
        """Row numbers in canonical order, of one outcome or of all."""
        if outcome not in self._rows:
            columns = self.columns
            if outcome is None:
                due, index, end = columns["due"], columns["index"], columns["end"]
                self._rows[None] = numpy.lexsort((end, index, either(due, end)))
            else:
                rows = self.rows()
                self._rows[outcome] = rows[columns["outcome"][rows] == OUTCOMES.index(outcome)]
        return self._rows[outcome]

    def part(self, name: str, label: str) -> Accumulator:
        """Its requests of one class or endpoint: the same columns, whose other rows are in none of its outcomes."""
        found, rows = copy.copy(self), self.rows()
        found._rows = {None: rows[self.columns[name][rows] == self.labels[name].get(label, ABSENT)]}
        found.outcomes = Counter({outcome: len(found.rows(outcome)) for outcome in OUTCOMES})
        return found

    def request_values(self, name: str, rows: Column) -> Column:
        """A per-request metric of these rows, in their order, without those that don't have it."""
        return present(request_column(self.columns, name, rows))


REASONING = ("reasoning_at", "answer_at", "reasoning_tokens", "answer_tokens")
"""Columns of responses with reasoning: stamps of the first token of it and of the answer, and tokens of both."""

_PLAIN = {
    "index": "index",
    "planned": "planned_ns",
    "sent": "sent_ns",
    "end": "end_ns",
    "prompt": "prompt_tokens",
    "reusable": "reusable_tokens",
    "cached": "cached_tokens",
    "prefix": "prefix_index",
    "output": "output_tokens",
    "asked": "max_tokens",
    "inputs": "inputs",
}
"""Columns that are a field of the record."""
_plain_of = attrgetter(*_PLAIN.values())

_SOURCES = {
    "ttft": ("first", "due"),
    "service_ttft": ("first", "sent"),
    "time_to_first_reasoning_token": ("reasoning_at", "due"),
    "time_to_first_answer_token": ("answer_at", "due"),
    "e2e": ("last", "due"),
    "service_e2e": ("last", "sent"),
    "schedule_lateness": ("sent", "planned"),
    "max_stall": ("max_gap",),
    "tpot": ("last", "first", "output"),
    "ntpot": ("last", "due", "output"),
}
"""The columns of a metric of `definitions`: the later stamp, the earlier one, and what their difference is divided by."""


def request_column(columns: dict[str, Column], name: str, rows: Column) -> Column:
    """A metric of these rows, ABSENT for those that don't have it."""
    sources = [columns[source][rows] for source in _SOURCES.get(name, (name,))]
    there = numpy.logical_and.reduce([source != ABSENT for source in sources])
    if len(sources) == 3:
        sources[2] = sources[2] - (name == "tpot")
        there &= sources[2] > 0
    first, *others = (source[there] for source in sources)
    values = numpy.full(len(there), ABSENT, "i8")
    if others:
        first = first - others[0]
    if len(others) == 2:  # to the nearest ns, halves up
        whole, rest = numpy.divmod(first, others[1])
        first = whole + (2 * rest >= others[1])
    values[there] = first
    return values


def _codes(labels: Iterable[str | None], codes: dict[str, int]) -> Iterable[int | None]:
    """A number for each label, from 0 in the order of their first coming."""
    return (None if label is None else codes.setdefault(label, len(codes)) for label in labels)


def _stages(records: Sequence[RequestRecord], last: Sequence[int]) -> Iterable[Sequence[int | None]]:
    """A column for each of STAGES."""
    none = (None,) * len(STAGES)
    if all(record.stages is None for record in records):
        return [[None] * len(records)] * len(STAGES)
    return zip(*(none if end == ABSENT else stage_times_ns(record, end) for record, end in zip(records, last, strict=True)), strict=True)


def _reasoning(records: Sequence[RequestRecord]) -> Iterable[Sequence[int | None]]:
    """A column for each of REASONING; tokens by usage, else by the stream."""
    none = (None,) * len(REASONING)
    tokens = [record.reasoning_tokens or record.streamed_reasoning_tokens for record in records]
    if not any(tokens):
        return [[None] * len(records)] * len(REASONING)
    return zip(
        *(
            (record.reasoning_ns, record.answer_ns, count, max(record.output_tokens + record.hidden_tokens - count, 0)) if count else none
            for record, count in zip(records, tokens, strict=True)
        ),
        strict=True,
    )


def accumulated(records: Iterable[RequestRecord], facts: RunFacts) -> Accumulator:
    """All of them; those of a folder with its recount."""
    counted = read_recount(records.folder)[0] if isinstance(records, RunRecords) else None
    return Accumulator(counted, Targets(facts)).add_all(records)
