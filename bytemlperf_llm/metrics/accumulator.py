"""Records in, columns out: what the live view and the final summary are both computed from.

`Accumulator.add` takes one record and keeps a few integers of it, plus four bytes for each run of equal token
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
from typing import get_args

import msgspec

from bytemlperf.runs.records import RunRecords
from bytemlperf.statistics.arrays import ABSENT as ABSENT
from bytemlperf.statistics.arrays import LARGE, ClusteredColumn, load_numpy, order_of, sort_values
from bytemlperf.statistics.columns import either, rows_with
from bytemlperf.statistics.statistics import parse_percentile, percentile
from bytemlperf_llm.metrics.blocks import Block, add_clusters, block_of, blocks_of, extend, stage_columns
from bytemlperf_llm.metrics.definitions import (
    BURST_NS,
    STAGES,
    TokenTimes,
    bursts_of,
    chunk_gaps_ns,
    due_ns,
    stage_times_ns,
    token_runs_ns,
    token_times,
)
from bytemlperf_llm.metrics.recount import Counted, RecountTally, read_recount
from bytemlperf_llm.metrics.request_metrics import request_values
from bytemlperf_llm.metrics.tokens import TokenTally
from bytemlperf_llm.record.record import Outcome, RequestRecord
from engines.contract import ErrorClass

OUTCOMES: tuple[str, ...] = get_args(Outcome)
OWN_LIMIT: ErrorClass = "client_limit"
"""A failure of this class says nothing of the server."""
MAX_DETAILS = 3
MAX_DETAIL_CHARS = 200
MAX_ENDS = 100_000

_FIELDS = (
    *("index", "outcome", "due", "planned", "sent", "end", "first", "last"),
    *("prompt", "output", "stream", "max_gap", "asked", "own_limit", *STAGES),
)


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

    def add(self, record: RequestRecord) -> None:
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
        return {name: Failure(count=self.counts[name], details=self._first(name)) for name in names}

    def _first(self, name: str) -> list[str]:
        kept = self._details.get(name, {})
        return sorted(kept, key=lambda text: (kept[text], text))


class Accumulator:
    """Everything that a summary needs of the records added so far."""

    def __init__(self, counted: Counted | None = None) -> None:
        self.recount = None if counted is None else RecountTally(counted)
        self.columns: dict[str, array[int]] = {name: array("q") for name in _FIELDS}
        self.itl = ClusteredColumn()
        self._inter_chunk: ClusteredColumn | None = None
        self.outcomes: Counter[str] = Counter()
        self.failures = _Failures()
        self.tokens = TokenTally()
        self.batched_tokens = 0
        self.stream_tokens = 0
        self.stream_chunks = 0
        self._rows: dict[str | None, array[int]] = {}

    def __len__(self) -> int:
        return len(self.columns["index"])

    def add_all(self, records: Iterable[RequestRecord]) -> Accumulator:
        """Add many; returns itself. Blocks at a time once there are so many that numpy pays."""
        left = iter(records)
        for record in left:
            self.add(record)
            if len(self.itl) + len(self) >= LARGE:
                break
        for block in blocks_of(left):
            self._add_block(block)
        return self

    def _add_block(self, records: Sequence[RequestRecord]) -> None:
        """`add` of each, with numpy where there is one and the numbers allow."""
        numpy = load_numpy()
        block = None if numpy is None else block_of(records, numpy)
        if numpy is None or block is None:
            for record in records:
                self.add(record)
            return
        row, ok = len(self), numpy.array([record.outcome == "ok" for record in records], bool)
        if self._inter_chunk is None and block.several:
            self._inter_chunk = copy.deepcopy(self.itl)
        add_clusters(self.itl, row, ok, block.intervals, numpy)
        if self._inter_chunk is not None:
            add_clusters(self._inter_chunk, row, ok, block.silences, numpy)
        self.batched_tokens += int(block.batched[ok].sum())
        self.stream_tokens += int(block.seen[ok].sum())
        self.stream_chunks += int(block.chunks[ok].sum())
        self._add_block_rows(records, block)

    def _add_block_rows(self, records: Sequence[RequestRecord], block: Block) -> None:
        self.outcomes.update(record.outcome for record in records)
        self.tokens.add(records, block.max_gap.tolist(), (block.last - block.first).tolist())
        for record in records:
            if record.outcome == "failed":
                self.failures.add(record)
            elif self.recount is not None:
                self.recount.add(record)
        fields: dict[str, list[int | None]] = {
            "index": [record.index for record in records],
            "outcome": [OUTCOMES.index(record.outcome) for record in records],
            "due": [due_ns(record) for record in records],
            "planned": [record.planned_ns for record in records],
            "sent": [record.sent_ns for record in records],
            "end": [record.end_ns for record in records],
            "prompt": [record.prompt_tokens for record in records],
            "output": [record.output_tokens for record in records],
            "asked": [record.max_tokens for record in records],
            "own_limit": [int(record.error_class == OWN_LIMIT) for record in records],
        }
        for name, values in fields.items():
            self.columns[name].extend([ABSENT if value is None else value for value in values])
        for name in ("first", "last", "seen", "max_gap"):
            extend(self.columns["stream" if name == "seen" else name], getattr(block, name))
        for name, stage in zip(STAGES, stage_columns(records, block.last), strict=True):
            self.columns[name].extend(stage)

    def add(self, record: RequestRecord) -> None:
        """Take in one record. Cost: a few microseconds and about 0.1 more for each token."""
        self.outcomes[record.outcome] += 1
        if self.recount is not None:
            self.recount.add(record)
        if record.outcome == "failed":
            self.failures.add(record)
        times = token_times(record)
        seen = len(times.tokens) if times.single else times.token_count
        gaps = chunk_gaps_ns(times)
        largest = max(gaps) if gaps else ABSENT
        self._add_row(record, times, seen, largest)
        if record.outcome == "ok":
            span_ns = times.stamps_ns[-1] - times.stamps_ns[0] if gaps else 0
            self.tokens.add_answer(record, largest if gaps else 0, span_ns)
            if times.stamps_ns:
                self._add_gaps(len(self) - 1, times, gaps, span_ns)
                self.stream_tokens += seen
                self.stream_chunks += len(times.tokens)

    @property
    def inter_chunk(self) -> ClusteredColumn:
        """Gaps between bursts: the very column `itl` until a burst of several tokens makes them differ."""
        return self.itl if self._inter_chunk is None else self._inter_chunk

    def _add_gaps(self, row: int, times: TokenTimes, gaps: list[int], span_ns: int) -> None:
        if times.single and min(gaps, default=BURST_NS + 1) > BURST_NS:
            self.itl.add(row, gaps, total=span_ns)
        else:
            bursts = bursts_of(times, gaps)
            if self._inter_chunk is None and bursts.batched_count:
                self._inter_chunk = copy.deepcopy(self.itl)
            self.batched_tokens += bursts.batched_count
            self.itl.add(row, *token_runs_ns(bursts), span_ns)
        if self._inter_chunk is not None:
            self._inter_chunk.add(row, [gap for gap in gaps if gap > BURST_NS])

    def _add_row(self, record: RequestRecord, times: TokenTimes, seen: int, max_gap: int) -> None:
        first = times.stamps_ns[0] if times.stamps_ns else None
        last = times.stamps_ns[-1] if times.stamps_ns else None
        stages = stage_times_ns(record, last) if last is not None else (None,) * len(STAGES)
        row = (
            *(record.index, OUTCOMES.index(record.outcome), due_ns(record), record.planned_ns, record.sent_ns, record.end_ns),
            *(first, last, record.prompt_tokens, record.output_tokens, seen, max_gap),
            *(record.max_tokens, int(record.error_class == OWN_LIMIT), *stages),
        )
        for column, value in zip(self.columns.values(), row, strict=True):
            column.append(ABSENT if value is None else value)

    def rows(self, outcome: str | None = None) -> array[int]:
        """Row numbers in canonical order, of one outcome or of all."""
        if None not in self._rows or len(self._rows[None]) != len(self):
            self._rows = {None: self._ordered_rows()}
        if outcome not in self._rows:
            self._rows[outcome] = rows_with(self._rows[None], self.columns["outcome"], OUTCOMES.index(outcome or ""))
        return self._rows[outcome]

    def _ordered_rows(self) -> array[int]:
        due, index, end = self.columns["due"], self.columns["index"], self.columns["end"]
        return order_of(either(due, end), index, end)

    def request_values(self, name: str, rows: Sequence[int]) -> Sequence[int]:
        """A per-request metric of these rows, in their order, without those that don't have it."""
        return request_values(self.columns, name, rows)

    def percentiles_so_far(self, name: str, percentiles: tuple[str, ...] = ("50", "99")) -> dict[str, int] | None:
        """Nearest-rank percentiles (ns) of a per-request metric over the answers so far, for a live
        view; None before the first. Sorts what there is: call it once a second, not per record."""
        values = self.request_values(name, [row for row, kind in enumerate(self.columns["outcome"]) if kind == 0])
        if not values:
            return None
        ordered = sort_values(values)
        return {text: percentile(ordered, parse_percentile(text)) for text in percentiles}


def accumulated(records: Iterable[RequestRecord]) -> Accumulator:
    """All of them; those of a folder with its recount."""
    counted = read_recount(records.folder)[0] if isinstance(records, RunRecords) else None
    return Accumulator(counted).add_all(records)
