"""Many records into an accumulator at once, with numpy: the same columns as one record at a time.

A block is some consecutive records. Their stamps are laid out flat, and gaps, token intervals and
largest gaps of all of them are computed together; all is integer arithmetic, so both ways give the
same values bit for bit. A block with a number so large that a difference could leave 64 bits is left to the other way.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

from bytemlperf.statistics.arrays import ABSENT, ClusteredColumn
from bytemlperf_llm.metrics.definitions import BURST_NS, STAGES, stage_times_ns
from bytemlperf_llm.record.record import RequestRecord

BLOCK_RECORDS = 256
BLOCK_STAMPS = 1 << 18
BLOCK_TOKENS = 1 << 40  # in a chunk: sums over a block of chunks stay within 64 bits
_SAFE_NS = 1 << 60


class Runs(NamedTuple):
    """Values of requests in their order, flat (int64): how many `runs` each request has, how often each run's value
    comes (None: once), and how many values and what total that is for each request."""

    values: Any
    counts: Any | None
    runs: Any
    lengths: Any
    sums: Any


class Block(NamedTuple):
    """What records' chunks come to: the requests' ITL and silences between bursts. Requests without a token have ABSENT
    for `first`, `last`; without a gap for `max_gap`."""

    first: Any
    last: Any
    chunks: Any
    seen: Any
    batched: Any
    max_gap: Any
    silences: Runs
    intervals: Runs
    several: bool  # some burst of an answer has several tokens


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
    if tokens is not None and len(tokens) and int(tokens.max()) > BLOCK_TOKENS:
        return None
    edges = _edges(counts, numpy)
    starts, filled = edges[:-1], counts > 0
    first, last = (numpy.full(len(counts), ABSENT, "i8") for _ in range(2))
    first[filled], last[filled] = stamps[starts[filled]], stamps[edges[1:][filled] - 1]
    spans = numpy.where(filled, last - first, 0)
    after_first = numpy.ones(len(stamps), bool)
    after_first[starts[filled]] = False
    gaps = numpy.where(after_first, numpy.diff(stamps, prepend=0), 0)
    gap_counts = numpy.maximum(counts - 1, 0)
    between = gaps[after_first]
    max_gap = _largest(between, gap_counts, numpy)
    if tokens is None and (not len(between) or int(between.min()) > BURST_NS):
        alone = Runs(between, None, gap_counts, gap_counts, spans)
        return Block(first, last, counts, counts, numpy.zeros(len(counts), "i8"), max_gap, alone, alone, several=False)
    seen = counts if tokens is None else _sums(tokens, edges, numpy)
    silences, intervals, batched = _bursts(gaps, numpy.ones(len(stamps), "i8") if tokens is None else tokens, after_first, edges, numpy)
    intervals = intervals._replace(lengths=numpy.maximum(seen - 1, 0), sums=spans)
    return Block(first, last, counts, seen, batched, max_gap, silences, intervals, several=bool(batched[_ok(records, numpy)].any()))


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


def _bursts(gaps: Any, tokens: Any, after_first: Any, edges: Any, numpy: Any) -> tuple[Runs, Runs, Any]:
    """`definitions.bursts_of` and `token_runs_ns` of many requests: silences before their bursts, intervals (without
    their lengths and sums), and how many tokens of each came in bursts of several. `gaps` are 0 before a first chunk."""
    begins = ~after_first | (gaps > BURST_NS)
    at = numpy.flatnonzero(begins)
    bursts = _sums(begins, edges, numpy)
    shared, of_burst = (numpy.add.reduceat(values, at) if len(at) else values for values in (gaps, tokens))
    intervals = of_burst - ~after_first[at]
    share, rest = numpy.divmod(shared, numpy.maximum(intervals, 1))
    values, counts = (numpy.stack(pair, axis=1).ravel() for pair in ((share + 1, share), (rest, intervals - rest)))
    filled = counts > 0
    runs = _sums(filled, 2 * _edges(bursts, numpy), numpy)
    silences = _runs_of(gaps[begins & after_first], numpy.maximum(bursts - 1, 0), numpy)
    several = _sums(numpy.where(of_burst > 1, of_burst, 0), _edges(bursts, numpy), numpy)
    return silences, Runs(values[filled], counts[filled], runs, runs, runs), several


def _runs_of(values: Any, lengths: Any, numpy: Any) -> Runs:
    return Runs(values, None, lengths, lengths, _sums(values, _edges(lengths, numpy), numpy))


def _largest(values: Any, counts: Any, numpy: Any) -> Any:
    """The largest value of each request, ABSENT where it has none."""
    largest = numpy.full(len(counts), ABSENT, "i8")
    some = counts > 0
    if some.any():
        largest[some] = numpy.maximum.reduceat(values, _edges(counts, numpy)[:-1][some])
    return largest


def _ok(records: Sequence[RequestRecord], numpy: Any) -> Any:
    return numpy.array([record.outcome == "ok" for record in records], bool)


def add_clusters(column: ClusteredColumn, row: int, ok: Any, added: Runs, numpy: Any) -> None:
    """Append the clusters of the answers among a block's requests, whose first row is `row`."""
    kept = ok & (added.runs > 0)
    chosen = numpy.repeat(kept, added.runs)
    counts = None if added.counts is None else added.counts[chosen]
    column.add_many(numpy.nonzero(kept)[0] + row, added.values[chosen], counts, *(each[kept] for each in added[2:]))


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
