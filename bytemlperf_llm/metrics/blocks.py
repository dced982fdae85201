"""Many records into an accumulator at once, with numpy: the same columns as one record at a time.

A block is some consecutive records. Their stamps are laid out flat, and gaps, token intervals and
largest gaps of all of them are computed together; all is integer arithmetic, so both ways give the
same values bit for bit. A block with a number so large that a difference could leave 64 bits, or with
chunks of very many tokens, is left to the other way.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

from bytemlperf_llm.metrics.arrays import ABSENT, ClusteredColumn
from bytemlperf_llm.metrics.definitions import STAGES, stage_times_ns
from bytemlperf_llm.runs.record import RequestRecord

BLOCK_RECORDS = 256
BLOCK_STAMPS = 1 << 18
BLOCK_TOKENS = 1 << 22
_SAFE_NS = 1 << 60


class Block(NamedTuple):
    """What records' chunks come to. `ok` marks answers; `gaps` and `intervals` (int64, flat) belong
    to requests in their order, `gap_counts` and `interval_counts` to each. Requests without a token have
    ABSENT for `first`, `last`; without a gap for `max_gap`."""

    first: Any
    last: Any
    seen: Any
    batched: Any
    max_gap: Any
    gaps: Any
    gap_counts: Any
    intervals: Any
    interval_counts: Any
    several: bool  # some chunk of an answer carries several tokens


def blocks_of(records: Iterable[RequestRecord]) -> Iterator[list[RequestRecord]]:
    """Consecutive records, so many at a time that their stamps fit into a cache."""
    block: list[RequestRecord] = []
    stamps = 0
    for record in records:
        block.append(record)
        stamps += len(record.chunk_ns)
        if len(block) >= BLOCK_RECORDS or stamps >= BLOCK_STAMPS:
            yield block
            block, stamps = [], 0
    if block:
        yield block


def block_of(records: Sequence[RequestRecord], numpy: Any) -> Block | None:
    """None where one record at a time must do it."""
    stamps, tokens, counts = _flat(records, numpy)
    if len(stamps) and (int(stamps.max()) > _SAFE_NS or int(stamps.min()) < -_SAFE_NS):
        return None
    if tokens is not None and ((len(tokens) and int(tokens.max()) > BLOCK_TOKENS) or int(tokens.sum()) > BLOCK_TOKENS):
        return None
    edges = _edges(counts, numpy)
    starts, filled = edges[:-1], counts > 0
    first, last = (numpy.full(len(counts), ABSENT, "i8") for _ in range(2))
    first[filled], last[filled] = stamps[starts[filled]], stamps[edges[1:][filled] - 1]
    after_first = numpy.ones(len(stamps), bool)
    after_first[starts[filled]] = False
    gaps = numpy.diff(stamps, prepend=0)
    gap_counts = numpy.maximum(counts - 1, 0)
    between = gaps[after_first]
    if tokens is None:
        seen, batched, intervals, interval_counts, several = counts, numpy.zeros(len(counts), "i8"), between, gap_counts, False
    else:
        seen = _sums(tokens, edges, numpy)
        batched = _sums(numpy.where(tokens > 1, tokens, 0), edges, numpy)
        intervals = _shared(numpy.where(after_first, gaps, 0), tokens, tokens - ~after_first, numpy)
        interval_counts, several = numpy.maximum(seen - 1, 0), bool(batched[_ok(records, numpy)].any())
    max_gap = _largest(between, gap_counts, numpy)
    return Block(first, last, seen, batched, max_gap, between, gap_counts, intervals, interval_counts, several)


def _flat(records: Sequence[RequestRecord], numpy: Any) -> tuple[Any, Any | None, Any]:
    """Stamps and tokens of all token-carrying chunks, and how many each request has. Tokens are None
    where every chunk carries one."""
    if all(record.tokens_per_chunk.count(1) == len(record.tokens_per_chunk) == len(record.chunk_ns) for record in records):
        counts = numpy.array([len(record.chunk_ns) for record in records], "i8")
        return _ints((record.chunk_ns for record in records), counts, numpy), None, counts
    both = [min(len(record.chunk_ns), len(record.tokens_per_chunk)) for record in records]
    lengths = numpy.array(both, "i8")
    stamps = _ints((record.chunk_ns[:length] for record, length in zip(records, both, strict=True)), lengths, numpy)
    tokens = _ints((record.tokens_per_chunk[:length] for record, length in zip(records, both, strict=True)), lengths, numpy)
    carries = tokens > 0
    return stamps[carries], tokens[carries], _sums(carries, _edges(lengths, numpy), numpy)


def _ints(parts: Iterable[Sequence[int]], counts: Any, numpy: Any) -> Any:
    return numpy.fromiter(chain.from_iterable(parts), "i8", int(counts.sum()))


def _edges(counts: Any, numpy: Any) -> Any:
    edges = numpy.zeros(len(counts) + 1, "i8")
    numpy.cumsum(counts, out=edges[1:])
    return edges


def _sums(values: Any, edges: Any, numpy: Any) -> Any:
    """Per request; none is 0."""
    upto = numpy.zeros(len(values) + 1, "i8")
    numpy.cumsum(values, out=upto[1:])
    return upto[edges[1:]] - upto[edges[:-1]]


def _shared(gaps: Any, tokens: Any, intervals: Any, numpy: Any) -> Any:
    """`definitions.token_gaps_ns` of many requests: each chunk's gap shared among its tokens."""
    share, rest = numpy.divmod(gaps, tokens)
    place = numpy.arange(int(intervals.sum())) - numpy.repeat(_edges(intervals, numpy)[:-1], intervals)
    return numpy.repeat(share, intervals) + (place < numpy.repeat(rest, intervals))


def _largest(values: Any, counts: Any, numpy: Any) -> Any:
    """The largest value of each request, ABSENT where it has none."""
    largest = numpy.full(len(counts), ABSENT, "i8")
    some = counts > 0
    if some.any():
        largest[some] = numpy.maximum.reduceat(values, _edges(counts, numpy)[:-1][some])
    return largest


def _ok(records: Sequence[RequestRecord], numpy: Any) -> Any:
    return numpy.array([record.outcome == "ok" for record in records], bool)


def add_clusters(column: ClusteredColumn, row: int, ok: Any, values: Any, counts: Any, sums: Any, numpy: Any) -> None:
    """Append the clusters of the answers among a block's requests, whose first row is `row`."""
    kept = ok & (counts > 0)
    chosen = values[numpy.repeat(kept, counts)]
    column.add_many(numpy.nonzero(kept)[0] + row, chosen, counts[kept], sums[kept])


def stage_columns(records: Sequence[RequestRecord], last: Any) -> list[list[int]]:
    """One list for each of STAGES."""
    if all(record.stages is None for record in records):
        return [[ABSENT] * len(records)] * len(STAGES)
    rows = [
        stage_times_ns(record, end) if end != ABSENT else (None,) * len(STAGES)
        for record, end in zip(records, last.tolist(), strict=True)
    ]  # fmt: skip
    return [[ABSENT if value is None else value for value in column] for column in zip(*rows, strict=True)]


def extend(column: array[int], values: Any) -> None:
    """Append a numpy array of int64."""
    column.frombytes(values.astype("i8", copy=False).tobytes())
